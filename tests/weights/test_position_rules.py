"""Resizing rules for position embeddings, compared with PyTorch's libraries."""

import numpy as np
import pytest
import tiny_models

from vit_jax_repro import models, weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.models.positions import RESIZINGS
from vit_jax_repro.weights import layouts, position_rules, trees

GRIDS = [((14, 14), (24, 24)), ((14, 14), (7, 7)), ((3, 5), (6, 4))]
# Libraries resize squares. A side may stay as it is while the other changes.
TARGETS = [(16, 16), (37, 20), (9, 14), (6, 5)]
INTERPOLATED = {  # arguments of torch.nn.functional.interpolate
  'bilinear': {'mode': 'bilinear'},
  'bilinear_antialias': {'mode': 'bilinear', 'antialias': True},
  'bicubic': {'mode': 'bicubic'},
  'bicubic_antialias': {'mode': 'bicubic', 'antialias': True},
}


def resize(embeddings, rule, source, target, num_tokens=0):
  return position_rules.resize(
    embeddings, target, source_grid=source, num_tokens=num_tokens, rule=rule
  )


def noise(source, num_tokens=0, dtype=np.float64):
  cells = source[0] * source[1]
  generator = np.random.default_rng(0)
  return generator.standard_normal((1, num_tokens + cells, 8)).astype(dtype)


def interpolated(embeddings, source, **arguments):
  """Returns what torch's `interpolate` makes of [1, h * w, D]."""
  from torch import from_numpy
  from torch.nn import functional

  grid = from_numpy(embeddings.reshape(1, *source, -1)).permute(0, 3, 1, 2)
  grid = functional.interpolate(grid, align_corners=False, **arguments)
  return grid.permute(0, 2, 3, 1).reshape(1, -1, embeddings.shape[-1]).numpy()


def assert_within_float32_noise(found, expected):
  """Checks that only the rounding of float32 differs.

  PyTorch computes the places of the source in float32: an error of 1e-6 of a
  cell changes a value by as much as its neighbours differ.
  """
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


@pytest.mark.quick
def test_rules_are_those_of_the_models():
  assert position_rules.RULES.keys() == RESIZINGS.keys()


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
def test_resize_to_the_same_grid_returns_the_same_array(rule):
  embeddings = noise((4, 4), 1)
  assert resize(embeddings, rule, (4, 4), (4, 4), 1) is embeddings


@pytest.mark.quick
def test_resize_rejects_an_unknown_rule():
  with pytest.raises(InputError, match="position_resizing 'nearest'; choose"):
    resize(noise((2, 2)), 'nearest', (2, 2), (3, 3))


@pytest.mark.parametrize('rule', INTERPOLATED)
@pytest.mark.parametrize(('source', 'target'), GRIDS)
def test_resize_matches_pytorch(rule, source, target):
  embeddings = noise(source)
  expected = interpolated(embeddings, source, size=target, **INTERPOLATED[rule])
  found = resize(embeddings, rule, source, target)
  np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize('target', TARGETS)
def test_resize_with_an_offset_matches_pytorch(target):
  """dinov2 gives scale factors for 0.1 patches more than there are."""
  source = (14, 14)
  embeddings = noise(source)
  factors = tuple((side + 0.1) / 14 for side in target)
  expected = interpolated(
    embeddings, source, mode='bicubic', scale_factor=factors
  )
  found = resize(embeddings, 'bicubic_offset', source, target)
  np.testing.assert_allclose(found, expected, atol=1e-12)
  plain = resize(embeddings, 'bicubic', source, target)
  assert np.abs(found - plain).max() > 1e-2


@pytest.mark.parametrize('target', TARGETS)
def test_resize_matches_timm(target):
  import timm_stub
  from torch import from_numpy

  embeddings = noise((14, 14), 1, np.float32)
  expected = timm_stub.import_timm().layers.resample_abs_pos_embed(
    from_numpy(embeddings), list(target), num_prefix_tokens=1
  )
  found = resize(embeddings, 'bicubic_antialias', (14, 14), target, 1)
  assert_within_float32_noise(found, expected)


@pytest.mark.parametrize(
  ('kind', 'rule'),
  [
    ('ViT', 'bicubic'),
    ('DeiT', 'bicubic'),
    ('Dinov2', 'bicubic'),
    ('Dinov2WithRegisters', 'bicubic_antialias'),
  ],
)
def test_resize_matches_transformers(kind, rule):
  import importlib

  import torch

  name = {'Dinov2WithRegisters': 'dinov2_with_registers'}.get(
    kind, kind.lower()
  )
  library = importlib.import_module(f'transformers.models.{name}')
  config = getattr(library, f'{kind}Config')(
    hidden_size=8, num_attention_heads=1, patch_size=2, image_size=28
  )
  code = importlib.import_module(f'transformers.models.{name}.modeling_{name}')
  module = getattr(code, f'{kind}Embeddings')(config)
  tokens = module.position_embeddings.shape[1] - 14 * 14
  embeddings = noise((14, 14), tokens, np.float32)
  module.position_embeddings.data = torch.from_numpy(embeddings)
  for target in TARGETS:
    number = tokens + target[0] * target[1]
    with torch.no_grad():
      expected = module.interpolate_pos_encoding(
        torch.zeros(1, number, 8), 2 * target[0], 2 * target[1]
      )
    found = resize(embeddings, rule, (14, 14), target, tokens)
    assert_within_float32_noise(found, expected)


@pytest.mark.parametrize('rule', ['bicubic', 'bicubic_antialias'])
def test_adapt_resizes_by_the_rule_of_the_model(rule):
  architecture = tiny_models.spec(10)
  params = tiny_models.params_of(architecture)
  model = models.create(architecture, position_resizing=rule)
  found = weights.adapt(params, model, image_size=(24, 12), head='keep')
  flat = [trees.flatten(tree)[layouts.POSITIONS] for tree in (params, found)]
  expected = interpolated(
    flat[0][:, 1:], (2, 2), size=(6, 3), **INTERPOLATED[rule]
  )
  assert_within_float32_noise(flat[1][:, 1:], expected)
  np.testing.assert_array_equal(flat[1][:, :1], flat[0][:, :1])


@pytest.mark.quick
def test_adapt_rejects_an_unknown_rule():
  architecture = tiny_models.spec(10)
  model = models.create(architecture, position_resizing='cubic')
  with pytest.raises(InputError, match="position_resizing 'cubic'; choose"):
    weights.adapt(tiny_models.params_of(architecture), model)
