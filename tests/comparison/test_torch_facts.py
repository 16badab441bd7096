"""Constants that are read off the modules of a port."""

import numpy as np
import pytest

from vit_jax_repro.comparison import torch_facts, torch_models


def net(**options):
  """Returns two plain blocks around a norm, with an unused layer."""
  import torch
  from torch import nn

  class Block(nn.Module):
    def __init__(self):
      super().__init__()
      self.num_heads = 2
      self.norm = nn.LayerNorm(3, options.get('eps', 1e-6))
      self.up, self.down = nn.Linear(3, 6), nn.Linear(6, 3)
      self.act = options.get('act', nn.GELU)()
      self.drop = nn.Dropout(0.1)

    def forward(self, x):
      x = self.up(self.norm(x))
      x = self.act(x) if options.get('calls', True) else x.relu()
      return self.drop(self.down(x))

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      self.blocks = nn.ModuleList([Block(), Block()])
      self.last = nn.LayerNorm(3, options.get('last', 1e-6))
      self.spare = nn.Linear(3, 3)

    def forward(self, x):
      x = x.permute(0, 2, 3, 1)
      for block in self.blocks:
        x = block(x)
      x = self.blocks[1](x) if options.get('twice') else x
      return self.last(x).mean((1, 2))

  torch.manual_seed(0)
  return Net()


def read(module):
  """Returns the constants and the facts."""
  import torch

  port = torch_models.Port('net', module.eval())
  images = np.zeros((1, 2, 2, 3), np.float32)
  observed = torch_models.observe(port, images, ())
  blocks = ['blocks.0', 'blocks.1']
  constants = torch_facts.constants(torch, observed.calls, blocks)
  return constants, torch_facts.facts(torch, module, observed.calls, blocks)


def test_constants_and_facts_of_a_uniform_port():
  constants, facts = read(net(eps=1e-12, last=1e-12))
  assert constants == {'layer_norm_eps': 1e-12, 'gelu': 'erf'}
  assert facts == [
    'all 3 LayerNorms have eps=1e-12.',
    '2 activations are GELU with erf.',
    'all 2 modules have heads=2.',
    'all 2 dropouts have rate=0.1.',
    'never called as modules: spare.',
  ]


def test_constants_are_left_out_where_they_are_not_sure():
  from torch import nn

  constants, facts = read(net(last=1e-3, calls=False))
  assert constants == {}  # two epsilons; an activation that is no module
  assert facts[0] == '3 LayerNorms: 2 with eps=1e-06, 1 with eps=0.001.'

  class LayerNorm(nn.Module):  # its epsilon is not known
    def forward(self, x):
      return x

  module = net()
  module.blocks[0].norm = LayerNorm()
  assert 'layer_norm_eps' not in read(module)[0]


@pytest.mark.parametrize(
  ('act', 'name'),
  [('tanh', 'tanh'), ('ReLU', 'relu'), ('SiLU', 'silu'), ('Tanh', None)],
)
def test_constants_name_the_activation(act, name):
  from torch import nn

  make = getattr(nn, act, None) or (lambda: nn.GELU(approximate='tanh'))
  assert read(net(act=make))[0].get('gelu') == name


def test_facts_name_modules_that_are_called_more_than_once():
  facts = read(net(twice=True))[1]
  # Its parts are called twice, too, which goes without a line.
  assert [f for f in facts if 'is called' in f] == [
    'blocks.1 is called 2 times.'
  ]


def test_training_modes_before_eval():
  module = net()
  text = torch_facts.training_modes(module)
  assert 'before, all 16 modules were in training mode, 2 of them with' in text
  module.eval()
  module.blocks[0].drop.train()
  text = torch_facts.training_modes(module)
  assert 'before, 1 of 16 modules were in training mode, 1 of them' in text
  text = torch_facts.training_modes(module.eval())
  assert text.endswith('the port was in evaluation mode already.')


def test_differing_has_only_constants_of_the_model():
  import types

  model = types.SimpleNamespace(layer_norm_eps=1e-6, gelu='erf')
  known = {'layer_norm_eps': 1e-5, 'gelu': 'erf', 'group_norm_eps': 1e-5}
  assert torch_facts.differing(known, model) == {'layer_norm_eps': (1e-5, 1e-6)}
