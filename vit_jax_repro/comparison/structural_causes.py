"""Causes that change the structure of a ViT: images, order, norms, LayerScale.

The published module stays as it is. A cause changes its parameters, its images,
or, by an interceptor of linen, what one of its modules returns. `token_causes`
has those of tokens and pooling, and `substitution` what a row is.

Shapes: B batch, H W pixels, h w patches, N tokens, D hidden, A heads, d head
dim.
"""

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_repro.comparison import token_causes
from vit_jax_repro.comparison.activations import LAYER_SCALES
from vit_jax_repro.comparison.substitution import (
  ATTENTION,
  FIRST,
  POSITIONS,
  Row,
  around,
  is_at,
  with_param,
)
from vit_jax_repro.data.image_settings import IMAGENET_MEAN, IMAGENET_STD
from vit_jax_repro.models.efficientnet import EfficientNet
from vit_jax_repro.models.layers import Mlp, norm_dtype
from vit_jax_repro.models.transformer import Attention, EncoderBlock
from vit_jax_repro.weights import positions, trees
from vit_jax_repro.weights.adapt import patch_grid

POST_NORM = 'LayerNorms'  # topic of the cause that reorders a block

ACTIVATIONS = {
  'relu': ('ReLU', nn.relu),
  'silu': ('SiLU (swish)', nn.silu),
  'quick_gelu': ('x * sigmoid(1.702 x)', lambda x: x * nn.sigmoid(1.702 * x)),
}
# Changes of images in [-1, 1] that a port may make, as a factor and an offset.
SCALES = {
  'in [0, 1]': (0.5, 0.5),
  'scaled from [0, 1] to [-1, 1] once more': (2.0, -1.0),
  'in [0, 255]': (127.5, 127.5),
}
# The same of images that have ImageNet's mean and deviation.
_MEAN, _STD = (
  np.asarray(each, np.float32) / 255 for each in (IMAGENET_MEAN, IMAGENET_STD)
)
IMAGENET_SCALES = {
  'in [0, 1]': (_STD, _MEAN),
  'in [-1, 1]': (2 * _STD, 2 * _MEAN - 1),
  'in [0, 255]': (255 * _STD, 255 * _MEAN),
}
_HEADS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_BLOCK = 'Transformer/encoderblock_'


def rows(model: nn.Module, flat: Mapping[str, Any]) -> Iterator[Row]:
  """Yields the structural causes that apply to a model.

  Args:
    model: the reference.
    flat: its parameters, flat and unrolled.
  """
  yield from _image_rows(model)
  if 'head/bias' in flat:
    zero = functools.partial(with_param, 'head/bias', np.zeros_like)
    yield 'head', 'without bias', 'with a bias', zero, 'logits$'
  if hasattr(model, 'gelu'):
    for name, (shown, _) in ACTIVATIONS.items():
      act = functools.partial(around, _activation(name))
      yield 'activation', shown, f'GELU ({model.gelu})', act, MLPS
  if not any(name.startswith(_BLOCK) for name in flat):
    return
  yield from _attention_rows(model)
  if model.position_embedding_at == 'stem':
    yield (
      POST_NORM,
      'after attention and MLP, over the sum (post-norm)',
      'before them (pre-norm)',
      functools.partial(around, _post_norm),
      '/LayerNorm_0$',
    )
  yield (
    'last LayerNorm',
    'left out',
    'after the last block',
    functools.partial(around, _no_final_norm),
    '(Transformer/encoder_norm|fc_norm)$',
  )
  yield from _patch_rows(flat)
  yield from _layer_scale_rows(flat)
  yield from token_causes.rows(model, flat)


# A GELU is in every block, in a Mixer's too, and in the MAP head.
MLPS = '(/MlpBlock_0|MixerBlock_[0-9]+|pre_logits)$'


def _image_rows(model):
  def of_images(change):
    return lambda variant: variant._replace(images=change(variant.images))

  topic, ours = 'channel order', 'red, green, blue (RGB)'
  bgr = of_images(lambda x: x[..., ::-1])
  yield topic, 'blue, green, red (BGR)', ours, bgr, FIRST
  ours, scales = 'in [-1, 1]', SCALES
  if isinstance(model, EfficientNet):
    ours, scales = "with ImageNet's mean and deviation", IMAGENET_SCALES
  for shown, (factor, offset) in scales.items():
    scaled = of_images(lambda x, a=factor, b=offset: a * x + b)
    yield 'scale of the images', shown, ours, scaled, FIRST
  if hasattr(model, 'hidden_size'):
    turned = of_images(lambda x: x.swapaxes(1, 2))
    topic, ours = 'height and width', 'height first'
    yield topic, 'exchanged in the image', ours, turned, FIRST
    if model.patch_size[0] == model.patch_size[1] > 1:
      kernel = functools.partial(
        with_param, 'embedding/kernel', lambda a: a.swapaxes(0, 1)
      )
      shown = 'exchanged in the kernel of the patches'
      yield topic, shown, ours, kernel, 'embedding$'


def _attention_rows(model):
  if model.position_embedding != 'relative':  # they use the scale, too
    head_dim = model.hidden_size // model.num_heads
    for shown, value in {
      'D**-0.5, of the whole width': model.hidden_size**-0.5,
      'none': 1.0,
      '1 / d': 1 / head_dim,
    }.items():
      if not math.isclose(factor := value * head_dim**0.5, 1):
        scale = functools.partial(_scaled_queries, factor)
        ours = 'd**-0.5, of a head'
        yield 'scale of the softmax', shown, ours, scale, ATTENTION
  for heads in _HEADS:
    if heads != model.num_heads and model.hidden_size % heads == 0:
      split = functools.partial(_with_heads, heads)
      ours = str(model.num_heads)
      yield 'number of heads', str(heads), ours, split, ATTENTION


def _patch_rows(flat):
  """Yields orders of the patches and of their positions."""
  topic, ours = 'order of the patches', 'row by row'
  theirs = 'column by column'
  where = f'embedding$|{POSITIONS}'
  for keep in (True, False):
    change = functools.partial(_by_columns, keep)
    yield topic, theirs, ours, change, where
  if positions.name_in(flat) in flat:
    change = functools.partial(_positions_by_columns, positions.name_in(flat))
    topic, theirs = 'height and width', 'exchanged in the grid of positions'
    yield topic, theirs, 'height first', change, POSITIONS


def _layer_scale_rows(flat):
  """Yields ways of leaving out, or exchanging, the factors of LayerScale."""
  if not any(name.endswith(f'{LAYER_SCALES[0]}/scale') for name in flat):
    return
  topic, ours = 'LayerScale', 'after attention and after the MLP'
  for shown, parts in {
    'left out': LAYER_SCALES,
    'left out after attention': LAYER_SCALES[:1],
    'left out after the MLP': LAYER_SCALES[1:],
  }.items():
    change = functools.partial(_without_scales, parts)
    where = '|'.join(f'{part}$' for part in parts)
    yield topic, shown, ours, change, where
  where = '|'.join(f'{part}$' for part in LAYER_SCALES)
  shown = "the factors of attention and the MLP's exchanged"
  yield topic, shown, ours, _with_scales_exchanged, where


def _without_scales(parts, variant):
  ends = tuple(f'{part}/scale' for part in parts)
  flat = {
    name: np.ones_like(a) if name.endswith(ends) else a
    for name, a in trees.flatten(variant.params).items()
  }
  return variant._replace(params=trees.nest(flat))


def _with_scales_exchanged(variant):
  flat = trees.flatten(variant.params)
  changed = dict(flat)
  for name in flat:
    if f'{LAYER_SCALES[0]}/' in name:
      other = name.replace(*LAYER_SCALES)
      changed |= {name: flat[other], other: flat[name]}
  return variant._replace(params=trees.nest(changed))


def _scaled_queries(factor, variant):
  """Multiplies the queries of all blocks, which scales the scores."""
  flat = {
    name: np.asarray(a) * np.asarray(factor, a.dtype)
    if name.startswith(_BLOCK) and '/query/' in name
    else a
    for name, a in trees.flatten(variant.params).items()
  }
  return variant._replace(params=trees.nest(flat))


def _with_heads(heads, variant):
  """Divides queries, keys, values and their output into other heads."""
  changed = {}
  for name, a in trees.flatten(variant.params).items():
    changed[name] = a
    if '/query/' in name or '/key/' in name or '/value/' in name:
      changed[name] = np.reshape(a, (*a.shape[:-2], heads, -1))
    elif name.endswith('/out/kernel'):
      changed[name] = np.reshape(a, (heads, -1, a.shape[-1]))
  model = variant.model.clone(num_heads=heads)
  return variant._replace(model=model, params=trees.nest(changed))


def _positions_by_columns(name, variant):
  """Reads the grid of positions as if height and width were exchanged."""
  grid = _grid(variant)

  def change(embeddings):
    number = math.prod(grid)
    tokens = embeddings[:, : embeddings.shape[1] - number]
    cells = embeddings[:, tokens.shape[1] :].reshape(1, *grid[::-1], -1)
    cells = cells.swapaxes(1, 2).reshape(1, number, -1)
    return np.concatenate([tokens, cells], axis=1)

  return with_param(name, change, variant)


def _grid(variant):
  """Returns (h, w) of the patches."""
  grid = patch_grid(variant.model, variant.images.shape[1:3])
  assert grid is not None
  return grid


def _by_columns(keep, variant):
  """Puts the patches into the order of columns.

  Args:
    keep: the port's embedding is still the image's grid, as the output of a
      convolution is.
    variant: the reference.
  """
  kept = {}

  def interceptor(call, args, kwargs, context):
    x = call(*args, **kwargs)
    if is_at(context, 'embedding'):
      kept['embedding'] = x  # [B, h, w, D]
      x = x.swapaxes(1, 2).reshape(x.shape)
    return x

  variant = around(interceptor, variant)
  if not keep:
    return variant
  return variant._replace(seen=(*variant.seen, lambda named: named | kept))


def _no_final_norm(call, args, kwargs, context):
  if is_at(context, 'Transformer', 'encoder_norm') or is_at(context, 'fc_norm'):
    return args[0]
  return call(*args, **kwargs)


def _activation(name):
  """Returns an interceptor that replaces the GELU of every MLP."""
  _, act = ACTIVATIONS[name]

  def interceptor(call, args, kwargs, context):
    module = context.module
    if context.method_name != '__call__' or not isinstance(module, Mlp):
      return call(*args, **kwargs)
    params = module.variables['params']

    def dense(part, x):
      product = x @ params[part]['kernel']
      return product + jnp.broadcast_to(params[part]['bias'], product.shape)

    return dense('Dense_1', act(dense('Dense_0', args[0])))

  return interceptor


def _post_norm(call, args, kwargs, context):
  """Computes blocks of LayerNorm(x + attention(x)), LayerNorm(x + MLP(x))."""
  block = context.module
  if context.method_name != '__call__' or not isinstance(block, EncoderBlock):
    return call(*args, **kwargs)
  parts = block.variables['params']
  dtypes = dict(dtype=block.dtype, param_dtype=block.param_dtype)

  def apply(module, name, *inputs):
    return module.apply({'params': parts[name]}, *inputs)

  def norm(name, x):
    module = nn.LayerNorm(
      epsilon=block.layer_norm_eps,
      dtype=norm_dtype(block.dtype),
      param_dtype=block.param_dtype,
      parent=None,
    )
    return apply(module, name, x)

  attention = Attention(
    num_heads=block.num_heads,
    implementation=block.attention,
    **dtypes,
    parent=None,
  )
  mlp = Mlp(mlp_dim=block.mlp_dim, gelu=block.gelu, **dtypes, parent=None)
  x: jax.Array = args[0]
  name = 'MultiHeadDotProductAttention_0'
  attended, _ = apply(attention, name, x, x)
  named = {f'/{name}': attended}

  def scaled(end, y):
    if end[1:] not in parts:
      return y
    factors = parts[end[1:]]['scale']
    named[end] = y * jnp.broadcast_to(factors, y.shape)
    return named[end]

  attended = scaled(LAYER_SCALES[0], attended)
  x = named['/LayerNorm_0'] = norm('LayerNorm_0', x + attended)
  named['/MlpBlock_0'] = apply(mlp, 'MlpBlock_0', x)
  x = x + scaled(LAYER_SCALES[1], named['/MlpBlock_0'])
  x = named[''] = named['/LayerNorm_1'] = norm('LayerNorm_1', x)
  return x, named
