"""The settings of a training image, and the function that declares a setting.

`runs/settings.py` (config.pp), `data/augment.py` and the recipes take their
fields and defaults from here. This module does not import TensorFlow.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

REQUIRED = dataclasses.MISSING  # default of a setting without a default value
DTYPES = ('float32', 'uint8')  # of training images
ORIENTATIONS = ('exif', 'none')  # 'exif': turned upright; 'none': as stored
# Means and deviations of the channels of ImageNet's training images, of pixels
# in 0..255, from timm (data/constants.py) and torchvision.
IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


def setting(
  default: Any,
  help: str,
  *,
  heading: str = '',
  least: float | None = None,
  below: float | None = None,
  most: float | None = None,
  choices: Iterable[str] = (),
  needs: tuple[str, str | None] | None = None,
  unused_by: Iterable[str] = (),
  keys: type | None = None,
) -> Any:
  """Declares a setting: a dataclass field with its help and bounds as metadata.

  A setting is optional if its annotation has `| None`.

  Args:
    default: the value, a function that makes it, or `REQUIRED`.
    help: the effect of the setting, for `main --help_config`.
    heading: starts a group of `main --help_config` at this setting.
    least: the smallest number allowed; required if there is any bound.
    below: an upper bound for fractions that is not allowed itself.
    most: the largest number allowed.
    choices: the strings allowed.
    needs: (key, value) without which the setting has no effect; value None
      means any value that is not empty.
    unused_by: values of `objective` that do not use the setting.
    keys: a dataclass of the settings in this group of settings.

  Returns:
    The field that `dataclasses.field` returns.
  """
  metadata = dict(
    help=help,
    heading=heading,
    least=least,
    below=below,
    most=most,
    choices=tuple(choices),
    needs=needs,
    unused_by=tuple(unused_by),
    keys=keys,
  )
  if callable(default):
    return dataclasses.field(default_factory=default, metadata=metadata)
  return dataclasses.field(default=default, metadata=metadata)


def defaults_of(cls: Any) -> dict[str, Any]:
  """Returns a dataclass's default values, without default factories."""
  return {
    field.name: field.default
    for field in dataclasses.fields(cls)
    if field.default is not REQUIRED
  }


@dataclasses.dataclass(frozen=True)
class ImageSettings:
  """The preparation and augmentation of a training image.

  The order is: box, resize, crop, flip, shift, RandAugment.
  `augment.Augmentation` rejects values outside the bounds.
  """

  crop: Any = setting(
    REQUIRED, 'Pixels of the image that the model sees, S or (H, W).'
  )
  resize: Any = setting(
    None,
    'Pixels, S or (H, W), that the image, or the box cut out of it, is resized '
    'to before a random `crop` is taken. None: it is resized to `crop` itself.',
  )
  inception_crop: bool = setting(
    True, 'First cut out a random box of 5-100 % of the area.'
  )
  exact_decode: bool = setting(
    False,
    'Decode the whole JPEG even where a box is cut out of it, for exactly the '
    "original's pixels. Otherwise the decoder starts at the box. This changes "
    "0.05 % of the values, at the box's edges, by up to 25 of 255, and does "
    'not notice a file that is cut short below the box.',
  )
  reduced_decode: bool = setting(
    False,
    'Decode a large JPEG, or the box cut out of it, at 1/2, 1/4 or 1/8 of its '
    'size where that is still at least `resize`. Faster for photographs of '
    'several megapixels, but the pixels differ (docs/data.md). Evaluation '
    'never uses it.',
  )
  orientation: str | None = setting(
    None,
    "'exif': turn photographs upright by the orientation in their EXIF data; "
    "'none': take them as they are stored, as the original code does. None: "
    "'exif' for a folder of images, 'none' for other data sets. Evaluation "
    'reads in the same way.',
    choices=ORIENTATIONS,
  )
  flip: bool = setting(
    True, 'Swap left and right in a random half of the images.'
  )
  legacy_always_flip: bool = setting(
    False,
    "Swap left and right in every image, as BiT's TensorFlow and JAX pipelines "
    'do (input_pipeline_tf2_or_jax.py of big_transfer). Images for evaluation '
    'are never flipped.',
  )
  shift: int = setting(
    0,
    'Move the image by up to this many pixels along each axis. Pixels of the '
    'edge are repeated.',
    least=0,
  )
  randaugment_layers: int = setting(
    0,
    'Operations of RandAugment applied to an image. 0: no RandAugment.',
    least=0,
  )
  randaugment_magnitude: int = setting(
    10,
    "Strength of these operations: at most 20 for 'big_vision', 10 for 'deit'.",
    least=0,
  )
  randaugment_policy: str = setting(
    'big_vision',
    "The operations and their scale: 'big_vision' is AugReg's RandAugment, "
    "'deit' is DeiT's. See data/randaugment.py.",
    choices=('big_vision', 'deit'),
  )
