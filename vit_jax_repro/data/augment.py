"""From an encoded image file to the array a model is trained on.

The changes are random and each is drawn from its own key, made from the one
of the example, so that the same key always gives the same image. They are
those of the original code (`vit_jax/input_pipeline.py`: inception crop, flip)
and of BiT (`big_transfer`: resize, crop, flip), and a shift for the digits.
Letters in shapes: H W pixels of the result, h w pixels of the file.
"""

from vit_jax_repro.data.keys import fold_in
from vit_jax_repro.data.preprocess import (
  check_image_size,
  decode,
  normalize,
  squash,
)
from vit_jax_repro.data.tensorflow_cpu import tensorflow

_BOX, _CROP, _FLIP, _SHIFT = range(4)  # the keys, by what is drawn from them
_AREA_RANGE = (0.05, 1.0)  # of the inception crop: fractions of the image
_ASPECT_RATIO_RANGE = (0.75, 1.33)  # width / height; TensorFlow's default


def train_image(
  encoded,
  key,
  *,
  crop,
  resize=None,
  inception_crop=True,
  flip=True,
  shift=0,
):
  """Decodes an image, changes it at random, and scales it to [-1, 1].

  Args:
    encoded: scalar string, a whole JPEG, PNG, GIF or BMP file.
    key: [2] int64, see keys.py.
    crop: S or (H, W) pixels of the result.
    resize: S or (H, W) that the image, or the box cut out of it, is resized
      to before a random `crop` is taken; None resizes to `crop` at once.
    inception_crop: whether first a random box of the image is cut out.
    flip: whether left and right are swapped in half of the cases.
    shift: the largest move along each axis in pixels; what moves in repeats
      the edge.

  Returns:
    [H, W, 3] float32 in [-1, 1].

  Raises:
    ValueError: a size or shift that cannot be.
    tf.errors.InvalidArgumentError: the bytes are no image, or cut short.
  """
  crop, resize = check(crop=crop, resize=resize, shift=shift)
  tf = tensorflow()
  image = decode(encoded)  # [h, w, 3] uint8
  if inception_crop:
    begin, size = random_box(tf.shape(image), fold_in(key, _BOX))
    image = tf.slice(image, begin, size)
    image.set_shape([None, None, 3])
  image = squash(image, resize)
  if resize != crop:
    image = tf.image.stateless_random_crop(
      image, (*crop, 3), fold_in(key, _CROP)
    )
  if flip:
    image = tf.image.stateless_random_flip_left_right(
      image, fold_in(key, _FLIP)
    )
  if shift:
    image = _moved(image, shift, fold_in(key, _SHIFT))
  return normalize(tf.ensure_shape(image, (*crop, 3)))


def check(*, crop, resize=None, shift=0):
  """The sizes `crop` and `resize` as (H, W); see `train_image`.

  Raises:
    ValueError: a size or shift that cannot be.
  """
  crop = check_image_size(crop)
  resize = crop if resize is None else check_image_size(resize)
  if resize[0] < crop[0] or resize[1] < crop[1]:
    raise ValueError(
      f'{resize=} must be at least as large as {crop=}, which is cut out of it'
    )
  if not isinstance(shift, int) or shift < 0:
    raise ValueError(f'{shift=} must be 0 or a positive number of pixels')
  return crop, resize


def random_box(shape, key):
  """A box of 5 to 100 % of the image, its sides 3:4 to 4:3.

  The whole image where no such box is found, as in tiny or narrow images.

  Args:
    shape: [3] integers, of the image [h, w, 3].
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


def _moved(image, shift, key):  # [H, W, 3]
  tf = tensorflow()
  moves = tf.random.stateless_uniform([2], key, -shift, shift + 1, tf.int32)
  for axis in (0, 1):
    last = image.shape[axis] - 1
    origin = tf.clip_by_value(tf.range(last + 1) - moves[axis], 0, last)
    image = tf.gather(image, origin, axis=axis)
  return image
