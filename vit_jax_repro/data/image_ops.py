"""RandAugment's operations on an image, one function each.

Images and results are [H, W, 3] uint8 tensors of the same shape. H and W may be
unknown. Unless its docstring names an exception, a function equals Pillow's
function of the same name bit for bit (`ImageOps`, `ImageEnhance`,
`Image.transform`). Amounts are numbers or scalar tensors.
"""

import math
from collections.abc import Sequence
from typing import Any

from vit_jax_repro.data.tf_host import tensorflow

# ITU-R 601-2 luma in units of 1 / 65536, as Pillow's convert('L') has it.
_LUMA = (19595.0, 38470.0, 7471.0)
_LUMA_UNIT = 65536.0
_SMOOTH = 1 / 13  # Pillow's ImageFilter.SMOOTH: 5 in the middle, 1 around it
# Added before decimals are truncated. TensorFlow's order of summation, which
# differs between graphs and eager mode, then cannot change a whole number.
_EXCESS = 1e-9
_SOLARIZE_ADD_BELOW = 128  # timm's and big_vision's threshold


def autocontrast(image: Any) -> Any:
  """Stretches each channel to 0..255; a constant channel stays as it is."""
  tf = tensorflow()
  low, high = (
    tf.cast(extreme(image, [0, 1]), tf.float64)
    for extreme in (tf.reduce_min, tf.reduce_max)
  )
  single = high == low
  scale = tf.where(single, tf.ones_like(low), 255 / (high - low))
  offset = tf.where(single, tf.zeros_like(low), -low * scale)
  stretched = tf.cast(image, tf.float64) * scale + offset
  return tf.cast(tf.clip_by_value(stretched, 0, 255), tf.uint8)


def equalize(image: Any) -> Any:
  """Makes the levels of each channel about equally frequent."""
  tf = tensorflow()
  counts = tf.math.bincount(
    tf.reshape(_by_channel(image), [-1]), minlength=768, maxlength=768
  )
  counts = tf.reshape(counts, [3, 256])
  size = tf.reduce_sum(counts, 1, keepdims=True)
  highest = tf.cast(tf.reduce_max(image, [0, 1]), tf.int32)[:, None]
  last = tf.gather(counts, highest, batch_dims=1)
  step = (size - last) // 255
  levels = tf.cumsum(counts, 1, exclusive=True) + step // 2
  levels = tf.minimum(levels // tf.maximum(step, 1), 255)
  return _looked_up(image, tf.where(step > 0, levels, tf.range(256)[None]))


def invert(image: Any) -> Any:
  """Subtracts every value from 255."""
  return 255 - image


def posterize(image: Any, bits: Any) -> Any:
  """Keeps the `bits` highest bits of every value; bits: an int32 in 0..8."""
  tf = tensorflow()
  mask = 256 - tf.bitwise.left_shift(1, 8 - bits)
  return tf.bitwise.bitwise_and(image, tf.cast(mask, tf.uint8))


def solarize(image: Any, threshold: Any) -> Any:
  """Inverts the values that are at least `threshold`, an int32 in 0..256."""
  tf = tensorflow()
  kept = image < tf.cast(tf.minimum(threshold, 255), tf.uint8)
  return tf.where(kept | (threshold > 255), image, 255 - image)


def solarize_add(image: Any, addition: Any) -> Any:
  """Adds `addition`, 0..255, to the values below 128, and clips at 255.

  As timm; Pillow has no such function.
  """
  tf = tensorflow()
  added = image + tf.minimum(tf.cast(addition, tf.uint8), 255 - image)
  return tf.where(image < _SOLARIZE_ADD_BELOW, added, image)


def color(image: Any, factor: Any) -> Any:
  """Changes the colourfulness. 0: grey; 1: the image; above 1: more colour."""
  image = tensorflow().cast(image, 'float32')
  return _blend(_grey(image), image, factor)


def contrast(image: Any, factor: Any, *, middle: Any = None) -> Any:
  """Changes the contrast. 0: all `middle`; 1: the image; above 1: more.

  Args:
    image: [H, W, 3] uint8.
    factor: a number or float scalar.
    middle: a float scalar; None takes the mean grey level, rounded.
  """
  tf = tensorflow()
  image = tf.cast(image, tf.float32)
  if middle is None:
    mean = tf.reduce_mean(tf.cast(_grey(image), tf.float64))
    middle = tf.cast(tf.floor(mean + 0.5), tf.float32)
  return _blend(middle, image, factor)


def brightness(image: Any, factor: Any) -> Any:
  """Changes the brightness. 0: black; 1: the image; above 1: brighter."""
  return _blend(0.0, tensorflow().cast(image, 'float32'), factor)


def sharpness(image: Any, factor: Any) -> Any:
  """Changes the sharpness. 0: smoothed; 1: the image; above 1: sharper.

  The outermost pixels stay as they are.
  """
  tf = tensorflow()
  height, width = tf.unstack(tf.shape(image)[:2])
  image = tf.cast(image, tf.float32)
  sums = tf.pad(image, [[1, 1], [1, 1], [0, 0]])
  sums = sums[:-2] + sums[1:-1] + sums[2:]
  sums = sums[:, :-2] + sums[:, 1:-1] + sums[:, 2:]
  smooth = tf.floor((sums + 4 * image) * _SMOOTH + 0.5)
  inside = _within(height, 1, height - 1)[:, None, None]
  inside &= _within(width, 1, width - 1)[None, :, None]
  return _blend(tf.where(inside, smooth, image), image, factor)


def cutout(image: Any, center: Sequence[Any], half: Any, fill: Any) -> Any:
  """Fills a square, which may be partly outside the image.

  Args:
    image: [H, W, 3] uint8.
    center: (y, x), integers; the pixel below and right of the square's middle.
    half: half a side of the square in pixels, an integer.
    fill: the new value, an integer.
  """
  tf = tensorflow()
  height, width = tf.unstack(tf.shape(image)[:2])
  box = _within(height, center[0] - half, center[0] + half)[:, None, None]
  box &= _within(width, center[1] - half, center[1] + half)[None, :, None]
  return tf.where(box, tf.cast(fill, tf.uint8), image)


def rotation(
  degrees: Any, center: Sequence[Any]
) -> tuple[Sequence[Any], Sequence[Any]]:
  """Returns the `x` and `y` arguments of `nearest` for a rotation.

  Args:
    degrees: angle, a number or float scalar.
    center: (y, x) of the fixed point.
  """
  tf = tensorflow()
  angle = math.pi / 180 * degrees
  cos, sin = tf.cos(angle), tf.sin(angle)
  y, x = center
  return (cos, -sin, x - cos * x + sin * y), (sin, cos, y - sin * x - cos * y)


def nearest(
  image: Any,
  x: Sequence[Any] = (1, 0, 0),
  y: Sequence[Any] = (0, 1, 0),
  *,
  fill: float,
) -> Any:
  """Applies an affine transform with nearest-neighbour interpolation.

  As `tfa.image.transform`, not as Pillow: coordinates start at the centre of
  the first pixel.

  Args:
    image: [H, W, 3] uint8.
    x, y: three floats each; the pixel at (x, y) takes the value at
      (x[0] x + x[1] y + x[2], y[0] x + y[1] y + y[2]).
    fill: value of pixels from outside the image.
  """
  tf = tensorflow()
  transform = tf.stack([tf.cast(value, tf.float32) for value in (*x, *y, 0, 0)])
  return tf.raw_ops.ImageProjectiveTransformV3(
    images=image[None],
    transforms=transform[None],
    output_shape=tf.shape(image)[:2],
    fill_value=float(fill),
    interpolation='NEAREST',
    fill_mode='CONSTANT',
  )[0]


def bicubic(
  image: Any,
  x: Sequence[Any] | None = None,
  y: Sequence[Any] | None = None,
  *,
  fill: Sequence[int],
) -> Any:
  """Applies an affine transform with bicubic interpolation.

  As Pillow's `Image.transform` and `Image.rotate`, except that single values
  differ by one level. Coordinates start at the corner of the first pixel, and
  the kernel's parameter is -1.

  Args:
    image: [H, W, 3] uint8.
    x, y: see `nearest`; None if all pixels stay in their columns or rows.
    fill: three values, the colour of pixels from outside the image.
  """
  tf = tensorflow()
  height, width = tf.unstack(tf.shape(image)[:2])
  columns, rows = tf.range(width)[None], tf.range(height)[:, None]
  pixels = tf.reshape(tf.cast(image, tf.float64), [-1, 3])

  def origin(terms, size):
    a, b, c = (tf.cast(value, tf.float64) for value in terms)
    at_x, at_y = (tf.cast(at, tf.float64) + 0.5 for at in (columns, rows))
    place = a * at_x + b * at_y + c
    return place, (place >= 0) & (place < tf.cast(size, tf.float64))

  def in_row(row):
    if x is None:
      return tf.gather(pixels, row * width + columns)
    return _cubic(
      lambda column: tf.gather(pixels, row * width + column), at_x, width
    )

  inside = tf.ones([1, 1], tf.bool)
  if x is not None:
    at_x, inside = origin(x, width)
  if y is None:
    moved = in_row(rows)
  else:
    at_y, inside_y = origin(y, height)
    inside &= inside_y
    moved = _cubic(in_row, at_y, height)
  moved = tf.cast(tf.clip_by_value(moved + _EXCESS, 0, 255), tf.uint8)
  return tf.where(inside[..., None], moved, tf.constant(fill, tf.uint8))


def _cubic(pick, place, size):
  """Interpolates pick(0 .. size - 1) at `place` by a cubic of four values."""
  tf = tensorflow()
  first = tf.floor(place - 0.5)
  t = (place - 0.5 - first)[..., None]
  first = tf.cast(first, tf.int32)
  a, b, c, d = (
    pick(tf.clip_by_value(first + offset, 0, size - 1))
    for offset in range(-1, 3)
  )
  # In this form, also Pillow's, four equal values give exactly that value.
  return b + t * (c - a + t * (2 * (a - b) + c - d + t * (b - a + d - c)))


def _grey(image):  # [H, W, 3] float32 -> [H, W, 1] float32, whole numbers
  tf = tensorflow()
  # All sums are integers below 2 ** 24, which float32 represents exactly.
  luma = tf.tensordot(image, tf.constant(_LUMA)[:, None], 1)
  return tf.floor((luma + _LUMA_UNIT / 2) / _LUMA_UNIT)


def _blend(start, end, factor):  # float32 levels -> uint8
  tf = tensorflow()
  mixed = start + tf.cast(factor, tf.float32) * (end - start)
  return tf.cast(tf.clip_by_value(mixed, 0, 255), tf.uint8)


def _within(size, begin, end):  # [size] booleans
  positions = tensorflow().range(size)
  return (positions >= begin) & (positions < end)


def _by_channel(image):  # [H, W, 3] int32 in 0..767
  tf = tensorflow()
  return tf.cast(image, tf.int32) + tf.constant([0, 256, 512])


def _looked_up(image, tables):  # tables: [3, 256], a row for each channel
  tf = tensorflow()
  tables = tf.reshape(tf.cast(tables, tf.uint8), [-1])
  return tf.gather(tables, _by_channel(image))
