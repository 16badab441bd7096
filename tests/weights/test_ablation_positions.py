"""Position embeddings of the ViT paper, D.4: names, sizes and files."""

import re

import jax
import numpy as np
import pytest
import tiny_models

from vit_jax_repro import models, weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.models import positions as kinds
from vit_jax_repro.weights import ablation_positions, trees
from vit_jax_repro.weights.adapt import parameter_shapes

pytestmark = pytest.mark.quick

IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype('f4')
LARGE = (24, 32)
CASES = [
  *((k, p) for k in ('learned', 'learned2d') for p in kinds.PLACES),
  *(('relative', p) for p in kinds.PLACES),
]


def model_of(kind, place, **fields):
  architecture = tiny_models.spec(
    3, position_embedding=kind, position_embedding_at=place, **fields
  )
  params = tiny_models.params_of(architecture, (16, 16))
  return models.create(architecture), params


@pytest.mark.slow
@pytest.mark.parametrize(('kind', 'place'), CASES)
def test_describe_gives_kind_and_place(kind, place, tmp_path):
  model, params = model_of(kind, place)
  weights.save(tmp_path / 'model.npz', params)
  loaded = weights.load(tmp_path / 'model.npz')
  jax.tree.map(np.testing.assert_array_equal, loaded, params)
  spec = weights.describe(loaded)
  assert spec['image_size'] == (16, 16)
  assert models.create(spec) == model
  if (kind, place) != ('learned', 'stem'):
    with pytest.raises(ValueError, match=r"no place for .*layout='official'"):
      weights.save(tmp_path / 'big.npz', params, layout='big_vision')
  if (kind, place) != ('relative', 'stem'):
    scanned = model.clone(scan=True)
    stacked = weights.adapt(params, scanned, head='keep')
    weights.save(tmp_path / 'scanned.npz', stacked)
    again = weights.load(tmp_path / 'scanned.npz')
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_describe_gives_every_layer_for_one_block():
  _, params = model_of('relative', 'stem', num_layers=1)
  assert weights.describe(params)['position_embedding_at'] == 'every_layer'


@pytest.mark.slow
@pytest.mark.parametrize(('kind', 'place'), CASES)
def test_adapt_rejects_another_image_size(kind, place):
  if (kind, place) == ('learned', 'stem'):  # the released files have these
    return
  model, params = model_of(kind, place)
  same = weights.adapt(params, model, head='keep')
  jax.tree.map(np.testing.assert_array_equal, same, params)
  table = ablation_positions.tables(trees.flatten(params))[0]
  have, want = (
    re.escape(str(shapes[table].shape))
    for shapes in (trees.flatten(params), parameter_shapes(model, LARGE))
  )
  with pytest.raises(
    InputError, match=f'{table}: file {have}, model {want}; .*keep the image'
  ) as error:
    weights.adapt(params, model, image_size=LARGE, head='keep')
  assert '\n' not in str(error.value)


def test_adapt_reports_another_kind_or_place_as_missing_and_extra():
  _, params = model_of('learned2d', 'shared')
  other, _ = model_of('learned2d', 'stem')
  with pytest.raises(
    ValueError, match=r'missing=.*posembed_input/x_emb.*extra'
  ):
    weights.adapt(params, other)


def test_adapt_drops_or_creates_the_mask_with_a_new_head():
  _, params = model_of('learned', 'stem', corruptible=True)
  assert weights.describe(params)['corruptible']
  plain, plain_params = model_of('learned', 'stem')
  assert 'mask' not in weights.adapt(params, plain)
  with pytest.raises(ValueError, match=r"extra=\['mask'\]"):
    weights.adapt(params, plain, head='keep')
  made = weights.adapt(plain_params, plain.clone(corruptible=True))
  assert made['mask'].shape == (1, 1, 16) and not np.any(made['mask'])
