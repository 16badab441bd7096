"""Loads reference cases as canonical trees and compares trees."""

import functools

import numpy as np
import reference

from vit_jax_repro import ports, weights
from vit_jax_repro.weights import npz, trees


@functools.cache
def heads(case):
  """Returns the number of attention heads of a case, or None."""
  fields = reference.config(case)
  return {**fields, **fields.get('transformer', {})}.get('num_heads')


def tree(case, folder):
  """Returns the canonical tree of a case, read from a file in a folder."""
  if case.startswith('deit'):
    return ports.from_state_dict(
      reference.checkpoint(case), num_heads=heads(case)
    )
  npz.write(folder / 'case.npz', reference.checkpoint(case).items())
  return weights.load(folder / 'case.npz')


def assert_same(tree, other):
  """Compares two trees bit for bit."""
  tree, other = trees.flatten(tree), trees.flatten(other)
  assert tree.keys() == other.keys()
  for name in tree:
    array, found = np.asarray(tree[name]), np.asarray(other[name])
    assert (array.dtype, array.shape) == (found.dtype, found.shape), name
    assert array.tobytes() == found.tobytes(), name
