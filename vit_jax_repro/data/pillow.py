"""Decoding, resizing and cropping with Pillow, as in PyTorch pipelines.

timm and DeiT decode and resize with Pillow (through torchvision), so Pillow
gives exactly their pixels. For the other preprocessings it decodes the formats
that TensorFlow does not read right, see image_files.py. Letters in shapes: H W
pixels of the result, h w pixels of the file.
"""

import functools
import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.errors import InputError
from vit_jax_repro.output.messages import note

# The formats that are read, in the spelling of messages.
FORMATS = ('JPEG', 'PNG', 'WebP', 'BMP', 'GIF', 'TIFF')
# The members of PIL.Image.Resampling that timm's configurations use.
FILTERS = {'bicubic': 'BICUBIC', 'bilinear': 'BILINEAR'}
# The original's decoder reads some files wrong; 'right' mends these only.
DECODERS = ('right', 'original')
# A file of more pixels would need more than a gigabyte.
MAX_PIXELS = 200_000_000
# A file of more pixels than this must have a byte for each hundred of them. A
# photograph has ten and more; a bomb of one colour unpacks to a thousand.
SPARSE_PIXELS = 50_000_000
_MOST_PIXELS_PER_BYTE = 100
NARROW = (
  'it is too narrow: resized to cover the input, it would have more than '
  f'{SPARSE_PIXELS:,} pixels; cut it'
)
# Formats that are not read, by the leading bytes of their files. The brands of
# ISO base media files (HEIC, AVIF) are those of ISO/IEC 23008-12 and of AVIF.
_REFUSED = {
  'AVIF': rb'.{4}ftyp(avif|avis|mif1.*(avif|avis))',
  'HEIC': rb'.{4}ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)',
  'JPEG XL': rb'\xff\x0a|\x00\x00\x00\x0cJXL ',
}
_READ = {
  'JPEG': rb'\xff\xd8\xff',
  'PNG': rb'\x89PNG',
  'WebP': rb'RIFF.{4}WEBP',
  'BMP': rb'BM',
  'GIF': rb'GIF8',
  'TIFF': rb'II[*+]\x00|MM\x00[*+]',
}
_LEADING = 64  # bytes in which these are looked for
_ORIENTATION = 0x0112  # the tag of EXIF
_UPRIGHT = 1


@functools.cache
def pillow() -> Any:
  """Imports Pillow, silences it, and prepares it for use by many threads.

  Pillow's limit of 179 million pixels is raised to MAX_PIXELS.

  Returns:
    The `PIL.Image` module.
  """
  from PIL import Image, PngImagePlugin

  # Profiles and comments of editors may be larger than Pillow's 1 MB.
  png: Any = PngImagePlugin  # ty takes its numbers for constants
  png.MAX_TEXT_CHUNK = png.MAX_TEXT_MEMORY
  # Warnings are useless because an image is either read or rejected. The
  # filter is permanent because all threads share temporary ones.
  warnings.filterwarnings('ignore', module=r'PIL\.')
  Image.preinit()
  Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses twice as many
  return Image


def decode(encoded: Any, orientation: str = 'none') -> Any:
  """Decodes an image file to three channels, see `resize_and_crop`.

  Args:
    encoded: scalar string tensor or bytes, a whole file of one of FORMATS.
    orientation: 'exif' turns the image upright, 'none' does not.

  Returns:
    [h, w, 3] uint8 tensor.

  Raises:
    tf.errors.InvalidArgumentError: as `resize_and_crop`.
  """

  def read(encoded):
    def finish(file):
      if file.format == 'BMP' and file.mode == 'P':
        _note_once(
          'palettes of BMP files are applied; the original ignores them '
          '(--preprocessing=vit_jax:decoder=original)'
        )
      return np.asarray(_upright(file, _right(file), orientation))

    return _opened(encoded, finish)

  image = called(read, encoded)
  image.set_shape([None, None, 3])
  return image


def resize_and_crop(
  encoded: Any,
  image_size: tuple[int, int],
  scaled: Sequence[int],
  interpolation: str = 'bicubic',
  *,
  orientation: str = 'none',
  decoder: str = 'right',
) -> Any:
  """Decodes an image, resizes it to cover `scaled`, and crops the centre.

  The result has three channels: palettes and CMYK are converted, grey is
  repeated, and alpha is dropped. GIF, animated WebP and TIFF give their first
  image. JPEG is decoded with the accurate integer DCT. Resizing antialiases
  and rounds to integers.

  Args:
    encoded: scalar string tensor or bytes, a whole file of one of FORMATS.
    image_size: (H, W) pixels.
    scaled: (height, width) pixels, neither below `image_size`. The image is
      resized to the smallest size of its proportions that covers them.
    interpolation: a key of FILTERS.
    orientation: 'exif' turns the image upright; 'none' does not, as timm and
      torchvision. Pillow always turns a TIFF.
    decoder: 'right', or 'original' for Pillow's own conversion, which makes
      grey images of 16 bits white.

  Returns:
    [H, W, 3] uint8 tensor.

  Raises:
    tf.errors.InvalidArgumentError: the bytes are not an image that is read, or
      truncated, or have more than MAX_PIXELS pixels.
  """

  read = functools.partial(
    resized_and_cropped,
    image_size=image_size,
    scaled=scaled,
    interpolation=interpolation,
    orientation=orientation,
    decoder=decoder,
  )
  image = called(read, encoded)
  image.set_shape([*image_size, 3])
  return image


def resized_and_cropped(
  encoded: bytes,
  image_size: tuple[int, int],
  scaled: Sequence[int],
  interpolation: str = 'bicubic',
  *,
  orientation: str = 'none',
  decoder: str = 'right',
) -> np.ndarray:
  """Returns the array of `resize_and_crop`, without TensorFlow.

  Raises:
    InputError: the image cannot be read; the message is one line without the
      name of the file.
  """

  def finish(file):
    if decoder == 'original':
      image = file.convert('RGB')
    else:
      if _is_16_bit_grey(file):
        _note_once(
          'grey images of 16 bits are reduced to 8; the original makes them '
          'white (--preprocessing=timm:decoder=original)'
        )
      image = _right(file)
    image = _upright(file, image, orientation)
    return _resized(image, image_size, scaled, interpolation)

  return _opened(encoded, finish)


def orientation_of(encoded: bytes) -> int:
  """Returns the EXIF orientation of an image file, 1 to 8; 1 is upright.

  A file without an orientation, or with an impossible one, is upright. So is a
  TIFF, which Pillow turns itself.
  """
  try:
    with pillow().open(io.BytesIO(encoded), formats=_ids()) as file:
      return _orientation(file)
  except Exception:  # a damaged file is reported when it is decoded
    return _UPRIGHT


def is_bomb(pixels: Any, length: Any) -> Any:
  """Returns whether an image claims too many pixels for a file of its length.

  Args:
    pixels, length: pixels and bytes; integers, or scalar int64 tensors.
  """
  return (pixels > SPARSE_PIXELS) & (pixels > _MOST_PIXELS_PER_BYTE * length)


def pixels_of(encoded: bytes) -> int:
  """Returns the number of pixels in the header of an image file.

  Raises:
    InputError: one line, if the image cannot be read.
  """
  return _opened(encoded, lambda file: file.width * file.height)


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


def called(read: Callable[[bytes], Any], encoded: Any) -> Any:
  """Returns the tensor of `read(bytes)`, in tf.data or eagerly.

  Args:
    read: returns a numpy array of the dtype uint8 for the bytes of a file.
    encoded: scalar string tensor or bytes.

  Raises:
    tf.errors.InvalidArgumentError: `read` raised a ValueError.
  """
  tf = tensorflow()
  pillow()  # imports it in the main thread
  if not tf.executing_eagerly():
    read = tf.autograph.experimental.do_not_convert(read)
    return tf.numpy_function(read, [encoded], tf.uint8, stateful=False)
  # Eagerly, tf.numpy_function would drop zeros at the end of the file.
  data = encoded if isinstance(encoded, bytes) else encoded.numpy()
  try:
    return tf.constant(read(data))
  except ValueError as error:
    raise tf.errors.InvalidArgumentError(None, None, str(error)) from None


def _opened(encoded, finish):
  """Returns `finish(file)` for an opened image.

  Raises:
    InputError: one line, if the image cannot be read.
  """
  image_module = pillow()
  try:
    with image_module.open(io.BytesIO(encoded), formats=_ids()) as file:
      _check_size(file, len(encoded))
      return finish(file)
  except image_module.UnidentifiedImageError:
    raise InputError(_why_unknown(encoded)) from None
  except image_module.DecompressionBombError:
    limit = 2 * image_module.MAX_IMAGE_PIXELS
    raise InputError(
      f'it has more than {limit:,} pixels, the most that are read'
    ) from None
  # Pillow passes on almost any exception of its decoders, and a StopIteration
  # would silently end the data set.
  except Exception as error:
    reason = ' '.join(str(error).split()) or type(error).__name__
    raise InputError(reason) from None


def _check_size(file, length):
  """Raises an InputError for an image that unpacks to far more than it has."""
  pixels = file.width * file.height
  if is_bomb(pixels, length):
    raise InputError(
      f'it claims {pixels:,} pixels in {length:,} bytes, as no photograph does'
    )


def _why_unknown(encoded):
  if not encoded:
    return 'the file is empty'
  for name, pattern in _REFUSED.items():
    if re.match(pattern, encoded[:_LEADING], re.DOTALL):
      ending = name.lower().replace('jpeg xl', 'jxl')
      return (
        f'{name} is not read; convert it to JPEG or PNG, for example by '
        f'`magick IMAGE.{ending} IMAGE.jpg`'
      )
  for name, pattern in _READ.items():
    if re.match(pattern, encoded[:_LEADING], re.DOTALL):
      return (
        f'it is a {name} that is damaged or of a kind that is not read; save '
        'it again as JPEG or as PNG of 8 bits'
      )
  return 'unknown image format'


def _ids():
  return tuple(name.upper() for name in FORMATS)


def _right(file):
  """Converts an opened image to RGB.

  Raises:
    InputError: the values have no known range.
  """
  if _is_16_bit_grey(file):
    return _reduced_to_8_bits(file).convert('RGB')
  if file.mode in ('I', 'F'):
    raise InputError(
      'its values have 32 bits or a sign, and no known range; convert it to 8 '
      'or 16 bits'
    )
  return file.convert('RGB')


def _is_16_bit_grey(file):
  return file.mode.startswith('I;16') or (
    file.mode == 'I' and file.format == 'PNG'  # of old versions of Pillow
  )


def _reduced_to_8_bits(file):
  """Keeps the upper 8 bits of grey values, as TensorFlow does for PNG."""
  values = np.asarray(file).astype(np.uint16)
  bits = 16
  if file.format == 'TIFF':
    (bits, *_), inverted = file.tag_v2[258], file.tag_v2.get(262) == 0
    if inverted:  # Pillow ignores that 0 is white
      values = 2**bits - 1 - values
  return pillow().fromarray((values >> (bits - 8)).astype(np.uint8))


def _orientation(file):
  if file.format == 'TIFF':
    return _UPRIGHT
  if file.format == 'PNG':
    file.load()  # its EXIF may come after its pixels
  found = pillow().Exif()
  try:
    found.load(file.info.get('exif', b''))
    value = found.get(_ORIENTATION)
  except Exception:  # a damaged note does not damage the pixels
    value = None
  return value if isinstance(value, int) and 1 <= value <= 8 else _UPRIGHT


def _upright(file, image, orientation):
  if orientation != 'exif':
    return image
  turns = pillow().Transpose
  turn = {
    2: turns.FLIP_LEFT_RIGHT,
    3: turns.ROTATE_180,
    4: turns.FLIP_TOP_BOTTOM,
    5: turns.TRANSPOSE,
    6: turns.ROTATE_270,
    7: turns.TRANSVERSE,
    8: turns.ROTATE_90,
  }.get(_orientation(file))
  return image if turn is None else image.transpose(turn)


def _resized(image, image_size, scaled, interpolation):
  height, width = covering_size((image.height, image.width), scaled)
  if height * width > SPARSE_PIXELS:
    raise InputError(NARROW)
  filter_ = pillow().Resampling[FILTERS[interpolation]]
  image = image.resize((width, height), filter_)
  top = crop_start(height, image_size[0])
  left = crop_start(width, image_size[1])
  box = left, top, left + image_size[1], top + image_size[0]
  return np.asarray(image.crop(box))


@functools.cache
def _note_once(text: str) -> None:
  note(text)
