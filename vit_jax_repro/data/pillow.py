"""Decoding, resizing and cropping with Pillow, as in PyTorch pipelines.

timm and DeiT decode and resize with Pillow (through torchvision), so Pillow
gives exactly their pixels. Letters in shapes: H W pixels of the result, h w
pixels of the file.
"""

import functools
import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.errors import InputError

FORMATS = ('JPEG', 'PNG', 'GIF', 'BMP')  # the formats that TensorFlow reads
# The members of PIL.Image.Resampling that timm's configurations use.
FILTERS = {'bicubic': 'BICUBIC', 'bilinear': 'BILINEAR'}


@functools.cache
def pillow() -> Any:
  """Imports Pillow, silences it, and prepares it for use by many threads.

  Returns:
    The `PIL.Image` module.
  """
  from PIL import Image

  # Warnings are useless because an image is either read or rejected. The
  # filter is permanent because all threads share temporary ones.
  warnings.filterwarnings('ignore', module=r'PIL\.')
  Image.preinit()
  return Image


def resize_and_crop(
  encoded: Any,
  image_size: tuple[int, int],
  scaled: Sequence[int],
  interpolation: str = 'bicubic',
) -> Any:
  """Decodes an image, resizes it to cover `scaled`, and crops the centre.

  The result has three channels: palettes and CMYK are converted, grey is
  repeated, and alpha is dropped. A GIF gives its first frame. As in timm and
  torchvision, the EXIF orientation is not applied. JPEG is decoded with the
  accurate integer DCT. Resizing antialiases and rounds to integers.

  Args:
    encoded: scalar string tensor or bytes, a whole JPEG, PNG, GIF or BMP file.
    image_size: (H, W) pixels.
    scaled: (height, width) pixels, neither below `image_size`. The image is
      resized to the smallest size of its proportions that covers them.
    interpolation: a key of FILTERS.

  Returns:
    [H, W, 3] uint8 tensor.

  Raises:
    tf.errors.InvalidArgumentError: the bytes are not an image, or truncated, or
      have more pixels than Pillow considers safe (178,956,970).
  """
  tf = tensorflow()
  pillow()  # imports it in the main thread

  @tf.autograph.experimental.do_not_convert
  def read(encoded):
    return _read(encoded, image_size, scaled, interpolation)

  try:
    image = tf.numpy_function(read, [encoded], tf.uint8, stateful=False)
  except ValueError as error:  # eager mode does not convert the error
    raise tf.errors.InvalidArgumentError(None, None, str(error)) from None
  image.set_shape([*image_size, 3])
  return image


def covering_size(
  size: Sequence[int], scaled: Sequence[int]
) -> tuple[int, ...]:
  """Returns the (height, width) that an image of (h, w) is resized to.

  A square `scaled` follows torchvision's rule (`transforms.Resize` of a number
  rounds the long side down). A rectangle follows timm's (`ResizeKeepRatio`
  rounds to the nearest).
  """
  if scaled[0] == scaled[1]:
    short = min(size)
    return tuple(int(scaled[0] * side / short) for side in size)
  ratio = min(side / wanted for side, wanted in zip(size, scaled, strict=True))
  return tuple(round(side / ratio) for side in size)


def crop_start(side: int, crop: int) -> int:
  """Returns the start of a centred crop; halves round to even (torchvision)."""
  return round((side - crop) / 2)


def _read(encoded, image_size, scaled, interpolation):
  """Implements `resize_and_crop` on bytes; returns a numpy array.

  Raises:
    InputError: one line, if the image cannot be read.
  """
  image_module = pillow()
  try:
    with image_module.open(io.BytesIO(encoded), formats=FORMATS) as file:
      image = file.convert('RGB')
    height, width = covering_size((image.height, image.width), scaled)
    filter_ = image_module.Resampling[FILTERS[interpolation]]
    image = image.resize((width, height), filter_)
    top = crop_start(height, image_size[0])
    left = crop_start(width, image_size[1])
    box = left, top, left + image_size[1], top + image_size[0]
    return np.asarray(image.crop(box))
  except image_module.UnidentifiedImageError:
    raise InputError('unknown image format') from None
  # Pillow passes on almost any exception of its decoders, and a StopIteration
  # would silently end the data set.
  except Exception as error:
    reason = ' '.join(str(error).split()) or type(error).__name__
    raise InputError(reason) from None
