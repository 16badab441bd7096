"""The operations compared with Pillow, or with a computation by hand."""

import numpy as np
import pytest
from photographs import PHOTOGRAPHS
from PIL import Image, ImageEnhance, ImageOps

from vit_jax_repro.data import image_ops
from vit_jax_repro.data.tf_host import tensorflow

FILL = (124, 116, 104)


def arrays():
  random = np.random.default_rng(0)
  photograph = Image.open(PHOTOGRAPHS['china']).convert('RGB')
  return {
    'photograph': np.asarray(photograph)[100:200, 50:202],
    'narrow range': random.integers(60, 187, (23, 38, 3), 'u1'),
    'one colour': np.full((4, 5, 3), (0, 7, 255), 'u1'),
    'few pixels': random.integers(0, 256, (2, 1, 3), 'u1'),
    'one pixel': random.integers(0, 256, (1, 1, 3), 'u1'),
  }


ARRAYS = arrays()
each_image = pytest.mark.parametrize('name', ARRAYS)


def same(ours, pillows, most=0):
  """Asserts differences of at most one level, in at most `most` of values."""
  assert ours.dtype == 'uint8'
  difference = np.abs(np.int32(ours) - np.int32(pillows))
  assert difference.max() <= (1 if most else 0)
  assert (difference > 0).mean() <= most


@each_image
@pytest.mark.parametrize('operation', ['autocontrast', 'equalize', 'invert'])
def test_operations_without_an_amount_equal_pillow(name, operation):
  ours = getattr(image_ops, operation)(tensorflow().constant(ARRAYS[name]))
  pillows = getattr(ImageOps, operation)(Image.fromarray(ARRAYS[name]))
  same(ours, pillows)


@each_image
def test_posterize_equals_pillow(name):
  image = tensorflow().constant(ARRAYS[name])
  for bits in range(1, 9):
    pillows = ImageOps.posterize(Image.fromarray(ARRAYS[name]), bits)
    same(image_ops.posterize(image, bits), pillows)
  assert not image_ops.posterize(image, 0).numpy().any()


@each_image
def test_solarize_equals_pillow(name):
  image = tensorflow().constant(ARRAYS[name])
  for threshold in (0, 1, 26, 128, 255, 256):
    pillows = ImageOps.solarize(Image.fromarray(ARRAYS[name]), threshold)
    same(image_ops.solarize(image, threshold), pillows)


@pytest.mark.parametrize('addition', [0, 1, 110, 165, 220, 255])
def test_solarize_add_brightens_dark_levels_only(addition):
  levels = np.arange(256, dtype='u1').reshape(16, 16, 1).repeat(3, 2)
  found = image_ops.solarize_add(tensorflow().constant(levels), addition)
  wanted = np.where(
    levels < 128, np.minimum(np.int32(levels) + addition, 255), levels
  )
  np.testing.assert_array_equal(found, wanted)


@each_image
@pytest.mark.parametrize(
  'operation', ['Color', 'Contrast', 'Brightness', 'Sharpness']
)
def test_enhancing_operations_equal_pillow(name, operation):
  image = tensorflow().constant(ARRAYS[name])
  pillows = getattr(ImageEnhance, operation)(Image.fromarray(ARRAYS[name]))
  for factor in (0.1, 0.55, 1.0, 1.3, 1.9, 3.7):
    ours = getattr(image_ops, operation.lower())(image, factor)
    same(ours, pillows.enhance(factor))


def test_contrast_is_relative_to_a_given_level():
  image = np.uint8([[[0, 100, 200], [10, 150, 250]]])
  found = image_ops.contrast(tensorflow().constant(image), 1.5, middle=196)
  wanted = np.clip(196 + 1.5 * (np.float32(image) - 196), 0, 255)
  np.testing.assert_array_equal(found, wanted.astype('u1'))


@pytest.mark.parametrize(
  ('center', 'rows', 'columns'),
  [
    ((5, 6), (3, 7), (4, 8)),
    ((0, 8), (0, 2), (6, 9)),
    ((9, 0), (7, 10), (0, 2)),
  ],
)
def test_cutout_fills_a_square_inside_the_image(center, rows, columns):
  image = np.arange(270).reshape(10, 9, 3).astype('u1')
  found = image_ops.cutout(tensorflow().constant(image), center, 2, 128)
  image[slice(*rows), slice(*columns)] = 128
  np.testing.assert_array_equal(found, image)


def test_cutout_of_side_0_keeps_the_image():
  image = ARRAYS['narrow range']
  found = image_ops.cutout(tensorflow().constant(image), (3, 3), 0, 128)
  np.testing.assert_array_equal(found, image)


def moved_by_hand(image, x, y, fill):
  """Moves pixels with nearest-neighbour interpolation in NumPy."""
  height, width, _ = image.shape
  found = np.full_like(image, fill)
  for row, column in np.ndindex(height, width):
    place = np.array([column, row, 1])
    from_x, from_y = (int(np.floor(place @ term + 0.5)) for term in (x, y))
    if 0 <= from_x < width and 0 <= from_y < height:
      found[row, column] = image[from_y, from_x]
  return found


STAYS_X, STAYS_Y = (1, 0, 0), (0, 1, 0)
MOVES = {
  'shear x': ((1, 0.31, 0), STAYS_Y),
  'shear x back': ((1, -0.27, 0), STAYS_Y),
  'shear y': (STAYS_X, (0.31, 1, 0)),
  'translate x': ((1, 0, 7), STAYS_Y),
  'translate y': (STAYS_X, (0, 1, -4)),
  'nothing': (STAYS_X, STAYS_Y),
}


@pytest.mark.parametrize('move', MOVES)
def test_nearest_equals_a_computation_by_hand(move):
  image = ARRAYS['narrow range']
  x, y = MOVES[move]
  found = image_ops.nearest(tensorflow().constant(image), x, y, fill=128)
  np.testing.assert_array_equal(found, moved_by_hand(image, x, y, 128))


@pytest.mark.parametrize('turns', [1, -1, 2])
def test_nearest_by_quarter_turns_equals_rot90(turns):
  """Rotates a square around its centre in the direction of Pillow and NumPy."""
  image = ARRAYS['photograph'][:51, :51]
  x, y = image_ops.rotation(90.0 * turns, (25.0, 25.0))
  found = image_ops.nearest(tensorflow().constant(image), x, y, fill=128)
  np.testing.assert_array_equal(found, np.rot90(image, turns))


@each_image
@pytest.mark.parametrize('move', MOVES)
def test_bicubic_equals_pillow(name, move):
  """Sums round differently, so single values differ by one level."""
  image = ARRAYS[name]
  height, width, _ = image.shape
  x, y = MOVES[move]
  pillows = Image.fromarray(image).transform(
    (width, height),
    Image.Transform.AFFINE,
    (*x, *y),
    resample=Image.Resampling.BICUBIC,
    fillcolor=FILL,
  )
  tensor = tensorflow().constant(image)
  given = {
    'x': None if x == STAYS_X else x,
    'y': None if y == STAYS_Y else y,
  }
  for x_or_none, y_or_none in ((x, y), given.values()):
    ours = image_ops.bicubic(tensor, x_or_none, y_or_none, fill=FILL)
    same(ours, pillows, most=1e-3)


def test_bicubic_by_fractions_of_a_pixel_equals_pillow():
  image = ARRAYS['photograph']
  height, width, _ = image.shape
  pillows = Image.fromarray(image).transform(
    (width, height),
    Image.Transform.AFFINE,
    (1, 0, 0.405 * width, 0, 1, -0.31 * height),
    resample=Image.Resampling.BICUBIC,
    fillcolor=FILL,
  )
  x, y = (1, 0, 0.405 * width), (0, 1, -0.31 * height)
  ours = image_ops.bicubic(tensorflow().constant(image), x, y, fill=FILL)
  same(ours, pillows, most=1e-3)


@each_image
@pytest.mark.parametrize('degrees', [27.0, -30.0, 3.0])
def test_bicubic_rotation_equals_pillow(name, degrees):
  image = ARRAYS[name]
  height, width, _ = image.shape
  pillows = Image.fromarray(image).rotate(
    degrees, resample=Image.Resampling.BICUBIC, fillcolor=FILL
  )
  x, y = image_ops.rotation(degrees, (height / 2, width / 2))
  ours = image_ops.bicubic(tensorflow().constant(image), x, y, fill=FILL)
  same(ours, pillows, most=1e-3)
