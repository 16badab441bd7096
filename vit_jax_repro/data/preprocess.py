"""Evaluation preprocessing: from an encoded image file to a model's input.

A preprocessing is called as `(encoded, image_size) -> image`, in tf.data or
eagerly:

  encoded     scalar string tensor or bytes: a whole file of pillow.FORMATS
  image_size  (height, width) in pixels
  image       [height, width, 3] float32

It takes the encoded file because recipes also differ in the decoder.
docs/data.md describes each preprocessing and the effect of the choice. Letters
in shapes: H W pixels of the result, h w pixels of the file.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vit_jax_repro.data import pillow
from vit_jax_repro.data.image_files import decode
from vit_jax_repro.data.image_settings import (
  IMAGENET_MEAN,
  IMAGENET_STD,
  ORIENTATIONS,
)
from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files

# Channel means and standard deviations, in units of 0..255 pixel values.
HALF = (127.5, 127.5, 127.5)  # to [-1, 1]: all Google ViT, Mixer, BiT files


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """An evaluation preprocessing; see the top of this file for its call."""

  name: str  # in model.json and --preprocessing
  # (encoded, image_size, **options) -> [H, W, 3] tensor, 0..255
  pixels: Callable[..., Any]
  source: str
  description: str
  mean: tuple[float, float, float] = HALF  # subtracted, in units of 0..255
  std: tuple[float, float, float] = HALF  # divided by, in units of 0..255
  # image_size -> crop_pct, for pillow.resize_and_crop, which also takes
  # `interpolation`. None: `pixels` is another function and takes neither.
  crop_pct: Callable[[tuple[int, int]], float] | None = None
  interpolation: str = 'bicubic'  # a key of pillow.FILTERS
  # 'right', or 'original' for the original's reading of formats that its
  # decoder reads wrong; see pillow.DECODERS.
  decoder: str = 'right'

  @property
  def base(self) -> str:
    """Returns the name without parameters."""
    return self.name.partition(':')[0]

  @property
  def training_decoder(self) -> str:
    """Returns the decoder for training, which always reads by TensorFlow."""
    return 'right' if self.crop_pct is not None else self.decoder

  def __call__(
    self, encoded: Any, image_size: tuple[int, int], orientation: str = 'none'
  ) -> Any:
    """Decodes, resizes and normalises an image.

    Args:
      encoded: scalar string tensor or bytes, a whole image file.
      image_size: (H, W) pixels.
      orientation: 'exif' turns the image upright by its EXIF orientation;
        'none' takes it as it is stored, as the originals do.

    Returns:
      [H, W, 3] float32 tensor.

    Raises:
      tf.errors.InvalidArgumentError: the bytes are not an image, or truncated.
    """
    options = self.options(image_size, orientation)
    image = self.pixels(encoded, image_size, **options)
    return normalize(tensorflow().cast(image, 'float32'), self.mean, self.std)

  def options(
    self, image_size: tuple[int, int], orientation: str
  ) -> dict[str, Any]:
    """Returns the keyword arguments of `pixels` for this image size.

    Raises:
      InputError: crop_pct makes a side longer than `MAX_IMAGE_SIZE`.
    """
    options: dict[str, Any] = dict(
      orientation=orientation, decoder=self.decoder
    )
    if self.crop_pct is not None:
      options['scaled'] = _scaled(image_size, self.crop_pct(image_size))
      options['interpolation'] = self.interpolation
    return options


# Up to this many pixels of the image for each pixel of the result, casting it
# to float first is faster. Beyond, the cast takes longer than decoding.
_CAST_UP_TO = 6


def squash(
  image: Any,
  image_size: Any,
  *,
  method: str = 'bilinear',
  antialias: bool = False,
) -> Any:
  """Resizes to exactly `image_size` without keeping the proportions.

  The defaults are those of `tf.image.resize`: bilinear with half-pixel centres
  and no antialiasing. Antialiasing a photograph changes single values by more
  than 1 in [-1, 1].

  Args:
    image: [h, w, 3] tensor.
    image_size: (H, W) pixels, integers or a [2] int32 tensor.
    method: of `tf.image.resize`.
    antialias: of `tf.image.resize`.

  Returns:
    [H, W, 3] float32 tensor.
  """
  tf = tensorflow()
  image = tf.convert_to_tensor(image)

  def resized(image):
    return tf.image.resize(
      image, image_size, method=method, antialias=antialias
    )

  pixels = tf.reduce_prod(tf.shape(image)[:2])
  return tf.cond(  # the same values in both cases, bit for bit
    pixels <= _CAST_UP_TO * tf.reduce_prod(image_size),
    lambda: resized(tf.cast(image, tf.float32)),
    lambda: resized(image),
  )


def normalize(
  image: Any, mean: Sequence[float] = HALF, std: Sequence[float] = HALF
) -> Any:
  """Subtracts `mean` and divides by `std`; by default to [-1, 1].

  Args:
    image: [..., 3] float32 in 0..255.
    mean, std: three numbers each, by channel, in units of 0..255.

  Returns:
    [..., 3] float32.
  """
  if len({*mean}) == len({*std}) == 1:  # one number is faster than three
    return (image - np.float32(mean[0])) / np.float32(std[0])
  return (image - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


def _squashed(encoded, image_size, **reading):  # bytes -> [H, W, 3] float32
  return squash(decode(encoded, **reading), image_size)


def _squashed_down(encoded, image_size, **reading):  # -> [H, W, 3] float32
  """Returns whole values, rounded down (vit_jax/preprocess.py, for LiT)."""
  return tensorflow().floor(_squashed(encoded, image_size, **reading))


# The short side before the crop. big_vision's configs name two pairs, 256 for
# 224 (vit_i1k.py, bit_i1k.py, load_and_eval.py) and 448 for 384 (transfer.py).
_SHORT_SIDE_FOR = {384: 448}
_SHORT_SIDE_RATIO = (8, 7)  # 256 / 224, for every other size


def short_sides(image_size: tuple[int, int]) -> tuple[int, int]:
  """Returns the (height, width) that big_vision's resize covers."""
  more, less = _SHORT_SIDE_RATIO
  height, width = (
    _SHORT_SIDE_FOR.get(side, side * more // less) for side in image_size
  )
  return height, width


def _area_and_crop(encoded, image_size, **reading):  # -> [H, W, 3] float32
  """Applies big_vision's `resize_small` and `central_crop` (pp/ops_image.py).

  The area method resizes to the smallest size that covers the short side, or
  both short sides if H and W differ. Values are truncated to integers. A crop
  with an odd margin starts half a pixel further to the top and left.
  """
  tf = tensorflow()
  image = decode(encoded, **reading)
  short = short_sides(image_size)
  size = tf.cast(tf.shape(image)[:2], tf.float32)
  factor = tf.reduce_max(tf.constant(short, tf.float32) / size)
  size = tf.cast(tf.round(size * factor), tf.int32)
  fits = tf.debugging.assert_less_equal(
    tf.reduce_prod(tf.cast(size, tf.int64)),
    tf.constant(pillow.SPARSE_PIXELS, tf.int64),
    message=pillow.NARROW,
  )
  with tf.control_dependencies([] if fits is None else [fits]):
    size = tf.identity(size)
  image = tf.cast(squash(image, size, method='area'), tf.uint8)
  top, left = tf.unstack((size - tf.constant(image_size)) // 2)
  image = tf.image.crop_to_bounding_box(image, top, left, *image_size)
  image.set_shape([*image_size, 3])
  return tf.cast(image, tf.float32)


# Pixels that the crop leaves out of an image resized to cover it (CROP_PADDING
# of Noisy Student's preprocessing.py; 32 of 256 for 224).
CROP_PADDING = 32


def _crop_and_resize(encoded, image_size, **reading):  # -> [H, W, 3] float32
  """Applies EfficientNet's central crop, then TensorFlow 1's bicubic resize.

  The crop is size / (size + 32) of the short side. The filter has no
  antialiasing and half_pixel_centers=False. Its overshoots outside 0..255 are
  kept.
  """
  tf = tensorflow()
  image = decode(encoded, **reading)
  height, width = image_size
  high, wide = height + CROP_PADDING, width + CROP_PADDING
  shape = tf.cast(tf.shape(image)[:2], tf.float32)
  short = tf.minimum(shape[0], shape[1] * (high / wide))  # of rows
  crop = tf.cast(
    tf.stack([height / high * short, width / high * short]), tf.int32
  )
  crop = tf.maximum(crop, 1)
  top, left = tf.unstack((tf.shape(image)[:2] - crop + 1) // 2)
  image = tf.image.crop_to_bounding_box(image, top, left, crop[0], crop[1])
  image = tf.raw_ops.ResizeBicubic(images=image[None], size=image_size)[0]
  image.set_shape([height, width, 3])
  return image


def _scaled(image_size, crop_pct):
  """Returns the (height, width) to cover, timm's `transforms_imagenet_eval`.

  This is also DeiT's `build_transform` (datasets.py). The short side is resized
  to size / crop_pct, rounded down. DeiT does not resize images for sizes of at
  most 32 pixels (CIFAR); this package does.

  Raises:
    InputError: crop_pct makes a side longer than `MAX_IMAGE_SIZE`.
  """
  scaled = tuple(int(side / crop_pct) for side in image_size)
  if max(scaled) > MAX_IMAGE_SIZE:
    raise InputError(
      f'{crop_pct=} asks for {max(scaled)} pixels before the crop, above the '
      f'{MAX_IMAGE_SIZE} that are read; give a larger crop_pct'
    )
  return scaled


def _timm_crop_pct(image_size):
  """Returns 0.9, or 1.0 from 384 pixels on.

  timm has these for Google's files (vision_transformer.py) and for its DeiT
  files (deit.py).
  """
  return 0.9 if min(image_size) < 384 else 1.0


def _deit_crop_pct(image_size):
  """Returns the default of --eval-crop-ratio in DeiT's main.py, at any size."""
  del image_size
  return 0.875


# By name, as in model.json and --preprocessing.
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
      'lit',
      _squashed_down,
      source='google-research/vision_transformer, vit_jax/preprocess.py',
      description='as vit_jax, values rounded down to whole numbers',
    ),
    Preprocessing(
      'big_vision',
      _area_and_crop,
      source='google-research/big_vision, pp/ops_image.py, configs/',
      description='short side by area (224 -> 256, 384 -> 448), central crop',
    ),
    Preprocessing(
      'timm',
      pillow.resize_and_crop,
      source='huggingface/pytorch-image-models, data/transforms_factory.py',
      description='short side to size/crop_pct, bicubic, centre crop; [-1, 1]',
      crop_pct=_timm_crop_pct,
    ),
    Preprocessing(
      'deit',
      pillow.resize_and_crop,
      mean=IMAGENET_MEAN,
      std=IMAGENET_STD,
      source='facebookresearch/deit, datasets.py',
      description="as timm, crop_pct 0.875, ImageNet's mean and deviation",
      crop_pct=_deit_crop_pct,
    ),
    Preprocessing(
      'efficientnet',
      _crop_and_resize,
      mean=IMAGENET_MEAN,
      std=IMAGENET_STD,
      source='tensorflow/tpu, models/official/efficientnet/preprocessing.py',
      description="central crop, bicubic, ImageNet's mean and deviation",
    ),
  )
}


# Far above the 800 pixels of any published model. A larger size is a typing
# error that would use all memory.
MAX_IMAGE_SIZE = 8192


def check_image_size(
  image_size: int | tuple[int, ...] | list[int],
) -> tuple[int, int]:
  """Converts `S` or `(H, W)` to `(H, W)`, two positive integers.

  Raises:
    InputError: `image_size` is neither, or a side is above `MAX_IMAGE_SIZE`.
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
  return sides[0], sides[1]


def check_orientation(orientation: str) -> None:
  """Raises an InputError unless `orientation` is one of ORIENTATIONS."""
  if orientation not in ORIENTATIONS:
    raise InputError(f'{orientation=} must be one of {list(ORIENTATIONS)}')


def pick_preprocessing(name: str) -> Preprocessing:
  """Returns the preprocessing of a name.

  Args:
    name: in PREPROCESSINGS. `timm` and `deit` take parameters, as in
      'timm:crop_pct=0.95' and 'timm:crop_pct=1.0,interpolation=bilinear'. All
      take 'decoder=original', see docs/data.md.

  Raises:
    InputError: the name, a parameter or the filter is unknown, or crop_pct is
      outside (0, 1].
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
  allowed = {'decoder': '|'.join(pillow.DECODERS)}
  if entry.crop_pct is not None:
    allowed['crop_pct'] = 'NUMBER'
    allowed['interpolation'] = '|'.join(pillow.FILTERS)
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
  if 'decoder' in given:
    changes['decoder'] = given['decoder']
    if given['decoder'] not in pillow.DECODERS:
      raise InputError(
        f'preprocessing {name!r}: decoder must be one of '
        f'{list(pillow.DECODERS)}'
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


def read_image(
  path: str | os.PathLike,
  *,
  preprocessing: str,
  image_size: int | tuple[int, ...] | list[int],
  orientation: str = 'exif',
) -> np.ndarray:
  """Reads and preprocesses one image file.

  Args:
    path: of a file of one of pillow.FORMATS.
    preprocessing: a name, see `pick_preprocessing`.
    image_size: S or (H, W) pixels.
    orientation: 'exif' turns the image upright by its EXIF orientation, 'none'
      takes it as it is stored.

  Returns:
    [H, W, 3] float32 numpy array.

  Raises:
    OSError: the file does not exist or cannot be read.
    InputError: the file is not an image or damaged, the preprocessing is
      unknown, or the size or orientation is invalid.
  """
  check_orientation(orientation)
  function = pick_preprocessing(preprocessing)
  image_size = check_image_size(image_size)
  if os.path.isdir(path):
    raise InputError(f'{path} is a folder; give an image file')
  if files.is_special(path):
    raise InputError(f'{path} is a device or pipe; give an image file')
  with open(path, 'rb') as file:
    encoded = file.read()
  if function.crop_pct is not None:  # Pillow reads, so TensorFlow is not needed
    options = function.options(image_size, orientation)
    try:
      pixels = pillow.resized_and_cropped(encoded, image_size, **options)
    except InputError as error:
      raise InputError(undecodable(path, error)) from None
    return normalize(pixels.astype(np.float32), function.mean, function.std)
  require_decoder(preprocessing)
  try:
    return function(encoded, image_size, orientation).numpy()
  except tensorflow().errors.InvalidArgumentError as error:
    raise InputError(undecodable(path, first_line(error))) from None


def require_decoder(preprocessing: str) -> None:
  """Loads the library that a preprocessing decodes with.

  Raises:
    InputError: the library is not installed, or the preprocessing is unknown.
  """
  if pick_preprocessing(preprocessing).crop_pct is not None:  # by Pillow
    pillow.pillow()
    return
  try:
    tensorflow()
  except InputError as error:
    raise InputError(
      f'preprocessing {preprocessing!r}: {error}. Or give --preprocessing=timm '
      'or deit, which resize by Pillow'
    ) from None


def undecodable(name: str | os.PathLike, why: object) -> str:
  """Returns a one-line message about an image that could not be decoded."""
  *formats, last = pillow.FORMATS
  known = f'{", ".join(formats)} or {last}'
  return f'{name} is not a readable {known} image ({why})'


def first_line(error: Any) -> str:
  """Returns a TensorFlow error's message without its location in the graph.

  Errors of `tf.numpy_function` also lose the exception type before the message
  and the Python traceback below it.

  Args:
    error: a tf.errors.OpError.
  """
  line = next(
    line for line in error.message.splitlines() if not _LOCATION.match(line)
  )
  line = re.sub(r'{{.*?}} *', '', line.split(' [Op:')[0]).strip()
  line = re.sub(r'Error in user-defined function .*? Iterator::\S+: ', '', line)
  return re.sub(r'^(ValueError|InputError): ', '', line)


# Lines above the message of an error in a tf.function; none if it is the first.
_LOCATION = re.compile(r'$|Graph execution error|Detected at node|  File ')
