"""Decoding of image files in TensorFlow graphs, by their leading bytes.

The formats are `pillow.FORMATS`. TensorFlow decodes JPEG, PNG and GIF, as in
the original pipelines; Pillow decodes the others, of which TensorFlow reads
some wrong (a palette of a BMP) and some not at all. Pillow also decodes JPEGs
that are too large for TensorFlow, and refuses bombs. docs/data.md names the
decoder of each format. Letters in shapes: h w pixels of the stored image.

Phones store a photograph as the sensor lies, with an EXIF orientation that
records how to turn it. A box of an image that is drawn upright is mapped to the
stored image, so that only the box is decoded.
"""

import os
from typing import Any

import numpy as np

from vit_jax_repro.data import pillow
from vit_jax_repro.data.tf_host import tensorflow

# TensorFlow's tests for these formats (core/kernels/image/decode_image_op.cc).
_JPEG, _PNG, _GIF = b'\xff\xd8\xff', b'\x89PN', b'GIF'
# The first bytes of most JPEGs: a JFIF block of 16 bytes and a quantisation
# table, where others have EXIF. None: any byte.
_USUAL_START = (0xFF, 0xD8, 0xFF, 0xE0, 0, 16, *[None] * 14, 0xFF, 0xDB)
# The beginning of an EXIF block in a JPEG, and in a PNG or WebP. The bytes may
# also occur by chance. A single text is found five times faster than several.
_JPEG_EXIF, _OTHER_EXIF = r'Exif\x00\x00', r'eXIf|EXIF'
# TensorFlow's decoder refuses as many bytes of pixels (platform's jpeg_mem.cc).
_MOST_VALUES = 2**29
# TensorFlow unpacks all frames of a GIF, up to 2,730 pixels for a byte. Pillow
# unpacks the first one of a larger file.
_LARGE_GIF = 2**17
# Divisors of the size at which JPEG decoders can read, besides 1.
REDUCED = (8, 4, 2)
Tensor = Any  # a tf.Tensor; TensorFlow is imported only when it is needed


def decode(
  encoded: Any, orientation: str = 'none', decoder: str = 'right'
) -> Tensor:
  """Decodes an image file of any number of channels to three channels.

  JPEG is decoded by TensorFlow's default decoder (the fast, slightly inexact
  DCT), as in the original pipelines. Pillow differs by up to 18 of 255. Grey
  is repeated, alpha is dropped, and 16 bits become the upper 8. GIF, animated
  WebP and TIFF give their first image.

  Args:
    encoded: scalar string tensor or bytes, a whole file of `pillow.FORMATS`.
    orientation: 'exif' turns the image upright, 'none' does not.
    decoder: 'right', or 'original' for TensorFlow's own reading of each format.
      JPEGs and PNGs that claim very many pixels are Pillow's, which refuses
      bombs.

  Returns:
    [h, w, 3] uint8 tensor.

  Raises:
    tf.errors.InvalidArgumentError: the bytes are not an image, or truncated.
  """
  tf = tensorflow()

  def as_stored():
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
    return tf.ensure_shape(image, [None, None, 3])

  def by_tensorflow():
    image = as_stored()
    if orientation == 'exif':
      image = upright(image, orientation_of(encoded))
    return image

  def by_leading_bytes():
    is_original = decoder == 'original'
    return tf.cond(
      ~_claims_much(encoded) if is_original else _tensorflow_reads(encoded),
      by_tensorflow,
      lambda: pillow.decode(encoded, orientation),
    )

  image = tf.cond(
    is_usual_jpeg(encoded, orientation),
    as_stored,
    by_leading_bytes,
  )
  return tf.ensure_shape(image, [None, None, 3])


def decode_window(
  encoded: Tensor, window: Tensor, resize: Tensor | None = None
) -> Tensor:
  """Decodes a window of a JPEG file, and little of the rest.

  Args:
    encoded: scalar string, a JPEG file.
    window: [4] int32: top, left, height, width in the stored image.
    resize: (height, width); if given, the window is decoded at the smallest of
      the scales in REDUCED and 1 that is at least as large.

  Returns:
    [h, w, 3] uint8, the size of the window divided by the scale.
  """
  tf = tensorflow()

  def decoded(scale):
    return tf.io.decode_and_crop_jpeg(
      encoded, window // scale, channels=3, ratio=scale
    )

  if resize is None:
    return decoded(1)
  return _at_scale(decoded, window[2:], resize)


def decode_reduced(
  encoded: Tensor, resize: Tensor, orientation: str, decoder: str
) -> Tensor:
  """Decodes an image; a large JPEG at a scale of REDUCED.

  Args:
    encoded, orientation, decoder: see `decode`.
    resize: (height, width) of the upright image, which no scale falls below.

  Returns:
    [h, w, 3] uint8, the size of the image divided by the scale.
  """
  tf = tensorflow()

  def reduced():
    turned = tf.constant(1)
    if orientation == 'exif':
      turned = orientation_of(encoded)
    shape = tf.io.extract_jpeg_shape(encoded)
    image = _at_scale(
      lambda scale: tf.io.decode_jpeg(encoded, channels=3, ratio=scale),
      upright_shape(shape, turned)[:2],
      resize,
    )
    return upright(image, turned)

  image = tf.cond(
    is_jpeg_for_tensorflow(encoded),
    reduced,
    lambda: decode(encoded, orientation, decoder),
  )
  return tf.ensure_shape(image, [None, None, 3])


def _at_scale(decoded, size, resize):
  """Returns `decoded(scale)` for the largest scale that leaves `resize`."""
  tf = tensorflow()
  fits = tf.reduce_min(size // resize)  # largest whole divisor of the size
  image = tf.case(
    [(fits >= scale, lambda scale=scale: decoded(scale)) for scale in REDUCED],
    default=lambda: decoded(1),
  )
  return tf.ensure_shape(image, [None, None, 3])


def is_usual_jpeg(encoded: Tensor, orientation: str) -> Tensor:
  """Returns whether TensorFlow reads a JPEG, and it surely lies upright.

  This is one cheap test for almost all training images. EXIF comes first in a
  file (EXIF 2.3, 4.7.2), so a file that begins with its tables has none.

  Args:
    encoded: scalar string.
    orientation: 'exif', or 'none' to take any image as it lies.

  Returns:
    Scalar bool.
  """
  tf = tensorflow()
  if orientation == 'none':
    return is_jpeg_for_tensorflow(encoded)
  start = tf.io.decode_raw(encoded, tf.uint8, fixed_length=len(_USUAL_START))
  mask = np.array([0 if b is None else 0xFF for b in _USUAL_START], np.uint8)
  wanted = np.array([b or 0 for b in _USUAL_START], np.uint8)
  is_usual = tf.equal(tf.bitwise.bitwise_and(start, mask), wanted)
  return tf.cond(
    tf.reduce_all(is_usual),
    lambda: is_jpeg_for_tensorflow(encoded),
    lambda: tf.constant(False),
  )


def is_jpeg_for_tensorflow(encoded: Tensor) -> Tensor:
  """Returns whether a file is a JPEG that TensorFlow may read.

  Pillow reads one that is too large for TensorFlow, and refuses one that claims
  far more pixels than a photograph of its bytes has.
  """
  tf = tensorflow()

  def measured():
    shape = tf.cast(tf.io.extract_jpeg_shape(encoded), tf.int64)
    pixels = shape[0] * shape[1]
    length = tf.cast(tf.strings.length(encoded), tf.int64)
    return ~pillow.is_bomb(pixels, length) & (3 * pixels < _MOST_VALUES)

  return tf.cond(tf.io.is_jpeg(encoded), measured, lambda: tf.constant(False))


def orientation_of(encoded: Any) -> Tensor:
  """Returns the EXIF orientation of a file: scalar int32, 1 (upright) to 8."""
  tf = tensorflow()

  def read(encoded):
    return np.uint8(pillow.orientation_of(encoded))

  def found():
    return tf.cast(tf.ensure_shape(pillow.called(read, encoded), []), tf.int32)

  has_exif = tf.cond(
    tf.io.is_jpeg(encoded),
    lambda: _contains(encoded, _JPEG_EXIF),
    lambda: _contains(encoded, _OTHER_EXIF),
  )
  return tf.cond(has_exif, found, lambda: tf.constant(1))


def noting_orientation(
  encoded: Tensor, example_id: Tensor, turned: set[str]
) -> Tensor:
  """Adds the id of an image that does not lie upright to a set.

  Args:
    encoded: scalar string, a whole image file.
    example_id: scalar string.
    turned: a set of ids; changed when the result is computed.

  Returns:
    `encoded`.
  """
  tf = tensorflow()

  def add(name):
    turned.add(os.fsdecode(name))
    return name

  def noted():
    # A result that nothing uses would not be computed.
    added = tf.numpy_function(add, [example_id], tf.string, stateful=True)
    with tf.control_dependencies([added]):
      return tf.identity(encoded)

  return tf.ensure_shape(
    tf.cond(
      tf.equal(orientation_of(encoded), 1), lambda: tf.identity(encoded), noted
    ),
    [],
  )


def upright(image: Tensor, orientation: Tensor) -> Tensor:
  """Turns a stored image, or a box of one, upright.

  Args:
    image: [h, w, 3], any dtype.
    orientation: see `orientation_of`.

  Returns:
    [h, w, 3], or [w, h, 3] for the orientations 5 to 8.
  """
  tf = tensorflow()

  def turned():
    lies, mirrored, upside_down = _parts(orientation)
    found = tf.cond(lies, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    found = tf.cond(mirrored, lambda: tf.reverse(found, [1]), lambda: found)
    return tf.cond(upside_down, lambda: tf.reverse(found, [0]), lambda: found)

  image = tf.cond(tf.equal(orientation, 1), lambda: image, turned)
  return tf.ensure_shape(image, [None, None, 3])


def upright_shape(shape: Tensor, orientation: Tensor) -> Tensor:
  """Returns the shape [3] that an image of the stored shape has upright."""
  tf = tensorflow()
  lies, *_ = _parts(orientation)
  return tf.where(lies, tf.gather(shape, [1, 0, 2]), shape)


def stored_window(
  begin: Tensor, size: Tensor, shape: Tensor, orientation: Tensor
) -> Tensor:
  """Maps a box of the upright image to the stored image.

  Args:
    begin, size: [3] int32, the box in the upright image.
    shape: [3] int32, the shape of the upright image.
    orientation: see `orientation_of`.

  Returns:
    [4] int32: top, left, height, width in the stored image.
  """
  tf = tensorflow()
  lies, mirrored, upside_down = _parts(orientation)
  start, size, sides = begin[:2], size[:2], shape[:2]
  reversed_axes = tf.stack([upside_down, mirrored])
  start = tf.where(reversed_axes, sides - start - size, start)
  swap = tf.where(lies, [1, 0], [0, 1])
  return tf.concat([tf.gather(start, swap), tf.gather(size, swap)], axis=0)


def _parts(orientation):
  """Returns three bools: rows and columns swapped, then mirrored, upside down.

  Applied in this order they turn the stored image upright. The table is that of
  EXIF 2.3, 4.6.4, tag Orientation.
  """
  tf = tensorflow()

  def among(*values):
    return tf.reduce_any(tf.equal(orientation, values))

  return among(5, 6, 7, 8), among(2, 3, 6, 7), among(3, 4, 7, 8)


def _tensorflow_reads(encoded):
  """Returns whether TensorFlow reads a file right, in little memory."""
  tf = tensorflow()
  start = tf.strings.substr(encoded, 0, 3)
  is_known = tf.reduce_any(tf.equal(start, [_JPEG, _PNG, _GIF]))
  is_long = tf.strings.length(encoded) > _LARGE_GIF
  is_large = tf.equal(start, _GIF) & is_long
  return is_known & ~is_large & ~_claims_much(encoded)


def _claims_much(encoded):
  """Returns whether a file is a JPEG or PNG that may unpack to gigabytes.

  Pillow reads the same pixels of a PNG. Its size comes first (PNG
  specification, 11.2.2).
  """
  tf = tensorflow()

  def is_large_png():
    sides = tf.io.decode_raw(
      tf.strings.substr(encoded, 16, 8), tf.int32, little_endian=False
    )
    sides = tf.cast(tf.bitwise.bitwise_and(sides, 2**31 - 1), tf.float64)
    return tf.reduce_prod(sides) > pillow.SPARSE_PIXELS

  start = tf.strings.substr(encoded, 0, 3)
  has_size = tf.strings.length(encoded) >= 24
  return tf.case(
    [
      (tf.equal(start, _JPEG), lambda: ~is_jpeg_for_tensorflow(encoded)),
      (tf.equal(start, _PNG) & has_size, is_large_png),
    ],
    default=lambda: tf.constant(False),
  )


def _contains(encoded, pattern):
  """Returns whether bytes contain a pattern.

  tf.strings.regex_full_match would stop at bytes that are no UTF-8.
  """
  tf = tensorflow()
  without = tf.strings.regex_replace(encoded, pattern, '', replace_global=False)
  return tf.not_equal(tf.strings.length(without), tf.strings.length(encoded))
