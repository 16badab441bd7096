"""Resizing rules for position embeddings, compared with PyTorch."""

import numpy as np
import pytest

from vit_jax_repro.comparison import position_rules

GRIDS = [((14, 14), (24, 24)), ((14, 14), (7, 7)), ((3, 5), (6, 4))]


def resize(embeddings, rule, source, target, num_tokens=0):
  return position_rules.resize(
    embeddings, target, source_grid=source, num_tokens=num_tokens, rule=rule
  )


def noise(source, num_tokens=0):
  cells = source[0] * source[1]
  generator = np.random.default_rng(0)
  return generator.standard_normal((1, num_tokens + cells, 8))


@pytest.mark.quick
@pytest.mark.parametrize('rule', position_rules.RULES)
@pytest.mark.parametrize(('source', 'target'), GRIDS)
def test_resize_keeps_constants_and_tokens(rule, source, target):
  flat = np.full((1, 2 + source[0] * source[1], 4), 0.25, np.float32)
  flat[0, :2] = [[1] * 4, [2] * 4]
  found = resize(flat, rule, source, target, num_tokens=2)
  assert found.dtype == np.float32
  assert found.shape == (1, 2 + target[0] * target[1], 4)
  np.testing.assert_array_equal(found[0, :2], flat[0, :2])
  np.testing.assert_allclose(found[0, 2:], 0.25, rtol=1e-6)


@pytest.mark.quick
@pytest.mark.parametrize('rule', position_rules.RULES)
def test_resize_to_the_same_grid_is_the_identity(rule):
  embeddings = noise((4, 4), 1)
  np.testing.assert_allclose(
    resize(embeddings, rule, (4, 4), (4, 4), 1), embeddings, atol=1e-12
  )


@pytest.mark.parametrize('rule', position_rules.RULES)
@pytest.mark.parametrize(('source', 'target'), GRIDS)
def test_rules_match_pytorch(rule, source, target):
  from torch import from_numpy
  from torch.nn import functional

  mode, _, kind = rule.partition(', ')
  embeddings = noise(source)
  grid = from_numpy(embeddings.reshape(1, *source, -1)).permute(0, 3, 1, 2)
  expected = functional.interpolate(
    grid,
    size=target,
    mode=mode,
    align_corners=False,
    antialias=kind == 'antialiased',
  )
  expected = expected.permute(0, 2, 3, 1).reshape(1, -1, 8).numpy()
  found = resize(embeddings, rule, source, target)
  np.testing.assert_allclose(found, expected, atol=1e-12)
