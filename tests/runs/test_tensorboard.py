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


def test_continue_from_hides_steps_that_come_again(tmp_path):
  """A killed process wrote steps 3 and 4; its successor begins after step 2."""
  from tensorboard.backend.event_processing import (
    plugin_event_accumulator as loading,
  )
  from tensorboard.util import tensor_util

  tensorboard.continue_from(str(tmp_path), 2)
  assert not list(tmp_path.iterdir())
  killed = tensorboard.Events(str(tmp_path))
  for step in (1, 2, 3, 4):
    killed.scalars(step, {'train_loss': 10.0 * step})
  killed.flush()
  old = next(tmp_path.iterdir())
  parts = old.name.split('.')
  parts[3] = str(int(parts[3]) - 60)  # it began a minute ago
  old.rename(tmp_path / '.'.join(parts))
  tensorboard.continue_from(str(tmp_path), 2)
  following = tensorboard.Events(str(tmp_path))
  for step in (3, 4, 5):
    following.scalars(step, {'train_loss': float(step)})
  following.close()
  shown = loading.EventAccumulator(str(tmp_path)).Reload()
  points = [
    (point.step, float(tensor_util.make_ndarray(point.tensor_proto)))
    for point in shown.Tensors('train/loss')
  ]
  assert points == [(1, 10.0), (2, 20.0), (3, 3.0), (4, 4.0), (5, 5.0)]
