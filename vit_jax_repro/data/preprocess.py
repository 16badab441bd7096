"""From an encoded image file to the array a model is evaluated on.

A preprocessing is called as `(encoded, image_size) -> image`, inside tf.data
as well as eagerly:

  encoded     scalar string tensor or bytes: a whole JPEG, PNG, GIF or BMP file
  image_size  (height, width) in pixels
  image       [height, width, 3] float32

It starts from the encoded file because recipes differ in the decoder too.
What each one does and what the choice costs: docs/data.md. Letters in shapes:
H W pixels of the result, h w pixels of the file.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from vit_jax_repro.data import pillow
from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.errors import InputError

# Channel means and deviations, in units of 0..255 pixel values.
HALF = (127.5, 127.5, 127.5)  # to [-1, 1]: all Google ViT, Mixer, BiT files
# Of ImageNet's training images, in timm (data/constants.py) and torchvision.
IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """One way to read an image for evaluation; call it as said at the top."""

  name: str  # as model.json and --preprocessing give it
  pixels: Callable[..., Any]  # (encoded, image_size) -> [H, W, 3] in [0, 255]
  source: str
  description: str
  decoder: str = 'TensorFlow'
  dct_method: str = 'INTEGER_FAST'  # of JPEG, by TensorFlow's names for them
  mean: tuple[float, float, float] = HALF  # subtracted, in units of 0..255
  std: tuple[float, float, float] = HALF  # divided by, in units of 0..255
  # image_size -> crop_pct, with the filter then an argument of `pixels`; None:
  # it has no such parameters.
  crop_pct: Callable[[tuple[int, int]], float] | None = None
  interpolation: str = 'bicubic'  # a key of pillow.FILTERS

  def __call__(self, encoded, image_size):  # bytes -> [H, W, 3] float32
    """Raises tf.errors.InvalidArgumentError: no image, or cut short."""
    options = {}
    if self.crop_pct is not None:
      options = dict(
        crop_pct=self.crop_pct(image_size), interpolation=self.interpolation
      )
    image = self.pixels(encoded, image_size, **options)
    return normalize(image, self.mean, self.std)


def decode(encoded):  # bytes -> [h, w, 3] uint8
  """Decodes to three channels, whatever the file has.

  JPEG goes through TensorFlow's default decoder (the fast, slightly inexact
  DCT), which the original pipelines use; Pillow differs by up to 18 of 255.
  Grey images are repeated, alpha is dropped, the first frame of a GIF is
  taken.

  Raises:
    tf.errors.InvalidArgumentError: the bytes are no image, or cut short.
  """
  tf = tensorflow()
  image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
  image.set_shape([None, None, 3])
  return image


def squash(  # [h, w, 3] -> [H, W, 3] float32
  image, image_size, *, method='bilinear', antialias=False
):
  """Resizes to exactly `image_size`, whatever that does to the proportions.

  Bilinear with half-pixel centres and without antialiasing, the defaults of
  `tf.image.resize`; an antialiased resize of a photograph moves single
  values by more than 1 in [-1, 1].
  """
  tf = tensorflow()
  image = tf.cast(image, tf.float32)  # faster than resizing integers, and equal
  return tf.image.resize(image, image_size, method=method, antialias=antialias)


def normalize(image, mean=HALF, std=HALF):  # [..., 3] float32, of [0, 255]
  """Subtracts and divides channel by channel; by default to [-1, 1]."""
  if len({*mean}) == len({*std}) == 1:  # one number is faster than three
    mean, std = mean[0], std[0]
  return (image - np.float32(mean)) / np.float32(std)


def _squashed(encoded, image_size):  # bytes -> [H, W, 3] float32
  return squash(decode(encoded), image_size)


# The short side before the crop. big_vision's configs name two pairs, 256 for
# 224 (vit_i1k.py, bit_i1k.py, load_and_eval.py) and 448 for 384 (transfer.py).
_SHORT_SIDE_FOR = {384: 448}
_SHORT_SIDE_RATIO = (8, 7)  # 256 / 224, for every other size


def _area_and_crop(encoded, image_size):  # bytes -> [H, W, 3] float32
  """`resize_small` and `central_crop` of big_vision (pp/ops_image.py).

  Resized by the area method to the smallest size that covers the short side
  (of either direction, where H and W differ), cut off to whole values, and
  cropped, where a half pixel goes to the top and left.
  """
  tf = tensorflow()
  image = decode(encoded)
  more, less = _SHORT_SIDE_RATIO
  short = [
    _SHORT_SIDE_FOR.get(side, side * more // less) for side in image_size
  ]
  size = tf.cast(tf.shape(image)[:2], tf.float32)
  factor = tf.reduce_max(tf.constant(short, tf.float32) / size)
  size = tf.cast(tf.round(size * factor), tf.int32)
  image = tf.cast(squash(image, size, method='area'), tf.uint8)
  top, left = tf.unstack((size - tf.constant(image_size)) // 2)
  image = tf.image.crop_to_bounding_box(image, top, left, *image_size)
  image.set_shape([*image_size, 3])
  return tf.cast(image, tf.float32)


def _resize_and_crop(  # bytes -> [H, W, 3] float32
  encoded, image_size, *, crop_pct, interpolation
):
  """timm's `transforms_imagenet_eval`, DeiT's `build_transform` (datasets.py).

  The short side is resized to size / crop_pct, rounded down. DeiT leaves
  images for 32 pixels and less (CIFAR) as they are; here they are resized.

  Raises:
    InputError: crop_pct makes a side of more than `MAX_IMAGE_SIZE`.
  """
  scaled = tuple(int(side / crop_pct) for side in image_size)
  if max(scaled) > MAX_IMAGE_SIZE:
    raise InputError(
      f'{crop_pct=} asks for {max(scaled)} pixels before the crop, above the '
      f'{MAX_IMAGE_SIZE} that are read; give a larger crop_pct'
    )
  image = pillow.resize_and_crop(encoded, image_size, scaled, interpolation)
  return tensorflow().cast(image, 'float32')


def _timm_crop_pct(image_size):
  """0.9, and 1.0 from 384 pixels: timm's vision_transformer.py, Google files.

  So too for its DeiT files (deit.py).
  """
  return 0.9 if min(image_size) < 384 else 1.0


def _deit_crop_pct(image_size):
  """The default of --eval-crop-ratio in DeiT's main.py, at every size."""
  del image_size
  return 0.875


_PILLOW = {'decoder': 'Pillow', 'dct_method': 'INTEGER_ACCURATE'}

# By name, as model.json and --preprocessing give it.
PREPROCESSINGS = {
  entry.name: entry
  for entry in (
    Preprocessing(
      'vit_jax',
      _squashed,
      source='google-research/vision_transformer, vit_jax/input_pipeline.py',
      description='squashed to the size, bilinear without antialiasing',
    ),
    Preprocessing(
      'bit',
      _squashed,
      source='google-research/big_transfer, bit_jax/input_pipeline_*.py',
      description='the same as vit_jax',
    ),
    Preprocessing(
      'big_vision',
      _area_and_crop,
      source='google-research/big_vision, pp/ops_image.py, configs/',
      description='short side by area (224 -> 256, 384 -> 448), central crop',
    ),
    Preprocessing(
      'timm',
      _resize_and_crop,
      **_PILLOW,
      source='huggingface/pytorch-image-models, data/transforms_factory.py',
      description='short side to size/crop_pct, bicubic, centre crop; [-1, 1]',
      crop_pct=_timm_crop_pct,
    ),
    Preprocessing(
      'deit',
      _resize_and_crop,
      **_PILLOW,
      mean=IMAGENET_MEAN,
      std=IMAGENET_STD,
      source='facebookresearch/deit, datasets.py',
      description="as timm, crop_pct 0.875, ImageNet's mean and deviation",
      crop_pct=_deit_crop_pct,
    ),
  )
}


# Far above any published model's 560; what is larger is a slip of the keyboard
# that would take all memory.
MAX_IMAGE_SIZE = 8192


def check_image_size(image_size):
  """Turns `S` or `(H, W)` into `(H, W)`, positive integers both.

  Raises:
    InputError: it is neither, or a side is above `MAX_IMAGE_SIZE`.
  """
  sides = image_size if isinstance(image_size, tuple | list) else (image_size,)
  sides = tuple(sides) * (2 if len(sides) == 1 else 1)
  if len(sides) != 2 or not all(
    isinstance(side, int) and side > 0 for side in sides
  ):
    raise InputError(
      f'image size {image_size!r} must be a positive number of pixels or a '
      '(height, width) pair of them'
    )
  if max(sides) > MAX_IMAGE_SIZE:
    raise InputError(
      f'image size {image_size!r} is above {MAX_IMAGE_SIZE} pixels, the '
      'largest side that is read'
    )
  return sides


def pick_preprocessing(name):
  """The preprocessing of a name.

  Args:
    name: in PREPROCESSINGS; `timm` and `deit` take parameters, as in
      'timm:crop_pct=0.95' and 'timm:crop_pct=1.0,interpolation=bilinear'.

  Returns:
    Preprocessing.

  Raises:
    InputError: unknown name, parameter or filter, or a crop_pct outside
      (0, 1].
  """
  base, colon, parameters = str(name).partition(':')
  if base not in PREPROCESSINGS:
    raise InputError(
      f'unknown preprocessing {name!r}; choose from {sorted(PREPROCESSINGS)}'
    )
  entry = PREPROCESSINGS[base]
  if not colon:
    return entry
  given = dict(each.partition('=')[::2] for each in parameters.split(','))
  allowed = {'crop_pct': 'NUMBER', 'interpolation': '|'.join(pillow.FILTERS)}
  allowed = {} if entry.crop_pct is None else allowed
  if given.keys() - allowed.keys():
    names = [f'{key}={value}' for key, value in allowed.items()]
    raise InputError(
      f'preprocessing {name!r}: parameters of {base!r} are {names}, not '
      f'{parameters!r}'
    )
  changes = {}
  if 'crop_pct' in given:
    crop_pct = _crop_pct(name, given['crop_pct'])
    changes['crop_pct'] = lambda _: crop_pct
  if 'interpolation' in given:
    changes['interpolation'] = given['interpolation']
    if given['interpolation'] not in pillow.FILTERS:
      raise InputError(
        f'preprocessing {name!r}: interpolation must be one of '
        f'{list(pillow.FILTERS)}'
      )
  return dataclasses.replace(entry, name=name, **changes)


def _crop_pct(name, text):
  try:
    crop_pct = float(text)
  except ValueError:
    crop_pct = 0.0
  if not 0 < crop_pct <= 1:
    raise InputError(
      f'preprocessing {name!r}: crop_pct must be a number above 0 and at most '
      '1, the part of the short side that is kept'
    )
  return crop_pct


def read_image(path, *, preprocessing, image_size):
  """Reads one image file.

  Args:
    path: of a JPEG, PNG, GIF or BMP file.
    preprocessing: a name, see `pick_preprocessing`.
    image_size: S or (H, W) pixels.

  Returns:
    [H, W, 3] float32 numpy array.

  Raises:
    OSError: there is no such file, or it cannot be read.
    InputError: it is no image, or damaged; unknown preprocessing; bad size.
  """
  function = pick_preprocessing(preprocessing)
  image_size = check_image_size(image_size)
  with open(path, 'rb') as file:
    encoded = file.read()
  try:
    return function(encoded, image_size).numpy()
  except tensorflow().errors.InvalidArgumentError as error:
    raise InputError(undecodable(path, first_line(error))) from None


def undecodable(name, why):
  """One line about an image that could not be decoded."""
  return f'{name} is not a readable JPEG, PNG, GIF or BMP image ({why})'


def first_line(error):
  """What a TensorFlow error says, without where in a graph it happened.

  Nor where in Python: what `tf.numpy_function` raises comes with its type
  before it and a traceback below.
  """
  line = error.message.splitlines()[0].split(' [Op:')[0]
  line = re.sub(r'{{.*?}} *', '', line).strip()
  line = re.sub(r'Error in user-defined function .*? Iterator::\S+: ', '', line)
  return line.replace('ValueError: ', '')
