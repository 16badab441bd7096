"""From an encoded image file to the array a model is evaluated on.

A preprocessing is a function `(encoded, image_size) -> image` of TensorFlow
operations, so that it runs inside tf.data as well as eagerly:

  encoded     scalar string tensor or bytes: a whole JPEG, PNG, GIF or BMP file
  image_size  (height, width) in pixels
  image       [height, width, 3] float32

It starts from the encoded file because recipes differ in the decoder too.
Letters in shapes: H W pixels of the result, h w pixels of the file.
"""

import re

from vit_jax_repro.data.tensorflow_cpu import tensorflow


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
  return tensorflow().image.resize(
    image, image_size, method=method, antialias=antialias
  )


def normalize(image):  # [0, 255] -> [-1, 1]
  """The one scaling of all published Google ViT, Mixer and BiT files."""
  return (image - 127.5) / 127.5


def squash_and_normalize(encoded, image_size):  # bytes -> [H, W, 3] float32
  """The evaluation of google-research/vision_transformer and big_transfer.

  Both read, squash and scale alike (`vit_jax/input_pipeline.py` with
  `pp.crop`, `bit_tf2` / `bit_jax` input pipelines in evaluation mode).
  """
  return normalize(squash(decode(encoded), image_size))


# By name, as model.json and --preprocessing give it.
PREPROCESSINGS = {
  'vit_jax': squash_and_normalize,
  'bit': squash_and_normalize,
}


# Far above any published model's 560; what is larger is a slip of the keyboard
# that would take all memory.
MAX_IMAGE_SIZE = 8192


def check_image_size(image_size):
  """Turns `S` or `(H, W)` into `(H, W)`, positive integers both.

  Raises:
    ValueError: it is neither, or a side is above `MAX_IMAGE_SIZE`.
  """
  sides = image_size if isinstance(image_size, tuple | list) else (image_size,)
  sides = tuple(sides) * (2 if len(sides) == 1 else 1)
  if len(sides) != 2 or not all(
    isinstance(side, int) and side > 0 for side in sides
  ):
    raise ValueError(
      f'image size {image_size!r} must be a positive number of pixels or a '
      '(height, width) pair of them'
    )
  if max(sides) > MAX_IMAGE_SIZE:
    raise ValueError(
      f'image size {image_size!r} is above {MAX_IMAGE_SIZE} pixels, the '
      'largest side that is read'
    )
  return sides


def pick_preprocessing(name):
  """The function called `name`; a ValueError names the ones there are."""
  if name not in PREPROCESSINGS:
    raise ValueError(
      f'unknown preprocessing {name!r}; choose from {sorted(PREPROCESSINGS)}'
    )
  return PREPROCESSINGS[name]


def read_image(path, *, preprocessing, image_size):
  """Reads one image file.

  Args:
    path: of a JPEG, PNG, GIF or BMP file.
    preprocessing: a name in PREPROCESSINGS.
    image_size: S or (H, W) pixels.

  Returns:
    [H, W, 3] float32 numpy array.

  Raises:
    OSError: there is no such file, or it cannot be read.
    ValueError: it is no image, or damaged; unknown preprocessing; bad size.
  """
  function = pick_preprocessing(preprocessing)
  image_size = check_image_size(image_size)
  with open(path, 'rb') as file:
    encoded = file.read()
  try:
    return function(encoded, image_size).numpy()
  except tensorflow().errors.InvalidArgumentError as error:
    raise ValueError(undecodable(path, error)) from None


def undecodable(name, error):
  """One line about an image that TensorFlow could not decode."""
  return (
    f'{name} is not a readable JPEG, PNG, GIF or BMP image '
    f'({first_line(error)})'
  )


def first_line(error):
  """What a TensorFlow error says, without where in a graph it happened."""
  line = error.message.splitlines()[0].split(' [Op:')[0]
  return re.sub(r'{{.*?}} *', '', line).strip()
