"""Training preprocessing: from an encoded image file to an augmented image.

Each random operation has its own key, derived from the key of the example, so
the same key always gives the same image. The operations are those of the
original code (`vit_jax/input_pipeline.py`: inception crop, flip) and of BiT
(`big_transfer`: resize, crop, flip), RandAugment for AugReg and DeiT, and a
shift for the digits. Operations that mix the images of a batch, or that need
normalised images, run on the device: see training/mixing.py.
Letters in shapes: H W pixels of the result, h w pixels of the file.
"""

import dataclasses
from typing import Any

from vit_jax_repro.data import image_files, randaugment
from vit_jax_repro.data.image_settings import DTYPES, ImageSettings
from vit_jax_repro.data.order import fold_in
from vit_jax_repro.data.preprocess import (
  HALF,
  check_image_size,
  check_orientation,
  normalize,
  squash,
)
from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.errors import InputError

# The random keys of the operations.
_BOX, _CROP, _FLIP, _SHIFT, _RANDAUGMENT = range(5)
_AREA_RANGE = (0.05, 1.0)  # of the inception crop: fractions of the image
_ASPECT_RATIO_RANGE = (0.75, 1.33)  # width / height; TensorFlow's default
Tensor = Any  # a tf.Tensor; TensorFlow is imported only when it is needed


@dataclasses.dataclass(frozen=True)
class Augmentation(ImageSettings):
  """Checked image settings, and the scaling of pixel values.

  `crop` and `resize` are converted to (H, W). The default of `resize` is
  `crop`, that of `orientation` is 'none'.

  Raises:
    InputError: a size, shift, dtype or orientation is not allowed, `resize` is
      smaller than `crop`, `exact_decode` and `reduced_decode` are both set, or
      randaugment.check rejects a value.
  """

  # 'float32' gives (pixel - mean) / std. 'uint8' rounds pixel values; then the
  # device normalises them, and flips them if `flips_on_device`.
  dtype: str = 'float32'
  mean: tuple[float, float, float] = HALF  # in units of 0..255
  std: tuple[float, float, float] = HALF
  decoder: str = 'right'  # or 'original', see image_files.decode

  def __post_init__(self):
    crop = check_image_size(self.crop)
    resize = crop if self.resize is None else check_image_size(self.resize)
    object.__setattr__(self, 'crop', crop)
    object.__setattr__(self, 'resize', resize)
    object.__setattr__(self, 'orientation', self.orientation or 'none')
    check_orientation(self.orientation or 'none')
    if self.exact_decode and self.reduced_decode:
      raise InputError(
        'exact_decode=True and reduced_decode=True contradict each other; '
        'leave one of them out'
      )
    if resize[0] < crop[0] or resize[1] < crop[1]:
      raise InputError(
        f'{resize=} must be at least as large as {crop=}, which is cut out of '
        'it'
      )
    if not isinstance(self.shift, int) or self.shift < 0:
      raise InputError(
        f'shift={self.shift!r} must be 0 or a positive number of pixels'
      )
    randaugment.check(
      layers=self.randaugment_layers,
      magnitude=self.randaugment_magnitude,
      policy=self.randaugment_policy,
    )
    if self.dtype not in DTYPES:
      raise InputError(f'dtype={self.dtype!r} must be one of {DTYPES}')

  @property
  def flips_on_device(self) -> bool:
    """Returns whether the device flips images, because nothing follows here."""
    follows = self.shift or self.randaugment_layers
    flips = self.flip or self.legacy_always_flip
    return self.dtype == 'uint8' and flips and not follows


def train_example(
  encoded: Tensor, key: Tensor, augmentation: Augmentation
) -> dict[str, Tensor]:
  """Returns the image of `train_image`, and what the device does with it.

  Args:
    encoded, key, augmentation: see `train_image`.

  Returns:
    image [H, W, 3]; if `augmentation.flips_on_device`, also flip, a bool
    scalar: whether the device swaps left and right, see mixing.flip.
  """
  found = {'image': train_image(encoded, key, augmentation)}
  if augmentation.flips_on_device:
    found['flip'] = _is_flipped(key, augmentation)
  return found


def train_image(
  encoded: Tensor, key: Tensor, augmentation: Augmentation
) -> Tensor:
  """Decodes, augments and scales an image.

  Args:
    encoded: scalar string, a whole file of one of pillow.FORMATS.
    key: [2] int64, see order.py.
    augmentation: the settings.

  Returns:
    [H, W, 3] of the augmentation's dtype; not flipped if
    `augmentation.flips_on_device`.

  Raises:
    tf.errors.InvalidArgumentError: the bytes are not an image, or truncated.
  """
  tf = tensorflow()
  wanted = augmentation
  image = _cut_out(encoded, key, wanted)
  image = squash(image, wanted.resize)
  if wanted.resize != wanted.crop:
    image = tf.image.stateless_random_crop(
      image, (*wanted.crop, 3), fold_in(key, _CROP)
    )
  if wanted.legacy_always_flip and not wanted.flips_on_device:
    image = tf.reverse(image, [1])
  elif wanted.flip and not wanted.flips_on_device:
    image = tf.image.stateless_random_flip_left_right(
      image, fold_in(key, _FLIP)
    )
  if wanted.shift:
    image = _moved(image, wanted.shift, fold_in(key, _SHIFT))
  image = tf.ensure_shape(image, (*wanted.crop, 3))
  if wanted.randaugment_layers:
    image = randaugment.randaugment(
      to_uint8(image),
      fold_in(key, _RANDAUGMENT),
      layers=wanted.randaugment_layers,
      magnitude=wanted.randaugment_magnitude,
      policy=wanted.randaugment_policy,
    )
  if wanted.dtype == 'uint8':
    return to_uint8(image)
  return normalize(tf.cast(image, tf.float32), wanted.mean, wanted.std)


def to_uint8(image: Tensor) -> Tensor:  # [H, W, 3], values in 0..255
  """Rounds pixel values to uint8; returns a uint8 image unchanged."""
  tf = tensorflow()
  return image if image.dtype == tf.uint8 else tf.cast(tf.round(image), 'uint8')


def box_key(key: Tensor) -> Tensor:
  """Returns the key for the random box of `train_image`."""
  return fold_in(key, _BOX)


def random_box(shape: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
  """Draws a box of 5 to 100 % of the image with sides from 3:4 to 4:3.

  The box is the whole image if TensorFlow finds no such box, as in tiny or
  narrow images.

  Args:
    shape: [3] integers, the shape of the image [h, w, 3].
    key: [2] int64.

  Returns:
    begin, size: [3] integers each, for `tf.slice`.
  """
  tf = tensorflow()
  begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
    shape,
    tf.zeros([0, 0, 4]),
    key,
    min_object_covered=0.0,
    aspect_ratio_range=_ASPECT_RATIO_RANGE,
    area_range=_AREA_RANGE,
    use_image_if_no_bounding_boxes=True,
  )
  return begin, size


def decode_box(
  encoded: Tensor,
  key: Tensor,
  *,
  orientation: Tensor | None = None,
  resize: tuple[int, int] | None = None,
) -> Tensor:
  """Decodes a random box of a JPEG file, and little of the rest.

  The box is drawn on the upright image.

  Args:
    encoded: scalar string, a JPEG file.
    key: [2] int64, the key of the box.
    orientation: see image_files.orientation_of; None: the file is upright.
    resize: (height, width); if given, the box is decoded at the smallest of
      the scales 1/8, 1/4, 1/2 and 1 that is at least as large.

  Returns:
    [h, w, 3] uint8, the size of the box, or of the reduced box.
  """
  tf = tensorflow()
  shape = tf.io.extract_jpeg_shape(encoded)
  if orientation is None:
    begin, size = random_box(shape, key)
    window = tf.concat([begin[:2], size[:2]], axis=0)
    return image_files.decode_window(encoded, window, resize)
  shape = image_files.upright_shape(shape, orientation)
  begin, size = random_box(shape, key)
  window = image_files.stored_window(begin, size, shape, orientation)
  lies = orientation >= 5
  if resize is not None:
    resize = tf.where(lies, resize[::-1], resize)
  box = image_files.decode_window(encoded, window, resize)
  return image_files.upright(box, orientation)


def _is_flipped(key, wanted):
  """Returns the choice of `stateless_random_flip_left_right`, or True."""
  tf = tensorflow()
  if wanted.legacy_always_flip:
    return tf.constant(True)
  return tf.random.stateless_uniform([], fold_in(key, _FLIP)) < 0.5


def _cut_out(encoded, key, wanted):
  """Returns the pixels [h, w, 3] that `train_image` resizes."""
  tf = tensorflow()
  reading = dict(orientation=wanted.orientation, decoder=wanted.decoder)

  def whole():
    return image_files.decode(encoded, **reading)

  if not wanted.inception_crop:
    if not wanted.reduced_decode:
      return whole()
    return image_files.decode_reduced(encoded, wanted.resize, **reading)
  key = box_key(key)
  if wanted.exact_decode:
    return _box_of(whole(), key)
  resize = wanted.resize if wanted.reduced_decode else None

  def of_jpeg():
    orientation = None
    if wanted.orientation == 'exif':
      orientation = image_files.orientation_of(encoded)
    return decode_box(encoded, key, orientation=orientation, resize=resize)

  def of_others():
    return tf.cond(
      image_files.is_jpeg_for_tensorflow(encoded),
      of_jpeg,
      lambda: _box_of(whole(), key),
    )

  box = tf.cond(
    image_files.is_usual_jpeg(encoded, wanted.orientation),
    lambda: decode_box(encoded, key, resize=resize),
    of_others,
  )
  return tf.ensure_shape(box, [None, None, 3])


def _box_of(image, key):  # [h, w, 3]
  tf = tensorflow()
  begin, size = random_box(tf.shape(image), key)
  return tf.ensure_shape(tf.slice(image, begin, size), [None, None, 3])


def _moved(image, shift, key):  # [H, W, 3]
  tf = tensorflow()
  moves = tf.random.stateless_uniform([2], key, -shift, shift + 1, tf.int32)
  for axis in (0, 1):
    last = image.shape[axis] - 1
    origin = tf.clip_by_value(tf.range(last + 1) - moves[axis], 0, last)
    image = tf.gather(image, origin, axis=axis)
  return image
