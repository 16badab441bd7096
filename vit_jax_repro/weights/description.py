"""Infers a model's architecture from the names and shapes of its parameters."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.models import bert, efficientnet, variants
from vit_jax_repro.models.layers import TORCH_GELU
from vit_jax_repro.output import messages
from vit_jax_repro.weights import ablation_positions, layouts, positions, trees

_LAST_LAYER = trees.MAX_LAYERS - 1
# Initial factors of a LayerScale, for fresh parameters only: those of DINOv2
# (dinov2/configs/ssl_default_config.yaml). No array shows them.
LAYER_SCALE_INIT = 1e-5
STEM_STRIDE = 4  # of the hybrids' root convolution and pooling together


def describe(params: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields for `models.create` that a canonical tree implies.

  Fields that shapes do not determine have their defaults: dropout rates (0),
  epsilons, the GELU form, BiT's number of groups and EfficientNet's strides. A
  file without class token gives `gap`, although its model may have been
  `unpooled`. A file without position embeddings gives `sincos2d`, although its
  model may have had none. A
  DeiT without distillation token has a ViT's names and shapes and therefore
  gets a ViT's GELU form; a run's model.json or the model's name has the right
  one. LayerScale and registers, like a distillation token, come from PyTorch,
  with its GELU form. A file with class token and `fc_norm` averages its
  patches, and one whose head has twice the model's width takes both.

  An image-text model gives `text_model`, the fields `image` and `text` of its
  towers, and `max_len`, the number of tokens of a text: that of the positions
  of a text Transformer, and LiT's for a BERT, which gets heads of width 64.

  Args:
    params: a tree from `load` (nested; arrays or shapes).

  Returns:
    The fields, and `image_size`: (height, width) in pixels if a square grid of
    position embeddings (see `positions.slots`) or token-mixing weights fixes
    it, else None.

  Raises:
    InputError: essential names are missing or have a wrong number of
      dimensions; one line with all of them.
  """
  if layouts.has_two_towers(params):
    return _two_towers(params)
  flat = trees.unstack(trees.flatten(params))
  shapes = {name: tuple(leaf.shape) for name, leaf in flat.items()}
  if 'root_block/conv/kernel' in shapes:
    read, essential = _bit, _BIT_RANKS
  elif 'stem/kernel' in shapes:
    read, essential = _mixer, _MIXER_RANKS
  elif 'stem/conv/kernel' in shapes:
    read, essential = _efficientnet, _EFFICIENTNET_RANKS
  else:
    read, essential = _vit, _VIT_RANKS
  _check_ranks(shapes, essential)
  return read(shapes)


# Number of dimensions of each array whose shape is used here.
_BLOCK = 'Transformer/encoderblock_0'
_VIT_RANKS = {
  'embedding/kernel': 4,
  f'{_BLOCK}/MlpBlock_0/Dense_0/kernel': 2,
  f'{_BLOCK}/MultiHeadDotProductAttention_0/query/kernel': 3,
}
_MIXER_RANKS = {
  'stem/kernel': 4,
  'MixerBlock_0/token_mixing/Dense_0/kernel': 2,
  'MixerBlock_0/channel_mixing/Dense_0/kernel': 2,
}
_BIT_RANKS = {'root_block/conv/kernel': 4, 'block1/unit01/a/conv/kernel': 4}
_EFFICIENTNET_RANKS = {
  'stem/conv/kernel': 4,
  'top/conv/kernel': 4,
  'block1/unit01/depthwise/conv/kernel': 4,
}
_RANKS_IF_THERE = {
  'head/bias': 1,
  'pre_logits/bias': 1,
  'conv_root/kernel': 4,
  'registers': 3,
  layouts.POSITIONS: 3,
  layouts.POSITIONS_BEFORE_CLS: 3,
}


def _two_towers(params):
  image = describe(layouts.tower(params, layouts.IMAGE))
  flat = trees.unstack(layouts.tower(params, layouts.TEXT))
  shapes = {name: tuple(leaf.shape) for name, leaf in flat.items()}
  is_bert = any(name.startswith('BertEncoder_0/') for name in shapes)
  text = _bert(shapes) if is_bert else _text_transformer(shapes)
  out_dim = image.pop('num_classes'), _num_classes(shapes)
  fields = dict(
    model='two_towers',
    text_model='bert' if is_bert else 'text_transformer',
    image_size=image.pop('image_size'),
    max_len=variants.LIT_TOKENS if is_bert else shapes['pos_embedding'][1],
    image=image,
    text=text,
    out_dim=out_dim,
  )
  return fields | ({'has_bias': True} if 'b' in params else {})


def _bert(shapes):
  layers = 'BertEncoder_0/encoder_block/layer_sequence/layers_'
  tables = 'BertEncoder_0/embedder/embedders_{}_ids/embedding'.format
  hidden = f'{layers}0/mlp_block/mlp/dense_layer/kernel'
  names = ('token', 'position', 'segment')
  _check_ranks(shapes, dict.fromkeys([*map(tables, names), hidden], 2))
  rows = [shapes[tables(name)][0] for name in names]
  hidden_size, mlp_dim = shapes[hidden]
  return dict(
    hidden_size=hidden_size,
    mlp_dim=mlp_dim,
    num_heads=max(hidden_size // bert.HEAD_DIM, 1),
    num_layers=_count(f'{layers}([0-9]+)/', shapes),
    vocab_size=rows[0],
    max_length=rows[1],
    num_segments=rows[2],
  )


def _text_transformer(shapes):
  block = 'Encoder_0/encoderblock_0'
  query = f'{block}/MultiHeadDotProductAttention_0/query/kernel'
  hidden, words = f'{block}/MlpBlock_0/Dense_0/kernel', 'Embed_0/embedding'
  _check_ranks(shapes, {query: 3, hidden: 2, words: 2, 'pos_embedding': 3})
  return dict(
    hidden_size=shapes[hidden][0],
    mlp_dim=shapes[hidden][1],
    num_heads=shapes[query][1],
    num_layers=_count('Encoder_0/encoderblock_([0-9]+)/', shapes),
    vocab_size=shapes[words][0],
  )


def _check_ranks(shapes, essential):
  missing = sorted(essential.keys() - shapes.keys())
  wrong = [
    f'{name}: {messages.short(shapes[name])} instead of {rank} positive sides'
    for name, rank in (essential | _RANKS_IF_THERE).items()
    if name in shapes
    and (len(shapes[name]) != rank or min(shapes[name], default=0) < 1)
  ]
  if missing or wrong:
    raise InputError(
      f'cannot tell the architecture from {len(shapes)} parameters: {missing=} '
      f'{wrong=}; {layouts.advice(shapes)}'
    )


def _num_classes(shapes):
  return shapes.get('head/bias', (None,))[0]


def _count(pattern, shapes):
  """Returns 1 + the highest number that `pattern` matches, 0 without any."""
  matches = [re.match(pattern, name) for name in shapes]
  numbers = [match[1].lstrip('0') or '0' for match in matches if match]
  longest = max(numbers, key=len, default='')
  # Checks the length first because int() rejects thousands of digits.
  if len(longest) > 9 or max(map(int, numbers), default=0) > _LAST_LAYER:
    raise InputError(
      f'layer number {messages.short(longest)} is too high: models of at most '
      f'{trees.MAX_LAYERS} layers are read'
    )
  return max((1 + int(number) for number in numbers), default=0)


def _vit(shapes):
  *patch_size, _, hidden_size = shapes['embedding/kernel']
  attention = f'{_BLOCK}/MultiHeadDotProductAttention_0'
  spec = dict(
    model='vit',
    num_classes=_num_classes(shapes),
    patch_size=tuple(patch_size),
    hidden_size=hidden_size,
    transformer=dict(
      num_layers=_count(r'Transformer/encoderblock_([0-9]+)/', shapes),
      mlp_dim=shapes[f'{_BLOCK}/MlpBlock_0/Dense_0/kernel'][1],
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
      num_layers=_units(r'block{}/unit([0-9]+)/', shapes),
      width_factor=int(width) if width == int(width) else width,
    )
  spec |= _torch_parts(shapes)
  if 'fc_norm/scale' in shapes:
    spec['fc_norm'] = True
    if 'cls' in shapes:
      spec['class_token'] = True
  if layouts.POSITIONS_BEFORE_CLS in shapes:
    spec['class_token_after_positions'] = True
  elif layouts.POSITIONS not in shapes:
    spec |= ablation_positions.fields(shapes) or {
      'position_embedding': 'sincos2d'
    }
  if 'mask' in shapes:
    spec['corruptible'] = True
  spec['image_size'] = _image_size(shapes, spec)
  return spec


def _classifier(shapes):
  if 'MAPHead_0/probe' in shapes:
    return 'map'
  if 'cls' not in shapes or 'fc_norm/scale' in shapes:
    return 'gap'
  first = 'pre_logits' if 'pre_logits/kernel' in shapes else 'head'
  inputs = shapes.get(f'{first}/kernel', (0,))[0]
  width = shapes['embedding/kernel'][-1]
  return 'token_and_gap' if inputs == 2 * width else 'token'


def _torch_parts(shapes):
  """Returns the fields of parts that only models of PyTorch have."""
  fields = {}
  if 'dist' in shapes:  # a DeiT
    fields['distilled'] = True
    if 'head/bias' in shapes and 'head_dist/bias' not in shapes:
      fields['distillation_head'] = False
  if 'registers' in shapes:
    fields['num_registers'] = shapes['registers'][1]
  if f'{_BLOCK}/LayerScale_0/scale' in shapes:
    fields['layer_scale_init'] = LAYER_SCALE_INIT
  return fields | {'gelu': TORCH_GELU} if fields else {}


def _units(pattern, shapes):
  """Returns the numbers of units of block1, block2, ..."""
  units = []
  while count := _count(pattern.format(len(units) + 1), shapes):
    units.append(count - 1)  # unit numbers start at 1
  return tuple(units)


def _image_size(shapes, spec):
  """Returns (height, width) in pixels from the grid of positions, or None."""
  grid = _grid(shapes)
  if grid is None:
    return None
  stride = 1
  if 'resnet' in spec:
    stages = len(spec['resnet']['num_layers'])
    stride = STEM_STRIDE * 2 ** max(stages - 1, 0)
  sides = zip(grid, spec['patch_size'], strict=True)
  return tuple(side * patch * stride for side, patch in sides)


def _grid(shapes):
  name = positions.name_in(shapes)
  if name is None:
    return ablation_positions.grid(shapes)
  tokens = shapes[name][1]
  slots = positions.slots(tokens, positions.prefix(shapes, name))
  return None if slots is None else (math.isqrt(tokens - slots),) * 2


def pixels(tokens: int, patch_size: Sequence[int]) -> tuple[int, int] | None:
  """Returns (height, width) of a square grid of patches, None if not square."""
  side = math.isqrt(tokens)
  if side * side != tokens:
    return None
  height, width = patch_size
  return side * height, side * width


def _mixer(shapes):
  *patch_size, _, hidden_dim = shapes['stem/kernel']
  tokens, tokens_mlp_dim = shapes['MixerBlock_0/token_mixing/Dense_0/kernel']
  return dict(
    model='mixer',
    num_classes=_num_classes(shapes),
    patch_size=tuple(patch_size),
    num_blocks=_count(r'MixerBlock_([0-9]+)/', shapes),
    hidden_dim=hidden_dim,
    tokens_mlp_dim=tokens_mlp_dim,
    channels_mlp_dim=shapes['MixerBlock_0/channel_mixing/Dense_0/kernel'][1],
    image_size=pixels(tokens, patch_size),
  )


def _bit(shapes):
  root_channels = shapes['root_block/conv/kernel'][-1]
  width = root_channels / 64
  return dict(
    model='bit_resnetv2',
    num_classes=_num_classes(shapes),
    block_units=_units(r'block{}/unit([0-9]+)/', shapes),
    width_factor=int(width) if width == int(width) else width,
    root_channels=root_channels,
    groups=32,
    image_size=None,
  )


def _efficientnet(shapes):
  units = _units(r'block{}/unit([0-9]+)/', shapes)
  first = [f'block{i + 1}/unit01' for i in range(len(units))]
  kernels = {
    layer: [shapes.get(f'{unit}/{layer}/kernel') for unit in first]
    for layer in ('expand/conv', 'depthwise/conv', 'project/conv')
  }
  _check_kernels(first, kernels)
  stem = shapes['stem/conv/kernel'][-1]
  squeeze = shapes.get(f'{first[0]}/squeeze/reduce/bias', (0,))[0]
  return dict(
    model='efficientnet',
    num_classes=_num_classes(shapes),
    block_units=units,
    block_channels=tuple(shape[-1] for shape in kernels['project/conv']),
    kernel_sizes=tuple(shape[0] for shape in kernels['depthwise/conv']),
    block_strides=efficientnet.STRIDES[: len(units)],
    expansions=tuple(
      shape[3] // shape[2] if shape else 1 for shape in kernels['expand/conv']
    ),
    stem_channels=stem,
    top_channels=shapes['top/conv/kernel'][-1],
    squeeze_ratio=squeeze / stem,
    image_size=None,
  )


def _check_kernels(units, kernels):
  """Raises an InputError if a kernel of a block's first unit is unknown."""
  wrong = [
    f'{unit}/{layer}/kernel'
    for layer, shapes in kernels.items()
    for unit, shape in zip(units, shapes, strict=True)
    if (shape or layer != 'expand/conv') and len(shape or ()) != 4
  ]
  if wrong or len(units) > len(efficientnet.STRIDES):
    raise InputError(
      f'cannot tell the architecture of an EfficientNet of {len(units)} blocks '
      f'without {messages.listed(wrong)}, kernels of 4 sides; models of at '
      f'most {len(efficientnet.STRIDES)} blocks are read'
    )
