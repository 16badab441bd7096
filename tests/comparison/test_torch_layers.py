"""Parts of plain ports, recognised by type, order and shape, or left out."""

import numpy as np

from vit_jax_repro.comparison import torch_models
from vit_jax_repro.comparison.torch_calls import Place
from vit_jax_repro.comparison.torch_layers import Form

FORM = Form(
  num_layers=2,
  hidden_size=8,
  mlp_dim=12,
  patch_size=(4, 4),
  num_classes=5,
  num_tokens=5,
)
ENDS = (
  '/LayerNorm_0',
  '/MultiHeadDotProductAttention_0',
  '/LayerNorm_1',
  '/MlpBlock_0',
  '',
)
NAMES = [
  'embedding',
  'Transformer/posembed_input',
  *(f'Transformer/encoderblock_{i}{end}' for i in (0, 1) for end in ENDS),
  'Transformer/encoder_norm',
  'pre_logits',
  'logits',
]
IMAGES = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 3)).astype('f4')


def make(blocks, *, patches=None, order='first', norm=True, extra=None):
  """Returns a ViT around blocks that map [B, 5, 8] to the same."""
  import torch
  from torch import nn

  class Net(nn.Module):
    def __init__(self):
      super().__init__()
      self.patches = patches or nn.Conv2d(3, 8, 4, 4)
      self.token = nn.Parameter(torch.ones(1, 1, 8))
      self.stack = blocks
      self.extra = extra
      self.end = nn.LayerNorm(8) if norm else None
      self.top = nn.Linear(8, 5)

    def forward(self, x):
      if isinstance(self.patches, nn.Conv2d):
        x = self.patches(x).flatten(2).transpose(1, 2)
      else:
        x = nn.functional.unfold(x, 4, stride=4).transpose(1, 2)
        x = self.patches(x)
      x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
      x = x.transpose(0, 1) if order == 'sequence' else x
      x = run(self.stack, x)
      x = self.extra(x) if self.extra is not None else x
      x = self.end(x) if self.end is not None else x
      return self.top(x[0] if order == 'sequence' else x[:, 0])

  def run(parts, x):
    for part in parts:
      if isinstance(part, nn.ModuleList):
        for inner in part:
          x = x + inner(x)
      else:
        x = part(x)
    return x

  torch.manual_seed(0)
  return Net().eval()


def found(module, names=NAMES, form=FORM):
  port = torch_models.Port('net', module)
  return torch_models.observe(port, IMAGES, names, form=form)


def block(*layers):
  from torch import nn

  return nn.Sequential(*layers)


def test_find_recognises_a_transformer_of_pytorch_itself():
  from torch import nn

  blocks = nn.ModuleList(
    nn.TransformerEncoderLayer(8, 2, 12, norm_first=True) for _ in range(2)
  )
  # The sequence is the first axis, as by default in PyTorch.
  observed = found(make(blocks, order='sequence'))
  assert {n: str(p) for n, p in observed.places.items() if '_1' in n} == {
    'Transformer/encoderblock_0/LayerNorm_1': 'stack.0.norm2',
    'Transformer/encoderblock_1/LayerNorm_0': 'stack.1.norm1',
    'Transformer/encoderblock_1/MultiHeadDotProductAttention_0': (
      'stack.1.self_attn'
    ),
    'Transformer/encoderblock_1/LayerNorm_1': 'stack.1.norm2',
    'Transformer/encoderblock_1/MlpBlock_0': 'stack.1.linear2',
    'Transformer/encoderblock_1': 'stack.1',
  }
  assert observed.places['Transformer/posembed_input'] == Place('stack.0', True)
  assert observed.outputs['Transformer/encoderblock_1'].shape == (5, 3, 8)


def test_find_takes_the_norms_of_post_norm_blocks_in_their_order():
  from torch import nn

  blocks = nn.ModuleList(
    nn.TransformerEncoderLayer(8, 2, 12, batch_first=True) for _ in range(2)
  )
  places = found(make(blocks)).places
  assert (
    places['Transformer/encoderblock_0/LayerNorm_0'].path == 'stack.0.norm1'
  )
  assert (
    places['Transformer/encoderblock_0/LayerNorm_1'].path == 'stack.0.norm2'
  )


def attention():
  """Returns separate query, key, value and output layers after a norm."""
  from torch import nn

  class Own(nn.Module):
    def __init__(self):
      super().__init__()
      self.norm = nn.LayerNorm(8)
      self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
      x = self.norm(x)
      weights = (self.q(x) @ self.k(x).transpose(1, 2)).softmax(-1)
      return self.o(weights @ self.v(x))

  return Own()


def mlp():
  from torch import nn

  return block(nn.LayerNorm(8), nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))


def test_find_recognises_blocks_that_are_lists_and_patches_by_a_linear_layer():
  """The output of a block that is no module is the next one's input."""
  from torch import nn

  blocks = nn.ModuleList(nn.ModuleList([attention(), mlp()]) for _ in range(2))
  observed = found(make(blocks, patches=nn.Linear(48, 8)))
  assert observed.places.keys() == set(NAMES) - {'logits'}
  assert observed.places['embedding'] == Place('patches')
  first, last = (f'Transformer/encoderblock_{i}' for i in (0, 1))
  assert observed.places[first] == Place('stack.1.0', True)
  assert observed.places[last] == Place('end', True)
  part = f'{first}/MultiHeadDotProductAttention_0'
  assert observed.places[part] == Place('stack.0.0.o')
  total = observed.outputs['Transformer/posembed_input']
  for end in ('/MultiHeadDotProductAttention_0', '/MlpBlock_0'):
    total = total + observed.outputs[first + end]
  np.testing.assert_allclose(observed.outputs[first], total, atol=1e-5)


def test_find_leaves_out_what_is_not_sure():
  from torch import nn

  def parts(blocks, **options):
    places = found(make(blocks, **options)).places
    return {name.removeprefix('Transformer/') for name in places}

  def stack(make_block):
    return nn.ModuleList(make_block() for _ in range(2))

  outside = {'embedding', 'posembed_input', 'encoder_norm', 'pre_logits'}
  blocks = {'encoderblock_0', 'encoderblock_1'}
  # An MLP only: no attention, so no part is known.
  assert parts(stack(mlp)) == outside | blocks
  # A third linear layer in the MLP.
  longer = stack(lambda: block(attention(), *mlp(), nn.Linear(8, 8)))
  assert parts(longer) == outside | blocks
  # A third norm: which is which is unknown, attention and MLP are not.
  three = stack(lambda: block(attention(), nn.LayerNorm(8), *mlp()))
  assert parts(three) == outside | blocks | {
    f'{name}/{part}'
    for name in blocks
    for part in ('MultiHeadDotProductAttention_0', 'MlpBlock_0')
  }
  # Two norms after the blocks, and none.
  two = parts(stack(mlp), extra=nn.LayerNorm(8))
  assert two == (outside | blocks) - {'encoder_norm'}
  assert parts(stack(mlp), norm=False) == two
  # Another number of blocks.
  three = nn.ModuleList(mlp() for _ in range(3))
  assert parts(three) == {'embedding'}


def test_find_takes_no_list_of_parts_for_the_blocks():
  """Lists of norms, attentions and MLPs that run in turn are no blocks."""
  from torch import nn

  class Stack(nn.Module):
    def __init__(self):
      super().__init__()
      self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(2))
      self.mixers = nn.ModuleList(attention() for _ in range(2))
      self.mlps = nn.ModuleList(mlp() for _ in range(2))

    def forward(self, x):
      for norm, mixer, inner in zip(
        self.norms, self.mixers, self.mlps, strict=True
      ):
        x = x + mixer(norm(x))
        x = x + inner(x)
      return x

  places = found(make(nn.ModuleList([Stack()]))).places
  assert places.keys() == {'embedding'}


def test_find_leaves_out_the_1x1_convolutions_of_a_stem():
  """A hybrid's patches are 1x1, as many of its convolutions."""
  from torch import nn

  net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1))
  with_stem = Form(num_layers=2, hidden_size=8, patch_size=(1, 1))
  port = torch_models.Port('net', net)
  observed = torch_models.observe(port, IMAGES, NAMES, form=with_stem)
  assert 'embedding' not in observed.places


def test_observe_keeps_the_first_call_of_a_module():
  """A module that is applied twice is compared where it should be applied."""
  from torch import nn

  once = nn.Linear(8, 8)

  class Twice(nn.Module):
    def __init__(self):
      super().__init__()
      self.layer = once

    def forward(self, x):
      return self.layer(self.layer(x))

  port = torch_models.Port('net', Twice(), {'x': 'layer'})
  images = np.random.default_rng(0).normal(size=(1, 2, 8, 3)).astype('f4')
  observed = torch_models.observe(port, images, ())
  expected = once(torch_models.as_tensor(images, 'float32')).detach().numpy()
  np.testing.assert_allclose(observed.outputs['x'], expected, atol=1e-6)
  assert [call.path for call in observed.calls] == ['', 'layer', 'layer']
