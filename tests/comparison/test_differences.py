"""Differences of activations, layer by layer."""

import math

import numpy as np
import pytest

from vit_jax_repro.comparison import differences

pytestmark = pytest.mark.quick


def one(expected, actual, tolerance=1e-3):
  expected = np.asarray(expected, np.float32)
  actual = np.asarray(actual, np.float32)
  found = differences.compare({'x': expected}, {'x': actual}, {'x': tolerance})
  return found[0]


def test_compare_measures_a_layer():
  layer = one([[3, -4]], [[3, -4.5]])
  assert layer.max_abs == 0.5
  assert layer.relative == 0.125
  assert layer.cosine == pytest.approx(
    (9 + 18) / (5 * math.hypot(3, 4.5)), abs=1e-12
  )
  assert layer.excess == 500
  assert not layer.within


def test_equal_layers_are_within_any_tolerance():
  layer = one([[0, 0]], [[0, 0]], tolerance=0.0)
  assert layer.within and layer.relative == 0


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_nan_and_infinity_are_outside_any_tolerance(value):
  layer = one([[1, 2]], [[1, value]])
  assert layer.max_abs == math.inf and not layer.within
  assert math.isfinite(differences.total_excess([layer]))


def test_aligned_converts_layouts():
  grid = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)  # [B, h, w, C]
  for port in (
    np.moveaxis(grid, -1, 1),  # [B, C, h, w]
    grid.reshape(2, 12, 5),  # [B, N, C]
    grid,
  ):
    np.testing.assert_array_equal(differences.aligned(port, grid.shape), grid)
  pooled = np.arange(10).reshape(2, 5)
  np.testing.assert_array_equal(
    differences.aligned(pooled[:, :, None, None], (2, 5)), pooled
  )


@pytest.mark.parametrize('shape', [(2, 5, 4, 4), (2, 13, 5), (2, 5)])
def test_compare_leaves_out_other_shapes(shape):
  array = np.zeros(shape)
  assert differences.aligned(array, (2, 3, 4, 5)) is None
  found = differences.compare(
    {'x': np.zeros((2, 3, 4, 5)), 'y': np.zeros(1)},
    {'x': array, 'y': np.zeros(1)},
    {'x': 1.0, 'y': 1.0},
  )
  assert [layer.name for layer in found] == ['y']


def test_compare_leaves_out_tokens_before_positions_of_patches():
  """A port's tokens may be there already where only patches get positions."""
  name, patches = 'Transformer/posembed_input', np.ones((2, 4, 3))
  tokens = np.concatenate([np.zeros((2, 3, 3)), patches], axis=1)
  for other, number in ((name, 1), ('Transformer/encoderblock_0', 0)):
    arrays = {other: patches}, {other: tokens}
    found = differences.compare(*arrays, {other: 1e-3})
    assert len(found) == number and all(layer.max_abs == 0 for layer in found)
    assert len(differences.not_compared(*arrays)) == 1 - number


def test_not_compared_names_both_shapes():
  reference = {n: np.zeros((3, 10)) for n in ('embedding', 'stem', 'logits')}
  port = {'logits': np.zeros((3, 20)), 'stem': np.zeros((3, 10))}
  assert differences.not_compared(reference, port) == (
    ('embedding', 'not found in the port'),
    ('logits', '(3, 20), not (3, 10)'),
  )


def test_first_outside_total_excess_and_worst():
  good, bad, worse = one([1.0], [1.0]), one([1.0], [1.1]), one([1.0], [2.0])
  layers = [good, bad, worse]
  assert differences.first_outside(layers) is bad
  assert differences.first_outside([good]) is None
  assert differences.total_excess([good]) == 0
  assert differences.total_excess(layers) == pytest.approx(
    math.log(100) + math.log(1000), rel=1e-3
  )
  assert differences.worst(layers) == pytest.approx(1000)


def test_alike_but_scale_ignores_mean_and_scale_of_each_token():
  """What a LayerNorm hides must not count as other values, and only that."""
  a = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
  changed = 3 * a + np.arange(5, dtype=np.float32)[:, None]
  assert differences.alike_but_scale(a, changed, 1e-3)
  assert differences.alike_but_scale(a, changed.swapaxes(0, 1), 1e-3)
  assert not differences.alike_but_scale(a, -a, 1e-3)
  assert not differences.alike_but_scale(a, a + a[:, :, ::-1], 1e-3)
  assert not differences.alike_but_scale(a, a[:, 1:], 1e-3)
