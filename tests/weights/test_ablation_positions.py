"""Names, resizing and files of position embeddings of ViT's appendix D.4."""

import jax
import numpy as np
import pytest
import scipy.ndimage
import tiny_models

from vit_jax_repro import models, weights
from vit_jax_repro.models import positions as kinds
from vit_jax_repro.weights import ablation_positions, trees

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


@pytest.mark.parametrize(('kind', 'place'), CASES)
def test_a_file_says_kind_and_place(kind, place, tmp_path):
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


def test_one_block_with_relative_positions_is_every_layer():
  _, params = model_of('relative', 'stem', num_layers=1)
  assert weights.describe(params)['position_embedding_at'] == 'every_layer'


@pytest.mark.parametrize('place', kinds.PLACES)
def test_rows_and_columns_are_resized_each_along_itself(place):
  model, params = model_of('learned2d', place)
  larger = weights.adapt(params, model, image_size=LARGE)
  flat, before = trees.flatten(larger), trees.flatten(params)
  names = ablation_positions.tables(flat)
  assert len(names) == (4 if place == 'every_layer' else 2)
  for name in names:
    length = 8 if name.endswith('x_embedding') else 6
    wanted = scipy.ndimage.zoom(before[name], (1, length / 4, 1), order=1)
    np.testing.assert_array_equal(flat[name], wanted)
  assert model.apply({'params': larger}, np.zeros((1, *LARGE, 3))).shape
  assert weights.describe(larger)['image_size'] == LARGE
  same = weights.adapt(params, model, head='keep')
  jax.tree.map(np.testing.assert_array_equal, same, params)


@pytest.mark.parametrize('place', ['every_layer', 'shared'])
def test_learned_ones_are_resized_where_they_stand(place):
  model, params = model_of('learned', place)
  larger = weights.adapt(params, model, image_size=LARGE, head='keep')
  flat, before = trees.flatten(larger), trees.flatten(params)
  for name in ablation_positions.tables(flat):
    wanted = weights.resize_position_embedding(before[name], (6, 8))
    np.testing.assert_array_equal(flat[name], wanted)
  assert model.apply({'params': larger}, np.zeros((1, *LARGE, 3))).shape
  back = weights.adapt(
    larger, model, image_size=(16, 16), source_image_size=LARGE, head='keep'
  )
  table = ablation_positions.tables(flat)[0]
  assert trees.flatten(back)[table].shape == before[table].shape
  with pytest.raises(ValueError, match=f'{table}: .* no grid of') as error:
    weights.adapt(params, model, image_size=LARGE, source_image_size=(8, 40))
  assert '\n' not in str(error.value)


def test_offsets_are_of_one_image_size():
  model, params = model_of('relative', 'shared')
  weights.adapt(params, model, head='keep')
  with pytest.raises(ValueError, match='of 17 tokens, not 49; keep') as error:
    weights.adapt(params, model, image_size=LARGE)
  assert '\n' not in str(error.value)


def test_another_kind_or_place_is_missing_and_extra():
  _, params = model_of('learned2d', 'shared')
  other, _ = model_of('learned2d', 'stem')
  with pytest.raises(
    ValueError, match=r'missing=.*posembed_input/x_emb.*extra'
  ):
    weights.adapt(params, other)


def test_a_mask_is_dropped_or_made_with_a_new_head():
  _, params = model_of('learned', 'stem', corruptible=True)
  assert weights.describe(params)['corruptible']
  plain, plain_params = model_of('learned', 'stem')
  assert 'mask' not in weights.adapt(params, plain)
  with pytest.raises(ValueError, match=r"extra=\['mask'\]"):
    weights.adapt(params, plain, head='keep')
  made = weights.adapt(plain_params, plain.clone(corruptible=True))
  assert made['mask'].shape == (1, 1, 16) and not np.any(made['mask'])
