import numpy as np
import pytest

from vit_jax_repro.data.order import LARGEST_SEED, fold_in, fold_in_text, key_of
from vit_jax_repro.data.tf_host import tensorflow

pytestmark = pytest.mark.quick


def test_keys_depend_on_all_their_inputs():
  keys = [key_of(seed) for seed in (0, 1, LARGEST_SEED)]
  keys += [fold_in(key, number) for key in keys for number in (0, 1, -1)]
  keys += [fold_in_text(key_of(0), text) for text in ('', 'a', 'b')]
  keys += [fold_in(fold_in(key_of(0), a), b) for a, b in ((2, 3), (3, 2))]
  assert all(key.dtype == 'int64' and key.shape == (2,) for key in keys)
  assert len({tuple(key.numpy()) for key in keys}) == len(keys)


def test_keys_never_change():
  """A run resumed with a new version must see the same images."""
  key = fold_in_text(fold_in(key_of(7), 5), 'train/a/1.png')
  np.testing.assert_array_equal(
    key, [-4158317788434128980, -699934421393616083]
  )


def test_neighbouring_keys_give_uncorrelated_numbers():
  """Keys are only products and sums, but TensorFlow's generator mixes them."""
  tf = tensorflow()
  keys = [fold_in(key_of(0), i) for i in range(2000)]
  drawn = np.array([tf.random.stateless_uniform([2], key) for key in keys])
  for lag in (0, 1, 2):
    one, two = drawn[lag:, 0], drawn[: len(drawn) - lag, 1]
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.09  # four standard deviations
  assert abs(np.corrcoef(drawn[1:, 0], drawn[:-1, 0])[0, 1]) < 0.09
  assert abs(drawn.mean(axis=0) - 0.5).max() < 0.026


@pytest.mark.parametrize('seed', [-1, LARGEST_SEED + 1])
def test_key_of_rejects_a_wrong_seed(seed):
  with pytest.raises(ValueError, match=rf'seed={seed} must lie in 0\.\.9'):
    key_of(seed)
