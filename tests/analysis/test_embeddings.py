"""Position embeddings of every kind, and principal components of filters."""

import efficientnets
import numpy as np
import pytest
import tiny_models

from vit_jax_repro import models
from vit_jax_repro.analysis import embeddings
from vit_jax_repro.models import positions

pytestmark = pytest.mark.quick

SIZE, GRID = (8, 12), (2, 3)


def table_of(layer=0, **fields):
  """Returns the parameters of a model and its position table."""
  spec = tiny_models.spec(3, **fields)
  params = tiny_models.params_of(spec, SIZE)
  model = models.create(spec)
  return params, embeddings.position_table(model, params, GRID, layer)


@pytest.mark.parametrize('distilled', [False, True])
def test_position_table_leaves_out_extra_tokens(distilled):
  params, table = table_of(distilled=distilled, num_registers=2)
  stored = params['Transformer']['posembed_input']['pos_embedding']
  cells = stored[0, 1 + distilled :].reshape(*GRID, 16)
  np.testing.assert_array_equal(table, cells)


def test_position_table_of_big_vision_has_no_class_token():
  params, table = table_of(class_token_after_positions=True)
  stored = params['pos_embedding'][0]
  np.testing.assert_array_equal(table, stored.reshape(*GRID, 16))


@pytest.mark.parametrize('scan', [False, True])
def test_position_table_returns_the_table_of_a_layer(scan):
  params, table = table_of(1, position_embedding_at='every_layer', scan=scan)
  blocks = params['Transformer']
  if scan:
    stored = blocks['encoderblock']['posembed_layer']['pos_embedding'][1]
  else:
    stored = blocks['encoderblock_1']['posembed_layer']['pos_embedding']
  np.testing.assert_array_equal(table, stored[0, 1:].reshape(*GRID, 16))
  with pytest.raises(ValueError, match=r'layer=2 has no position.* 0 to 1'):
    table_of(2, position_embedding_at='every_layer')


def test_position_table_of_learned2d_and_sincos2d():
  params, table = table_of(
    position_embedding='learned2d', position_embedding_at='shared'
  )
  stored = params['Transformer']['posembed_shared']
  assert table.shape == (*GRID, 16)
  np.testing.assert_array_equal(
    table[1, 2], [*stored['x_embedding'][0, 2], *stored['y_embedding'][0, 1]]
  )
  _, table = table_of(position_embedding='sincos2d', classifier='gap')
  fixed = np.asarray(positions.sincos2d(GRID, 16))
  np.testing.assert_array_equal(table, fixed.reshape(*GRID, 16))


def test_position_table_rejects_models_without_one():
  for kind in ('none', 'relative'):
    with pytest.raises(ValueError, match=f'position_embedding={kind!r}, with'):
      table_of(position_embedding=kind)
  model = models.create(tiny_models.spec(3, tiny_models.MIXER))
  with pytest.raises(ValueError, match='Mixer has no'):
    embeddings.position_table(model, {}, GRID)
  with pytest.raises(ValueError, match=r'layer=1 has no position.* 0 to 0'):
    table_of(1)


def test_similarity_is_the_cosine_of_all_pairs():
  table = np.array([[[1.0, 0], [3, 0], [1, 1]], [[-2, 0], [0, 5], [0, 0]]])
  grids = embeddings.similarity(table)
  half = 0.5**0.5
  np.testing.assert_allclose(grids[0, 0], [[1, 1, half], [-1, 0, 0]])
  np.testing.assert_allclose(grids[1, 1], [[0, 0, half], [0, 1, 0]])
  np.testing.assert_array_equal(grids[1, 2], np.zeros((2, 3)))
  table[0, 0, 0] = np.nan
  with pytest.raises(ValueError, match='hold NaN or infinity'):
    embeddings.similarity(table)


def test_principal_components_match_a_calculation_by_hand():
  # Filters differ from their mean by 3 along one pattern or by 1 along another.
  first, second = np.zeros((2, 2, 1, 3))
  first[0, 0], second[1, 0] = [0.6, 0, -0.8], [0, 1, 0]
  kernel = np.stack(
    [7 + 3 * first, 7 - 3 * first, 7 + second, 7 - second], axis=-1
  )
  components, shares = embeddings.principal_components(kernel)
  assert components.shape == (3, 2, 1, 3)
  np.testing.assert_allclose(shares, [0.9, 0.1, 0], atol=1e-12)
  np.testing.assert_allclose(components[0], -first, atol=1e-12)
  np.testing.assert_allclose(components[1], second, atol=1e-12)
  components, shares = embeddings.principal_components(kernel, 1)
  assert components.shape == (1, 2, 1, 3) and shares.shape == (1,)
  with pytest.raises(ValueError, match='all filters are alike'):
    embeddings.principal_components(np.ones((2, 2, 3, 8)))


def test_rgb_filters_returns_the_first_kernel_of_each_family():
  hybrid = tiny_models.spec(
    3, patch_size=[1, 1], stem_num_layers=[1], stem_width_factor=0.5
  )
  for spec, shape in (
    (tiny_models.spec(3), (4, 4, 3, 16)),
    (hybrid, (7, 7, 3, 32)),
    (tiny_models.spec(3, tiny_models.MIXER), (4, 4, 3, 8)),
    (efficientnets.tiny(), (3, 3, 3, 16)),
    (tiny_models.spec(3, tiny_models.BIT), (7, 7, 3, 32)),
  ):
    params = tiny_models.params_of(spec, (32, 32))
    assert embeddings.rgb_filters(params).shape == shape
  params['root_block']['conv']['kernel'][0, 0, 0, 0] = np.inf
  with pytest.raises(ValueError, match='root_block/conv/kernel holds NaN or'):
    embeddings.rgb_filters(params)
  with pytest.raises(ValueError, match='no filters of RGB values'):
    embeddings.rgb_filters({'head': {'kernel': np.zeros((3, 3))}})
