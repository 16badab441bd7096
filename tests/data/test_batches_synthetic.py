import itertools

import numpy as np
import pytest

from vit_jax_repro.data import batches

pytestmark = pytest.mark.quick

OPTIONS = {'image_size': (4, 6), 'num_classes': 3, 'batch_size': 50}


def test_synthetic_float32_shapes_and_ranges():
  (batch,) = batches.synthetic(**OPTIONS, num_batches=1)
  assert batch['image'].shape == (50, 4, 6, 3)
  assert batch['image'].dtype == np.float32
  assert -1 <= batch['image'].min() < -0.9 < 0.9 < batch['image'].max() <= 1
  assert set(batch['label'].tolist()) == {0, 1, 2}
  assert batch['label'].dtype == np.int32 and batch['mask'].all()


def test_synthetic_uint8_range():
  (batch,) = batches.synthetic(**OPTIONS, num_batches=1, dtype='uint8')
  assert batch['image'].dtype == np.uint8
  assert (batch['image'].min(), batch['image'].max()) == (0, 255)


def test_batch_depends_on_seed_and_index_only():
  first = list(batches.synthetic(**OPTIONS, num_batches=3, seed=7))
  again = list(itertools.islice(batches.synthetic(**OPTIONS, seed=7), 3))
  other = next(batches.synthetic(**OPTIONS, seed=8))
  for a, b in zip(first, again, strict=True):
    np.testing.assert_array_equal(a['image'], b['image'])
    np.testing.assert_array_equal(a['label'], b['label'])
  assert (first[0]['image'] != first[1]['image']).any()
  assert (first[0]['image'] != other['image']).any()


def test_synthetic_rejects_an_unknown_dtype_at_once():
  with pytest.raises(ValueError, match="dtype='int8' must be"):
    batches.synthetic(**OPTIONS, dtype='int8')
