"""Round trips of state dicts; test_tables.py covers the libraries' modules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import port_cases
import pytest
import reference
from port_cases import assert_same

from vit_jax_repro import models, ports
from vit_jax_repro.errors import InputError
from vit_jax_repro.ports import array_layouts, tables, tensors
from vit_jax_repro.weights import layouts, trees

pytestmark = pytest.mark.quick

VIT_LIKE = ('timm', 'transformers', 'transformers_v4', 'deit')
# The reference cases for which a library has a model; others are refused.
CONVERTED = {
  'timm': {
    'bit_tiny_1_1_1_1', 'bv_map_learn', 'bv_tok_learn', 'deit_distilled_tiny',
    'deit_tiny', 'hybrid_1_1_1', 'hybrid_2_2', 'hybrid_stem_only', 'mixer',
    'mixer_12_blocks', 'vit_12_layers', 'vit_gap', 'vit_token',
    'vit_token_rect', 'vit_token_small_variance', 'vit_token_unpooled',
    'vit_unpooled',
  },
  'transformers': {
    'bit_tiny_1_1_1_1', 'bv_tok_learn', 'deit_distilled_tiny', 'deit_tiny',
    'vit_12_layers', 'vit_token', 'vit_token_rect', 'vit_token_small_variance',
    'vit_token_unpooled',
  },
}  # fmt: skip
CONVERTED['transformers_v4'] = CONVERTED['transformers']
CONVERTED['dinov2'] = set()  # their models have no LayerScale
CONVERTED['deit'] = CONVERTED['transformers'] - {'bit_tiny_1_1_1_1'}
CONVERTED['jeonsworld'] = CONVERTED['deit'] - {'deit_distilled_tiny'}
CONVERTED['torchvision'] = CONVERTED['jeonsworld'] | {'vit_token_prelogits'}


@pytest.fixture
def tree(tmp_path):
  """Returns a function from a reference case to its canonical tree."""
  return functools.partial(port_cases.tree, folder=tmp_path)


def changed(state, **arrays):
  """Returns a state dict with some arrays replaced, or removed by None.

  `__` in a keyword means `.`.
  """
  arrays = {name.replace('__', '.'): array for name, array in arrays.items()}
  kept = {n: a for n, a in state.items() if n not in arrays}
  return kept | {n: a for n, a in arrays.items() if a is not None}


@pytest.mark.slow
@pytest.mark.parametrize('library', ports.LIBRARIES)
@pytest.mark.parametrize('case', reference.forward_cases())
def test_state_dict_round_trip_is_bit_exact(case, library, tree):
  params = tree(case)
  if case not in CONVERTED[library]:
    with pytest.raises(ValueError, match=library):
      ports.to_state_dict(params, library)
    return
  state = ports.to_state_dict(params, library)
  assert all(array.flags.c_contiguous for array in state.values())
  back = ports.from_state_dict(
    state,
    num_heads=port_cases.heads(case),
    token_slots=layouts.POSITIONS_BEFORE_CLS not in params or library == 'deit',
  )
  if case == 'bv_tok_learn' and library != 'timm':
    # The class token now has a slot of zeros.
    positions = back['Transformer']['posembed_input']['pos_embedding']
    assert not positions[:, 0].any()
    assert (positions[:, 1:] == params['pos_embedding']).all()
  else:
    assert_same(back, params)
  again = ports.to_state_dict(back, library)
  assert again.keys() == state.keys()
  assert_same(again, state)


@pytest.mark.parametrize('library', VIT_LIKE)
def test_library_of_reads_the_names(library, tree):
  if 'deit_distilled_tiny' in CONVERTED[library]:
    state = ports.to_state_dict(tree('deit_distilled_tiny'), library)
    assert ports.library_of(state) == {'timm': 'deit'}.get(library, library)
  state = ports.to_state_dict(tree('vit_token'), library)
  assert ports.library_of(state) == {'deit': 'timm'}.get(library, library)


def test_library_of_rejects_unknown_state_dicts(tree):
  with pytest.raises(ValueError, match=r'unknown state dict: 1 .* fc.weight'):
    ports.library_of(['fc.weight'])
  both = {
    **ports.to_state_dict(tree('vit_token'), 'timm'),
    **ports.to_state_dict(tree('vit_token'), 'transformers'),
  }
  with pytest.raises(ValueError, match='unknown state dict'):
    ports.library_of(both)
  for call in (ports.to_state_dict, ports.from_state_dict):
    with pytest.raises(ValueError, match='unknown library'):
      call(both, library='keras')


@pytest.mark.parametrize('dtype', [jnp.bfloat16, np.float16, np.float64])
@pytest.mark.parametrize('library', ['timm', 'transformers'])
def test_state_dict_round_trip_keeps_dtypes(dtype, library, tree):
  params = jax.tree.map(lambda a: a.astype(dtype), tree('vit_token'))
  state = ports.to_state_dict(params, library)
  assert {array.dtype for array in state.values()} == {np.dtype(dtype)}
  assert_same(ports.from_state_dict(state, num_heads=3), params)


def test_from_state_dict_takes_the_tensors_of_a_module(tree):
  """What `model.state_dict()` of PyTorch returns."""
  torch = pytest.importorskip('torch')
  arrays = ports.to_state_dict(tree('vit_token'), 'timm')
  state = {
    name: torch.nn.Parameter(tensors.to_torch(torch, array))
    for name, array in arrays.items()
  }
  assert_same(ports.from_state_dict(state, num_heads=3), tree('vit_token'))


def test_from_state_dict_names_what_is_no_array(tree):
  """A checkpoint has its state dict one level down."""
  state = ports.to_state_dict(tree('vit_token'), 'timm')
  with pytest.raises(InputError, match="'model' is of type dict, not an array"):
    ports.from_state_dict({'model': state})


def test_to_state_dict_takes_stacked_blocks_and_jax_arrays(tree):
  params = tree('vit_token')
  stacked = trees.nest(trees.stack(trees.flatten(params)))
  stacked = jax.tree.map(jnp.asarray, stacked)
  state = ports.to_state_dict(stacked, 'timm')
  assert_same(state, ports.to_state_dict(params, 'timm'))


def test_to_state_dict_keeps_twelve_blocks_in_order(tree):
  params = tree('vit_12_layers')
  state = ports.to_state_dict(params, 'transformers')
  for i in (2, 10, 11):
    bias = params['Transformer'][f'encoderblock_{i}']['LayerNorm_0']['bias']
    assert (state[f'vit.layers.{i}.layernorm_before.bias'] == bias).all()


def test_number_of_heads_knows_only_published_widths(tree):
  for width, number in array_layouts.NUM_HEADS.items():
    assert array_layouts.number_of_heads(width, None) == number
  for name in ('ViT-Ti_16', 'ViT-S_16', 'ViT-B_16', 'ViT-L_16', 'ViT-H_14'):
    model = models.create(name)
    assert array_layouts.NUM_HEADS[model.hidden_size] == model.num_heads
  state = ports.to_state_dict(tree('vit_token'), 'timm')
  with pytest.raises(ValueError, match=r'size 48 .* give it with --num_heads'):
    ports.from_state_dict(state)
  for number in (0, -1, 5):
    with pytest.raises(ValueError, match=f'num_heads={number} must divide'):
      ports.from_state_dict(state, num_heads=number)


@pytest.mark.parametrize(
  'change, message',
  [
    ({'norm__bias': None}, 'missing are norm.bias; unknown are none'),
    ({'blocks__2__norm1__bias': None}, 'missing are blocks.2.norm1.bias'),
    (
      {'blocks__0__attn__qkv__bias': None},
      r'no biases of queries, keys and values \(qkv_bias=False\)',
    ),
    ({'blocks__0__ls1__gamma': np.ones(48)}, 'missing are blocks.1.ls1.gamma'),
    ({'mask_token': np.ones(48)}, 'missing are blocks.0.ls1.gamma'),
    ({'head__bias': None}, 'missing are head.bias'),
    ({'fc_norm__weight': np.ones(48)}, 'missing are fc_norm.bias'),
    (
      {'fc_norm__weight': np.ones(48), 'fc_norm__bias': np.ones(48)},
      'this model has 2',
    ),
    ({'blocks__1001__norm1__bias': np.ones(48)}, '1001 is too high'),
    ({'blocks__999999999__norm1__bias': np.ones(48)}, 'is too high'),
    ({'patch_embed__proj__weight': np.ones((48, 192))}, 'instead of 4'),
    ({'cls_token': np.ones(48)}, "'cls_token' has shape .48,. instead of 3"),
    ({'norm__bias': np.ones((0,))}, 'instead of 1 positive'),
    ({'blocks__0__attn__qkv__weight': np.ones((145, 48))}, 'multiple of 3'),
    ({'pos_embed': None}, 'missing are pos_embed'),
  ],
)
def test_from_state_dict_ignores_no_array(change, message, tree):
  state = ports.to_state_dict(tree('vit_token'), 'timm')
  with pytest.raises(ValueError, match=message):
    ports.from_state_dict(changed(state, **change), num_heads=3)


def test_from_state_dict_rejects_a_pooler_before_a_head(tree):
  """Rejects it because transformers' classifiers do not apply one."""
  state = ports.to_state_dict(tree('vit_token'), 'transformers')
  state['vit.pooler.dense.weight'] = np.ones((48, 48), np.float32)
  with pytest.raises(ValueError, match=r'unknown are vit\.pooler\.dense'):
    ports.from_state_dict(state, num_heads=3)


def test_to_state_dict_rejects_fusing_different_dtypes(tree):
  params = tree('vit_token')
  block = params['Transformer']['encoderblock_0']
  query = block['MultiHeadDotProductAttention_0']['query']
  query['kernel'] = query['kernel'].astype(np.float64)
  ports.to_state_dict(params, 'transformers')
  with pytest.raises(ValueError, match='different dtypes'):
    ports.to_state_dict(params, 'timm')


def test_to_state_dict_drops_pre_logits_only_on_request(tree):
  params = tree('vit_token_prelogits')  # 48 features to 40
  for library in VIT_LIKE:
    with pytest.raises(ValueError, match='--drop=pre_logits,head'):
      ports.to_state_dict(params, library)
    with pytest.raises(ValueError, match=r'maps? 48 features to 40'):
      ports.to_state_dict(params, library, drop={'pre_logits'})
    state = ports.to_state_dict(params, library, drop={'pre_logits', 'head'})
    back = ports.from_state_dict(state, num_heads=4)
    assert params.keys() - back.keys() == {'pre_logits', 'head'}
  with pytest.raises(ValueError, match='--drop=head'):
    ports.to_state_dict(params, 'transformers')
  state = ports.to_state_dict(params, 'transformers', drop={'head'})
  assert state['pooler.dense.weight'].shape == (40, 48)
  assert_same(
    ports.from_state_dict(state, num_heads=4),
    {name: value for name, value in params.items() if name != 'head'},
  )
  with pytest.raises(ValueError, match=r'cannot drop .*neck.*; choose from'):
    ports.to_state_dict(params, 'timm', drop={'neck'})


def test_to_state_dict_drops_both_heads_of_a_distilled_model(tree):
  params = tree('deit_distilled_tiny')
  for library in VIT_LIKE:
    state = ports.to_state_dict(params, library, drop={'head'})
    back = ports.from_state_dict(state, num_heads=3)
    assert params.keys() - back.keys() == {'head', 'head_dist'}
  del params['head']
  with pytest.raises(ValueError, match='a head on the class token or none'):
    ports.to_state_dict(params, 'timm')


def test_from_state_dict_infers_token_slots_unless_given(tree):
  params = tree('vit_token_rect')  # 4x6 patches and a token: a square number
  state = ports.to_state_dict(params, 'timm')
  assert 'pos_embedding' in ports.from_state_dict(state, num_heads=2)
  back = ports.from_state_dict(state, num_heads=2, token_slots=True)
  assert_same(back, params)


def test_to_state_dict_rejects_trees_of_no_model(tree):
  params = tree('vit_token')
  params['extra'] = {'kernel': np.ones((2, 2))}
  with pytest.raises(ValueError, match='unknown to it are extra/k'):
    ports.to_state_dict(params, 'timm')
  del params['extra']
  params['head']['kernel'] = np.ones(10)
  with pytest.raises(ValueError, match="'head/kernel' has shape"):
    ports.to_state_dict(params, 'timm')


def test_tables_use_only_known_leaves():
  for library in tables.TABLES.values():
    for table in library.values():
      rows = [row for group in table for row in group.rows]
      assert all(row[2].rstrip('?') in array_layouts.LEAVES for row in rows)


@pytest.mark.parametrize('start', ['module.', 'backbone.', 'module._orig_mod.'])
@pytest.mark.parametrize('library', ['timm', 'transformers'])
def test_from_state_dict_removes_a_wrappers_prefix(start, library, tree):
  params = tree('vit_token')
  state = ports.to_state_dict(params, library)
  wrapped = {start + name: array for name, array in state.items()}
  assert ports.wrapper_of(wrapped) == start
  assert ports.wrapper_of(state) == ports.wrapper_of([]) == ''
  assert ports.library_of(wrapped) == library
  assert_same(
    ports.from_state_dict(wrapped, num_heads=port_cases.heads('vit_token')),
    params,
  )
