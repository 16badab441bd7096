"""Other architectures end in one line, before anything runs."""

import pytest
import tiny_models

from vit_jax_repro import ports
from vit_jax_repro.comparison import torch_architecture


@pytest.fixture(scope='module')
def params():
  return tiny_models.params_of(tiny_models.spec(3))


def plain(params, heads=2):
  import plain_vit

  return plain_vit.vit(params, heads)


def check(module, source, tree=None):
  import torch

  torch_architecture.check(torch, 'my.py:make', module, tree, source)


@pytest.mark.parametrize(
  ('fields', 'text'),
  [
    (
      dict(num_layers=1, num_classes=7),
      r'weights: 1 blocks, not 2; 7 classes, not 3; give',
    ),
    (dict(mlp_dim=24), '24 wide in the MLP, not 32;'),
    (dict(hidden_size=8), '8 wide, not 16;'),
    (dict(patch_size=[2, 2]), '2x2 patches, not 4x4;'),
  ],
)
@pytest.mark.parametrize('named', [False, True])
def test_check_lists_every_size_that_differs(params, fields, text, named):
  """Both by the names of parameters and by the form of the modules."""
  fields = dict(fields)
  other = tiny_models.spec(fields.pop('num_classes', 3), **fields)
  tree = tiny_models.params_of(other)
  module = plain(tree)
  with pytest.raises(ValueError, match=text) as error:
    check(module, params, tree if named else None)
  assert '\n' not in str(error.value)
  assert str(error.value).startswith('my.py:make is of another architecture')


@pytest.mark.parametrize(
  ('port', 'own', 'text'),
  [
    (
      dict(layer_scale_init=1.0),
      {},
      'LayerScale, which the weights lack; give',
    ),
    ({}, dict(layer_scale_init=1.0), 'no LayerScale, which the weights have;'),
    (dict(num_registers=2), {}, 'weights: 2 registers, not 0; give'),
    ({}, dict(num_registers=4), 'weights: 0 registers, not 4; give'),
  ],
)
def test_check_names_a_part_that_one_side_lacks(port, own, text):
  tree, source = (
    tiny_models.params_of(tiny_models.spec(3, **fields))
    for fields in (port, own)
  )
  with pytest.raises(ValueError, match=text) as error:
    check(plain(tree), source, tree)
  assert '\n' not in str(error.value)
  # Without known names, only a module of such a class is a sure sign.
  module = plain(tree)
  check(module, source)
  module.scale = type('LayerScale', (type(module.classify),), {})(1, 1)
  if 'layer_scale_init' in own:
    check(module, source)
  else:
    with pytest.raises(ValueError, match='LayerScale, which the weights lack'):
      check(module, source)


def test_check_accepts_the_same_sizes(params):
  check(plain(params), params)
  check(plain(params), params, params)
  # Another number of heads has the same parameters.
  check(plain(params, heads=4), params)


def test_check_accepts_what_it_cannot_read(params):
  """Only sizes that are sure may end a comparison."""
  from torch import nn

  module = plain(params)
  module.second = nn.Linear(16, 9)  # which one is the head is not sure
  check(module, params)
  module = plain(params)
  module.classify = nn.Identity()
  check(module, params)
  check(nn.Linear(2, 2), params)


def test_check_knows_the_other_families():
  mixer = tiny_models.params_of(tiny_models.spec(3, tiny_models.MIXER))
  other = tiny_models.spec(3, tiny_models.MIXER, num_blocks=2)
  other = tiny_models.params_of(other)
  state = ports.to_state_dict(other, 'timm')
  tree = ports.from_state_dict(state, library='timm')
  with pytest.raises(ValueError, match='2 blocks, not 1; give'):
    check(None, mixer, tree)
