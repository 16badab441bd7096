import numpy as np
import pytest

from vit_jax_repro.data import batches

pytestmark = pytest.mark.quick


def batch_of(size):
  return {
    'image': np.ones((size, 2, 2, 3), np.float32),
    'label': np.arange(size, dtype=np.int32),
  }


@pytest.mark.parametrize('size', [0, 1, 5])
def test_pad_adds_masked_rows(size):
  padded = batches.pad(batch_of(size), 5)
  assert {k: v.shape for k, v in padded.items()} == {
    'image': (5, 2, 2, 3), 'label': (5,), 'mask': (5,)
  }  # fmt: skip
  assert padded['mask'].tolist() == [True] * size + [False] * (5 - size)
  assert padded['image'].sum() == size * 12
  assert padded['label'].dtype == np.int32


def test_pad_keeps_a_mask():
  batch = {**batch_of(2), 'mask': np.array([False, True])}
  mask = batches.pad(batch, 4)['mask']
  assert mask.tolist() == [False, True, False, False]


def test_pad_does_not_copy_a_full_batch():
  batch = batch_of(3)
  assert batches.pad(batch, 3)['image'] is batch['image']
  assert 'mask' not in batch


def test_pad_rejects_too_many_rows():
  with pytest.raises(ValueError, match=r'3 rows does not fit .*num_rows=2'):
    batches.pad(batch_of(3), 2)
