"""The pictures and tags that a run writes for TensorBoard."""

import numpy as np
import pytest

from vit_jax_repro.data import preprocess
from vit_jax_repro.runs import tensorboard

pytestmark = pytest.mark.quick

_IMAGES = np.random.default_rng(0).integers(0, 256, (18, 2, 3, 3), np.uint8)


@pytest.mark.parametrize('name', ['vit_jax', 'deit'])
def test_grid_shows_normalised_images_as_they_were(name):
  """Pixels are scaled with the wrong mean, deviation or order."""
  scale = preprocess.pick_preprocessing(name)
  images = preprocess.normalize(
    _IMAGES.astype(np.float32), scale.mean, scale.std
  )
  grid = tensorboard.grid(np.asarray(images), scale.mean, scale.std)
  np.testing.assert_array_equal(grid, tensorboard.grid(_IMAGES, (), ()))


def test_grid_places_images_in_rows_of_four():
  """Images are transposed, left out or wrapped around."""
  grid = tensorboard.grid(_IMAGES, (), ())
  assert grid.shape == (8, 12, 3)
  np.testing.assert_array_equal(grid[2:4, 3:6], _IMAGES[5])
  five = tensorboard.grid(_IMAGES[:5], (), ())
  assert five.shape == (4, 12, 3) and not five[2:, 3:].any()
