"""A plain PyTorch ViT with names of its own, and faults to plant in it.

`vit` fills it with the weights of a canonical tree, so that it agrees with the
reference. Each argument of `Settings` plants one fault.
"""

import dataclasses

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from vit_jax_repro.weights import trees

ACTS = {
  'gelu': lambda: nn.GELU(approximate='tanh'),
  'erf': nn.GELU,
  'relu': nn.ReLU,
  'silu': nn.SiLU,
}


@dataclasses.dataclass(frozen=True)
class Settings:
  """Properties of the port; the defaults are the reference's."""

  scale: str = 'head'  # 'width': D**-0.5
  heads: int | None = None
  norms: str = 'pre'  # 'post'
  eps: float = 1e-6
  final_norm: bool = True
  act: str = 'gelu'
  columns: bool = False  # patches in the order of columns
  token: str = 'first'  # 'last'
  positions: str = 'all'  # 'patches': before the class token is added
  transposed: bool = False  # height and width exchanged in the input
  bgr: bool = False
  normalizes: bool = False  # takes the images for ones in [0, 1]
  pool: str = 'token'  # 'mean', 'patch 1', 'patch 2', ...
  head_bias: bool = True
  # Faults that are not among the known causes.
  no_residual: int | None = None  # block without its attention's residual
  twice: int | None = None  # block that is applied twice
  dropout: float = 0.0  # left on in evaluation mode
  mlp_dropout: float = 0.0
  no_affine: int | None = None  # block whose first norm has no weights
  no_qkv_bias: bool = False
  sigmoid: bool = False
  rolled: bool = False  # logits moved by one class
  no_positions: bool = False
  skipped: int | None = None  # block that is left out
  clamped: float | None = None  # values of the attention output are cut off
  frozen: bool = False  # no gradient reaches the patches
  # Other ways of dividing the same computation.
  adds_outside: bool = False  # a block returns what is added to its input


class SelfAttention(nn.Module):
  def __init__(self, width, heads, settings):
    super().__init__()
    self.heads, self.settings = heads, settings
    self.to_qkv = nn.Linear(width, 3 * width)
    self.to_out = nn.Linear(width, width)

  def forward(self, x):
    batch, number, width = x.shape
    s = self.settings
    qkv = self.to_qkv(x).view(batch, number, 3, self.heads, -1)
    if s.no_qkv_bias:
      qkv = functional.linear(x, self.to_qkv.weight).view(qkv.shape)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    scale = width if s.scale == 'width' else q.shape[-1]
    scores = q @ k.transpose(-1, -2) * scale**-0.5
    weights = scores.sigmoid() if s.sigmoid else scores.softmax(-1)
    out = (weights @ v).transpose(1, 2).reshape(batch, number, width)
    out = self.to_out(out)
    return out if s.clamped is None else out.clamp(-s.clamped, s.clamped)


class FeedForward(nn.Module):
  def __init__(self, width, inner, settings):
    super().__init__()
    self.up = nn.Linear(width, inner)
    self.act = ACTS[settings.act]()
    self.drop = nn.Dropout(settings.mlp_dropout)
    self.down = nn.Linear(inner, width)

  def forward(self, x):
    return self.down(self.drop(self.act(self.up(x))))


class Layer(nn.Module):
  def __init__(self, width, inner, heads, settings, number):
    super().__init__()
    self.settings, self.number = settings, number
    affine = settings.no_affine != number
    self.ln_a = nn.LayerNorm(width, settings.eps, elementwise_affine=affine)
    self.mix = SelfAttention(width, heads, settings)
    self.ln_b = nn.LayerNorm(width, settings.eps)
    self.ffn = FeedForward(width, inner, settings)

  def forward(self, x):
    if self.settings.norms == 'post':
      x = self.ln_a(x + self.mix(x))
      return self.ln_b(x + self.ffn(x))
    y = self.mix(self.ln_a(x))
    y = functional.dropout(y, self.settings.dropout, training=True)
    start = x
    x = y if self.settings.no_residual == self.number else x + y
    x = x + self.ffn(self.ln_b(x))
    return x - start if self.settings.adds_outside else x


class PlainViT(nn.Module):
  def __init__(self, sizes, settings):
    super().__init__()
    width, inner, heads, layers, patch, tokens, classes = sizes
    heads = settings.heads or heads
    self.settings = settings
    self.to_patches = nn.Conv2d(3, width, patch, patch)
    self.token = nn.Parameter(torch.zeros(1, 1, width))
    self.places = nn.Parameter(torch.zeros(1, tokens, width))
    self.tower = nn.ModuleList(
      Layer(width, inner, heads, settings, i) for i in range(layers)
    )
    self.ln_end = nn.LayerNorm(width, settings.eps)
    self.classify = nn.Linear(width, classes, bias=settings.head_bias)

  def forward(self, x):
    s = self.settings
    x = x.flip(1) if s.bgr else x
    x = x * 2 - 1 if s.normalizes else x
    x = x.transpose(2, 3) if s.transposed else x
    x = self.to_patches(x)
    x = x.detach() if s.frozen else x
    x = (x.transpose(2, 3) if s.columns else x).flatten(2).transpose(1, 2)
    token = self.token.expand(len(x), -1, -1)
    places = torch.zeros_like(self.places) if s.no_positions else self.places
    if s.positions == 'patches':
      x = torch.cat([token, x + places[:, 1:]], 1)
    elif s.token == 'last':
      x = torch.cat([x, token], 1) + places
    else:
      x = torch.cat([token, x], 1) + places
    for i, layer in enumerate(self.tower):
      if i != s.skipped:
        x = x + layer(x) if s.adds_outside else layer(x)
      if i == s.twice:
        x = layer(x)
    x = self.ln_end(x) if s.final_norm else x
    if s.pool == 'mean':
      x = x.mean(1)
    elif s.pool == 'token':
      x = x[:, -1 if s.token == 'last' else 0]
    else:
      x = x[:, int(s.pool.removeprefix('patch '))]
    x = self.classify(x)
    return x.roll(1, -1) if s.rolled else x


def vit(params, num_heads, **settings):
  """Returns the port with the weights of a canonical tree."""
  module = PlainViT(sizes_of(params, num_heads), Settings(**settings))
  return filled(module, state_of(params))


def sizes_of(params, num_heads):
  """Returns the sizes of a canonical tree, as the modules here take them."""
  flat = trees.flatten(params)
  layers = sum(n.endswith('LayerNorm_0/scale') for n in flat)
  kernel = flat['embedding/kernel']
  inner = flat[_BLOCK.format(0) + 'MlpBlock_0/Dense_0/kernel'].shape[1]
  places = flat['Transformer/posembed_input/pos_embedding']
  sizes = (kernel.shape[-1], inner, num_heads, layers, kernel.shape[0])
  return (*sizes, places.shape[1], flat['head/kernel'].shape[1])


def filled(module, state):
  """Returns the module with those of the arrays that it has a name for."""
  known = module.state_dict().keys()
  module.load_state_dict(
    {n: torch.from_numpy(np.array(a)) for n, a in state.items() if n in known}
  )
  return module


_BLOCK = 'Transformer/encoderblock_{}/'


def state_of(params):
  """Returns the weights of a canonical tree under the names used here."""
  flat = {n: np.asarray(a) for n, a in trees.flatten(params).items()}
  layers = sum(n.endswith('LayerNorm_0/scale') for n in flat)
  kernel = flat['embedding/kernel']
  norm = 'fc_norm' if 'fc_norm/scale' in flat else 'Transformer/encoder_norm'
  state = {
    'to_patches.weight': kernel.transpose(3, 2, 0, 1),
    'to_patches.bias': flat['embedding/bias'],
    'token': flat['cls'],
    'places': flat['Transformer/posembed_input/pos_embedding'],
    'ln_end.weight': flat[f'{norm}/scale'],
    'ln_end.bias': flat[f'{norm}/bias'],
    'classify.weight': flat['head/kernel'].T,
    'classify.bias': flat['head/bias'],
  }
  if 'registers' in flat:
    state['registers'] = flat['registers']
  for i in range(layers):
    ours, theirs = _BLOCK.format(i), f'tower.{i}.'
    attention = f'{ours}MultiHeadDotProductAttention_0/'
    width = kernel.shape[-1]
    qkv = [f'{attention}{part}/' for part in ('query', 'key', 'value')]
    state |= {
      f'{theirs}ln_a.weight': flat[f'{ours}LayerNorm_0/scale'],
      f'{theirs}ln_a.bias': flat[f'{ours}LayerNorm_0/bias'],
      f'{theirs}ln_b.weight': flat[f'{ours}LayerNorm_1/scale'],
      f'{theirs}ln_b.bias': flat[f'{ours}LayerNorm_1/bias'],
      f'{theirs}mix.to_qkv.weight': np.concatenate(
        [flat[f'{p}kernel'].reshape(width, width).T for p in qkv]
      ),
      f'{theirs}mix.to_qkv.bias': np.concatenate(
        [flat[f'{p}bias'].reshape(-1) for p in qkv]
      ),
      f'{theirs}mix.to_out.weight': flat[f'{attention}out/kernel']
      .reshape(width, width)
      .T,
      f'{theirs}mix.to_out.bias': flat[f'{attention}out/bias'],
    }
    for part, number in (('gain_a', 0), ('gain_b', 1)):
      if (name := f'{ours}LayerScale_{number}/scale') in flat:
        state[f'{theirs}{part}.gamma'] = flat[name]
    for dense, part in (('Dense_0', 'up'), ('Dense_1', 'down')):
      name = f'{ours}MlpBlock_0/{dense}/'
      state[f'{theirs}ffn.{part}.weight'] = flat[f'{name}kernel'].T
      state[f'{theirs}ffn.{part}.bias'] = flat[f'{name}bias']
  return state
