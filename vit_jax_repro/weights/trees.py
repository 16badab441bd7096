"""Trees: flat and nested, and scanned encoders' stacked blocks and back."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages

# More than any transformer has; what a damaged or hostile file may claim is
# not turned into that many blocks.
MAX_LAYERS = 1000

_STACKED = re.compile(r'Transformer/encoderblock/(.*)')
_UNROLLED = re.compile(r'Transformer/encoderblock_([0-9]{1,9})/(.*)')


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
  """{'a': {'b': array}} -> {'a/b': array}; a flat tree stays as it is."""
  return traverse_util.flatten_dict(dict(params), sep='/')


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
  """{'a/b': array} -> {'a': {'b': array}}.

  Raises:
    InputError: a name is both an array and what others stand below.
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


def unstack(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Splits `Transformer/encoderblock/x` [L, ...] into `encoderblock_0/x`...

  The parts are views. A flat tree without stacked blocks is copied as it is.

  Raises:
    InputError: the stacked arrays have not all the same number of layers, at
      least 1 and at most `MAX_LAYERS`; or a block is there both ways.
  """
  _check_stacked(flat)
  unrolled = {}
  for name, array in flat.items():
    if match := _STACKED.fullmatch(name):
      for i in range(array.shape[0]):
        unrolled[f'Transformer/encoderblock_{i}/{match[1]}'] = array[i]
    else:
      unrolled[name] = array
  return unrolled


def stack(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Stacks `encoderblock_0/x`, `encoderblock_1/x`, ... in natural order.

  Raises:
    InputError: a block lacks what another one has, or its shape.
  """
  stacked, layers = {}, {}
  for name, array in flat.items():
    if match := _UNROLLED.fullmatch(name):
      layers.setdefault(match[2], {})[int(match[1])] = array
    else:
      stacked[name] = array
  num_layers = max((1 + max(found) for found in layers.values()), default=0)
  for name, found in layers.items():
    if (
      len(found) < num_layers or len({np.shape(a) for a in found.values()}) > 1
    ):
      raise InputError(
        f'Transformer/encoderblock_*/{messages.short(name)} is not there with '
        f'one shape in all of {num_layers} blocks; they cannot be stacked'
      )
    arrays = [found[i] for i in range(num_layers)]
    stacked[f'Transformer/encoderblock/{name}'] = np.stack(arrays)
  return stacked


def _check_stacked(flat):
  shapes = {
    name: tuple(array.shape)
    for name, array in flat.items()
    if _STACKED.fullmatch(name)
  }
  if not shapes:
    return
  if any(_UNROLLED.fullmatch(name) for name in flat):
    raise InputError(
      'blocks are there both stacked (Transformer/encoderblock) and one by one '
      '(Transformer/encoderblock_0, ...); one model has either'
    )
  layers = {shape[:1] for shape in shapes.values()}
  if len(layers) > 1 or not 0 < (*next(iter(layers)), 0)[0] <= MAX_LAYERS:
    odd = {shape[:1]: f'{name} {shape}' for name, shape in shapes.items()}
    raise InputError(
      f'stacked blocks must all have the same number of layers, 1 to '
      f'{MAX_LAYERS}, as first side: {messages.listed(odd.values())}'
    )
