"""Reads a model's architecture off the names and shapes of its parameters."""

import math
import re
from collections.abc import Mapping
from typing import Any

from vit_jax_repro.weights import names, stacking

STEM_STRIDE = 4  # root convolution and pool of the hybrids, together


def describe(params: Mapping[str, Any]) -> dict[str, Any]:
  """The mapping of fields that a canonical tree implies, for `models.create`.

  What shapes cannot tell has its default: dropout rates (0), epsilons, GELU
  form, BiT's number of groups, and `gap` for a file without class token that
  may have been used `unpooled`.

  Args:
    params: a tree as `load` returns it (nested; arrays or shapes).

  Returns:
    Fields, and `image_size` (height, width) in pixels where a square grid of
    position embeddings or token-mixing weights fixes it, else None.

  Raises:
    ValueError: essential names are missing, so that no architecture fits.
  """
  flat = stacking.unstack(stacking.flatten(params))
  shapes = {name: tuple(leaf.shape) for name, leaf in flat.items()}
  try:
    if 'root_block/conv/kernel' in shapes:
      return _bit(shapes)
    if 'stem/kernel' in shapes:
      return _mixer(shapes)
    return _vit(shapes)
  except (KeyError, IndexError) as error:
    raise ValueError(
      f'cannot tell the architecture: no {error.args[0]!r} among '
      f'{len(shapes)} parameters'
    ) from None


def _num_classes(shapes):
  return shapes.get('head/bias', (None,))[0]


def _count(pattern, shapes):
  """1 + the highest number that `pattern` finds, 0 if there is none."""
  found = [re.match(pattern, name) for name in shapes]
  return max((1 + int(match[1]) for match in found if match), default=0)


def _vit(shapes):
  *patch_size, _, hidden_size = shapes['embedding/kernel']
  block = 'Transformer/encoderblock_0'
  attention = f'{block}/MultiHeadDotProductAttention_0'
  spec = dict(
    model='vit',
    num_classes=_num_classes(shapes),
    patch_size=tuple(patch_size),
    hidden_size=hidden_size,
    transformer=dict(
      num_layers=_count(r'Transformer/encoderblock_(\d+)/', shapes),
      mlp_dim=shapes[f'{block}/MlpBlock_0/Dense_0/kernel'][1],
      num_heads=shapes[f'{attention}/query/kernel'][1],
      dropout_rate=0.0,
      attention_dropout_rate=0.0,
    ),
    representation_size=shapes.get('pre_logits/bias', (None,))[0],
    classifier=_classifier(shapes),
  )
  if 'conv_root/kernel' in shapes:
    width = shapes['conv_root/kernel'][-1] / 64
    spec['resnet'] = dict(
      num_layers=_units(r'block{}/unit(\d+)/', shapes),
      width_factor=int(width) if width == int(width) else width,
    )
  if 'dist' in shapes:
    spec.update(distilled=True, gelu='erf')  # DeiT is a PyTorch model
  if names.POSITIONS_BEFORE_CLS in shapes:
    spec['class_token_after_positions'] = True
  elif names.POSITIONS not in shapes:
    spec['position_embedding'] = 'sincos2d'
  spec['image_size'] = _image_size(shapes, spec)
  return spec


def _classifier(shapes):
  if 'MAPHead_0/probe' in shapes:
    return 'map'
  return 'token' if 'cls' in shapes else 'gap'


def _units(pattern, shapes):
  """Units of block1, block2, ..."""
  units = []
  while count := _count(pattern.format(len(units) + 1), shapes):
    units.append(count - 1)  # they are counted from 1
  return tuple(units)


def _image_size(shapes, spec):
  """(height, width) in pixels from a square grid of positions, else None."""
  if names.POSITIONS_BEFORE_CLS in shapes:
    tokens = shapes[names.POSITIONS_BEFORE_CLS][1]
  elif names.POSITIONS in shapes:
    tokens = shapes[names.POSITIONS][1] - ('cls' in shapes) - ('dist' in shapes)
  else:
    return None
  stride = 1
  if 'resnet' in spec:
    stages = len(spec['resnet']['num_layers'])
    stride = STEM_STRIDE * 2 ** max(stages - 1, 0)
  return _pixels(tokens, spec['patch_size'], stride)


def _pixels(tokens, patch_size, stride=1):
  side = math.isqrt(tokens)
  if side * side != tokens:
    return None
  return tuple(side * patch * stride for patch in patch_size)


def _mixer(shapes):
  *patch_size, _, hidden_dim = shapes['stem/kernel']
  tokens, tokens_mlp_dim = shapes['MixerBlock_0/token_mixing/Dense_0/kernel']
  return dict(
    model='mixer',
    num_classes=_num_classes(shapes),
    patch_size=tuple(patch_size),
    num_blocks=_count(r'MixerBlock_(\d+)/', shapes),
    hidden_dim=hidden_dim,
    tokens_mlp_dim=tokens_mlp_dim,
    channels_mlp_dim=shapes['MixerBlock_0/channel_mixing/Dense_0/kernel'][1],
    image_size=_pixels(tokens, patch_size),
  )


def _bit(shapes):
  root_channels = shapes['root_block/conv/kernel'][-1]
  width = root_channels / 64
  return dict(
    model='bit_resnetv2',
    num_classes=_num_classes(shapes),
    block_units=_units(r'block{}/unit(\d+)/', shapes),
    width_factor=int(width) if width == int(width) else width,
    root_channels=root_channels,
    groups=32,
    image_size=None,
  )
