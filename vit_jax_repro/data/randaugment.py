"""RandAugment as in AugReg and in DeiT: a sequence of random operations.

image_ops.py implements the operations. This file defines which operations a
policy draws from and how a magnitude scales each of them.
"""

from typing import Any

from vit_jax_repro.data import image_ops
from vit_jax_repro.data.order import fold_in
from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.errors import InputError

# The random keys of a layer.
_OPERATION, _SIGN, _PLACE, _WHETHER, _MAGNITUDE = range(5)

# big_vision/pp/autoaugment.py: _MAX_LEVEL, and the arguments of RandAugment.
_MAX_LEVEL = 10
_CUTOUT = 40  # pixels, half a side, at magnitude 10
_TRANSLATE = 100  # pixels at magnitude 10
_BIG_VISION_FILL = 128
# Amounts at magnitude 10, the same in both sources.
_ROTATE = 30.0  # degrees
_SHEAR = 0.3
_SOLARIZE_ADD = 110
# timm/data/auto_augment.py.
_TRANSLATE_PART = 0.45  # of a side, at magnitude 10
_ENHANCE = 0.9  # at magnitude 10
_LEAST_FACTOR = 0.1
_DEIT_PROBABILITY = 0.5
_DEIT_STD = 0.5  # 'mstd0.5' in the name of DeiT's policy
# timm/data/transforms_factory.py: ImageNet's mean, 0.485 0.456 0.406 of 255.
_DEIT_FILL = (124, 116, 104)


def randaugment(
  image: Any,
  key: Any,
  *,
  layers: int,
  magnitude: float,
  policy: str = 'big_vision',
) -> Any:
  """Applies `layers` operations to an image, each drawn uniformly.

  'big_vision' is AugReg's policy. The RandAugment paper (arXiv:1909.13719) has
  magnitudes up to 30. Here the scale is 10, and larger magnitudes extrapolate
  linearly. Further differences from the paper:
    - 16 operations instead of 14: without identity, with Invert, SolarizeAdd
      and Cutout;
    - contrast blends with the level H * W / 256, at most 255 (196 at 224 x
      224 pixels), instead of the mean grey level;
    - colour, contrast, brightness and sharpness take 0.1 + 0.18 * magnitude:
      the effect is weakest at 5, and strong at 0;
    - solarize's threshold, 25.6 * magnitude, is stored in eight bits: 0 at
      magnitudes 0, 10 and 20, which inverts the image, and 128 at 15
      (google-research/big_vision issue 110);
    - posterize keeps 0.4 * magnitude bits, more at higher magnitudes, and at
      least one, because TensorFlow shifts eight bits by seven at most.
  Colour, autocontrast and sharpness round as in Pillow. big_vision's own
  operations may differ by one level.

  'deit' with `magnitude` 9 and `layers` 2 is timm's 'rand-m9-mstd0.5-inc1':
    - 15 operations, without Cutout; each is skipped with probability 0.5;
    - magnitudes are drawn from a normal distribution around `magnitude` and
      clipped to 0..10; a higher magnitude is a stronger effect for each
      operation;
    - geometric operations use bicubic interpolation, DeiT's training
      interpolation, and fill with ImageNet's mean colour.

  Args:
    image: [H, W, 3] uint8; H and W may be unknown.
    key: [2] int64, see order.py.
    layers: an int, at least 0.
    magnitude: an int or float; 0..20 for big_vision, 0..10 for deit.
    policy: 'big_vision' or 'deit'.

  Returns:
    [H, W, 3] uint8.

  Raises:
    InputError: layers, magnitude or policy is not allowed, or the image is not
      uint8.
  """
  check(layers=layers, magnitude=magnitude, policy=policy)
  tf = tensorflow()
  image = tf.convert_to_tensor(image)
  if image.dtype != tf.uint8:
    raise InputError(f'RandAugment takes uint8 images, not {image.dtype.name}')
  for layer in range(layers):
    changed = _one_layer(image, magnitude, fold_in(key, layer), policy)
    image = tf.ensure_shape(changed, image.shape)
  return image


def check(*, layers: int, magnitude: float, policy: str = 'big_vision') -> None:
  """Raises InputError if `randaugment` does not allow these settings."""
  if policy not in _POLICIES:
    raise InputError(
      f'unknown RandAugment {policy=}; choose from {sorted(_POLICIES)}'
    )
  if not isinstance(layers, int) or layers < 0:
    raise InputError(
      f'RandAugment {layers=} must be 0 or a positive number of operations'
    )
  _, largest = _POLICIES[policy]
  if not isinstance(magnitude, int | float) or not 0 <= magnitude <= largest:
    raise InputError(
      f'RandAugment {magnitude=} must lie in 0..{largest}, the range of '
      f'{policy!r}'
    )


def _one_layer(image, magnitude, key, policy):
  tf = tensorflow()
  if policy == 'deit':
    noise = tf.random.stateless_normal([], fold_in(key, _MAGNITUDE))
    magnitude = tf.clip_by_value(magnitude + _DEIT_STD * noise, 0, _MAX_LEVEL)
  operations, _ = _POLICIES[policy]
  branches = operations(image, magnitude / _MAX_LEVEL, key)
  index = tf.random.stateless_uniform(
    [], fold_in(key, _OPERATION), 0, len(branches), tf.int32
  )
  if policy == 'deit':
    whether = tf.random.stateless_uniform([], fold_in(key, _WHETHER))
    index = tf.where(whether < _DEIT_PROBABILITY, index, len(branches))
  # switch_case computes the drawn branch only. An index out of range takes the
  # last branch, which returns the image unchanged.
  return tf.switch_case(index, list(branches.values()), lambda: image)


def _big_vision(image, part, key):
  """Returns the operations by name, as functions without arguments.

  Args:
    image: [H, W, 3] uint8.
    part: the magnitude / 10, a float.
    key: [2] int64.
  """
  factor = 0.1 + 1.8 * part
  fill = _BIG_VISION_FILL

  def moved(*origin, **origins):
    return image_ops.nearest(image, *origin, **origins, fill=fill)

  def signed(amount):
    return _signed(amount, key)

  def level():  # number of pixels / 256, in place of the mean
    tf = tensorflow()
    pixels = tf.cast(tf.reduce_prod(tf.shape(image)[:2]), tf.float32)
    return tf.minimum(tf.floor(pixels / 256), 255)

  def cutout():
    tf = tensorflow()
    place = tf.random.stateless_uniform([2], fold_in(key, _PLACE))
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    center = tf.unstack(tf.cast(tf.floor(place * sides), tf.int32))
    return image_ops.cutout(image, center, int(part * _CUTOUT), fill)

  return {
    'AutoContrast': lambda: image_ops.autocontrast(image),
    'Equalize': lambda: image_ops.equalize(image),
    'Invert': lambda: image_ops.invert(image),
    'Rotate': lambda: moved(
      *image_ops.rotation(signed(part * _ROTATE), _center(image, -0.5))
    ),
    'Posterize': lambda: image_ops.posterize(image, max(1, int(part * 4))),
    'Solarize': lambda: image_ops.solarize(image, int(part * 256) % 256),
    'Color': lambda: image_ops.color(image, factor),
    'Contrast': lambda: image_ops.contrast(image, factor, middle=level()),
    'Brightness': lambda: image_ops.brightness(image, factor),
    'Sharpness': lambda: image_ops.sharpness(image, factor),
    'ShearX': lambda: moved(x=(1, signed(part * _SHEAR), 0)),
    'ShearY': lambda: moved(y=(signed(part * _SHEAR), 1, 0)),
    'TranslateX': lambda: moved(x=(1, 0, signed(part * _TRANSLATE))),
    'TranslateY': lambda: moved(y=(0, 1, signed(part * _TRANSLATE))),
    'Cutout': cutout,
    'SolarizeAdd': lambda: image_ops.solarize_add(
      image, int(part * _SOLARIZE_ADD)
    ),
  }


def _deit(image, part, key):
  """Returns operations as `_big_vision`; `part` is a float32 scalar tensor."""
  tf = tensorflow()

  def moved(*origin, **origins):
    return image_ops.bicubic(image, *origin, **origins, fill=_DEIT_FILL)

  def signed(amount):
    return _signed(amount, key)

  def factor():
    return tf.maximum(_LEAST_FACTOR, 1 + signed(part * _ENHANCE))

  def whole(amount):
    return tf.cast(amount, tf.int32)

  def far(axis):
    side = tf.cast(tf.shape(image)[axis], tf.float32)
    return signed(part * _TRANSLATE_PART) * side

  return {
    'AutoContrast': lambda: image_ops.autocontrast(image),
    'Equalize': lambda: image_ops.equalize(image),
    'Invert': lambda: image_ops.invert(image),
    'Rotate': lambda: moved(
      *image_ops.rotation(signed(part * _ROTATE), _center(image, 0.0))
    ),
    'PosterizeIncreasing': lambda: image_ops.posterize(
      image, 4 - whole(part * 4)
    ),
    'SolarizeIncreasing': lambda: image_ops.solarize(
      image, 256 - whole(part * 256)
    ),
    'SolarizeAdd': lambda: image_ops.solarize_add(
      image, whole(part * _SOLARIZE_ADD)
    ),
    'ColorIncreasing': lambda: image_ops.color(image, factor()),
    'ContrastIncreasing': lambda: image_ops.contrast(image, factor()),
    'BrightnessIncreasing': lambda: image_ops.brightness(image, factor()),
    'SharpnessIncreasing': lambda: image_ops.sharpness(image, factor()),
    'ShearX': lambda: moved(x=(1, signed(part * _SHEAR), 0)),
    'ShearY': lambda: moved(y=(signed(part * _SHEAR), 1, 0)),
    'TranslateXRel': lambda: moved(x=(1, 0, far(1))),
    'TranslateYRel': lambda: moved(y=(0, 1, far(0))),
  }


def _signed(amount, key):
  """Negates the amount with probability 0.5."""
  tf = tensorflow()
  number = tf.random.stateless_uniform([], fold_in(key, _SIGN))
  return tf.where(number < 0.5, -amount, amount)


def _center(image, origin):
  """Returns (y, x) of the image's centre.

  Coordinates start at the first pixel's corner, or at its centre if `origin` is
  -0.5.
  """
  tf = tensorflow()
  height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32) / 2)
  return height + origin, width + origin


_POLICIES = {  # name: (operations, largest magnitude)
  'big_vision': (_big_vision, 20),
  'deit': (_deit, _MAX_LEVEL),
}
