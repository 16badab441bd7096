"""Comparison of parameters, array by array."""

import numpy as np
import pytest

from vit_jax_repro.comparison import parameters

pytestmark = pytest.mark.quick


def test_compare_equal_trees():
  tree = {'a': {'b': np.ones(3)}, 'c': np.zeros(2)}
  found = parameters.compare(tree, {'a/b': np.ones(3), 'c': np.zeros(2)})
  assert found.equal
  assert (found.num_arrays, found.num_equal) == (2, 2)


def test_compare_lists_every_difference():
  ours = {'a': np.ones(3), 'b': np.ones(3), 'c': np.ones(3), 'd': np.ones(3)}
  port = {'a': np.ones(3), 'b': np.ones(4), 'c': np.full(3, 1.5), 'e': 1}
  port['a'] = np.float32([1, 1, 1 + 1e-6])
  found = parameters.compare(ours, port)
  assert not found.equal
  assert (found.num_arrays, found.num_equal) == (4, 0)
  assert [name for name, _ in found.different] == ['c', 'a']
  assert found.different[0][1] == 0.5
  assert found.unmatched == (
    ('b', '(4,), not (3,)'),
    ('d', 'missing in the port'),
    ('e', 'only in the port'),
  )


def test_compare_lists_nan():
  found = parameters.compare({'a': np.ones(1)}, {'a': np.full(1, np.nan)})
  assert found.different == (('a', np.inf),)
