"""Parameter trees: flattening and nesting, stacking and unstacking of blocks.

The blocks of scanned encoders are stacked.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from vit_jax_repro.errors import InputError
from vit_jax_repro.models.efficientnet import STATISTICS
from vit_jax_repro.output import messages

# More than any transformer has. Limits the number of blocks that a damaged or
# hostile file can create.
MAX_LAYERS = 1000

# `Encoder_0` is that of a text tower, whose names begin with `txt/`.
_ENCODER = r'((?:[a-z]+/)?(?:Transformer|Encoder_0)/encoderblock)'
_STACKED = re.compile(_ENCODER + '/(.*)')
_UNROLLED = re.compile(_ENCODER + '_([0-9]{1,9})/(.*)')


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
  """Flattens {'a': {'b': array}} to {'a/b': array}; keeps a flat tree."""
  return traverse_util.flatten_dict(dict(params), sep='/')


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Nests {'a/b': array} to {'a': {'b': array}}.

  Raises:
    InputError: a name is that of an array and also a prefix of others.
  """
  above = set()
  for name in flat:
    parts = name.split('/')
    above.update('/'.join(parts[:i]) for i in range(1, len(parts)))
  if clashes := above & flat.keys():
    raise InputError(
      f'names of arrays that also have arrays below them: '
      f'{messages.listed(clashes)}; it is no tree of parameters'
    )
  return traverse_util.unflatten_dict(dict(flat), sep='/')


def is_statistic(name: str) -> bool:
  """Returns whether a leaf of this path is a frozen statistic of a norm.

  Statistics are in the trees of parameters, and are no parameters: they are not
  trained and not counted.
  """
  return name.rpartition('/')[2] in STATISTICS


def num_parameters(params: Mapping[str, Any]) -> int:
  """Returns the number of parameters of a tree of arrays or shapes."""
  return sum(
    leaf.size
    for name, leaf in flatten(params).items()
    if not is_statistic(name)
  )


def unstack(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Splits `Transformer/encoderblock/x` [L, ...] into `encoderblock_0/x`...

  The parts are views. A flat tree without stacked blocks is copied unchanged.

  Raises:
    InputError: the stacked arrays differ in their number of layers, or the
      number is not in 1..`MAX_LAYERS`, or the tree has both stacked and
      unrolled blocks.
  """
  _check_stacked(flat)
  unrolled = {}
  for name, array in flat.items():
    if match := _STACKED.fullmatch(name):
      for i in range(array.shape[0]):
        unrolled[f'{match[1]}_{i}/{match[2]}'] = array[i]
    else:
      unrolled[name] = array
  return unrolled


def stack(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Stacks `encoderblock_0/x`, `encoderblock_1/x`, ... in natural order.

  Raises:
    InputError: an array is missing in some blocks or has several shapes.
  """
  stacked, layers, last = {}, {}, {}
  for name, array in flat.items():
    if match := _UNROLLED.fullmatch(name):
      encoder, number, end = match[1], int(match[2]), match[3]
      layers.setdefault((encoder, end), {})[number] = array
      last[encoder] = max(last.get(encoder, 0), number)
    else:
      stacked[name] = array
  for (encoder, name), arrays in layers.items():
    num_layers = 1 + last[encoder]
    shapes = {np.shape(array) for array in arrays.values()}
    if len(arrays) < num_layers or len(shapes) > 1:
      raise InputError(
        f'{encoder}_*/{messages.short(name)} must have one '
        f'shape in all {num_layers} blocks; they cannot be stacked'
      )
    stacked[f'{encoder}/{name}'] = np.stack(
      [arrays[i] for i in range(num_layers)]
    )
  return stacked


def _check_stacked(flat):
  encoders = {}
  for name, array in flat.items():
    if match := _STACKED.fullmatch(name):
      encoders.setdefault(match[1], {})[name] = tuple(array.shape)
  for shapes in encoders.values():
    _check_stack(flat, shapes)


def _check_stack(flat, shapes):
  if any(_UNROLLED.fullmatch(name) for name in flat):
    raise InputError(
      'the file has blocks both stacked (Transformer/encoderblock) and one by '
      'one (Transformer/encoderblock_0, ...); a model has only one of the two'
    )
  layers = {shape[:1] for shape in shapes.values()}
  if len(layers) > 1 or not 0 < (*next(iter(layers)), 0)[0] <= MAX_LAYERS:
    odd = {shape[:1]: f'{name} {shape}' for name, shape in shapes.items()}
    raise InputError(
      'the first dimension of every stacked array must be the same number of '
      f'layers, 1 to {MAX_LAYERS}: {messages.listed(odd.values())}'
    )
