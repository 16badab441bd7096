"""What PyTorch pipelines do to an image before scaling it, by Pillow itself.

timm and DeiT decode and resize with Pillow (through torchvision), so that
using it gives their pixels exactly. Letters in shapes: H W pixels of the
result, h w pixels of the file.
"""

import functools
import io
import warnings

import numpy as np

from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.errors import InputError

FORMATS = ('JPEG', 'PNG', 'GIF', 'BMP')  # those that TensorFlow reads
# Of PIL.Image.Resampling, those that timm's configurations name.
FILTERS = {'bicubic': 'BICUBIC', 'bilinear': 'BILINEAR'}


@functools.cache
def pillow():
  """Imports Pillow, keeps it quiet, and readies it for use by many threads.

  Returns:
    The `PIL.Image` module.
  """
  from PIL import Image

  # An image is either read or refused. A filter for good, because the
  # temporary ones of `warnings` are shared by all threads.
  warnings.filterwarnings('ignore', module=r'PIL\.')
  Image.preinit()
  return Image


def resize_and_crop(  # bytes -> [H, W, 3] uint8
  encoded, image_size, scaled, interpolation='bicubic'
):
  """Decodes, resizes so that `scaled` is covered, cuts out the middle.

  To three channels: palettes and CMYK are converted, grey is repeated, alpha
  is dropped, the first frame of a GIF is taken. The orientation that EXIF
  may give is not applied, in timm and torchvision neither. JPEG by the
  accurate integer DCT, resizing with antialiasing and rounded to whole values.

  Args:
    encoded: scalar string tensor or bytes, a whole JPEG, PNG, GIF or BMP file.
    image_size: (H, W) pixels.
    scaled: (height, width) pixels, neither below `image_size`; the image is
      resized to the smallest size of its proportions that covers them.
    interpolation: a key of FILTERS.

  Raises:
    tf.errors.InvalidArgumentError: the bytes are no image, cut short, or of
      more pixels than Pillow takes for safe (178,956,970).
  """
  tf = tensorflow()
  pillow()  # here, in the main thread

  @tf.autograph.experimental.do_not_convert
  def read(encoded):
    return _read(encoded, image_size, scaled, interpolation)

  try:
    image = tf.numpy_function(read, [encoded], tf.uint8, stateful=False)
  except ValueError as error:  # eagerly it comes as it was raised
    raise tf.errors.InvalidArgumentError(None, None, str(error)) from None
  image.set_shape([*image_size, 3])
  return image


def covering_size(size, scaled):
  """The (height, width) that an image of (h, w) is resized to.

  For a square torchvision's rule (`transforms.Resize` of a number: the long
  side is rounded down), for a rectangle timm's (`ResizeKeepRatio`: rounded).
  """
  if scaled[0] == scaled[1]:
    short = min(size)
    return tuple(int(scaled[0] * side / short) for side in size)
  ratio = min(side / wanted for side, wanted in zip(size, scaled, strict=True))
  return tuple(round(side / ratio) for side in size)


def crop_start(side, crop):
  """Where a centred crop begins; torchvision rounds a half to even."""
  return round((side - crop) / 2)


def _read(encoded, image_size, scaled, interpolation):
  """`resize_and_crop` on bytes, to a numpy array; ValueErrors of one line."""
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
  # Pillow lets almost anything through that its decoders raise, and a
  # StopIteration would end the data set without a word.
  except Exception as error:
    says = ' '.join(str(error).split()) or type(error).__name__
    raise InputError(says) from None
