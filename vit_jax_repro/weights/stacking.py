"""Trees: flat and nested, and scanned encoders' stacked blocks and back."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

_STACKED = re.compile(r'Transformer/encoderblock/(.*)')
_UNROLLED = re.compile(r'Transformer/encoderblock_(\d+)/(.*)')


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
  """{'a': {'b': array}} -> {'a/b': array}; a flat tree stays as it is."""
  return traverse_util.flatten_dict(dict(params), sep='/')


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
  """{'a/b': array} -> {'a': {'b': array}}."""
  return traverse_util.unflatten_dict(dict(flat), sep='/')


def unstack(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Splits `Transformer/encoderblock/x` [L, ...] into `encoderblock_0/x`...

  The parts are views. A flat tree without stacked blocks is copied as it is.
  """
  unrolled = {}
  for name, array in flat.items():
    if match := _STACKED.fullmatch(name):
      for i in range(array.shape[0]):
        unrolled[f'Transformer/encoderblock_{i}/{match[1]}'] = array[i]
    else:
      unrolled[name] = array
  return unrolled


def stack(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Stacks `encoderblock_0/x`, `encoderblock_1/x`, ... in natural order."""
  stacked, layers = {}, {}
  for name, array in flat.items():
    if match := _UNROLLED.fullmatch(name):
      layers.setdefault(match[2], {})[int(match[1])] = array
    else:
      stacked[name] = array
  for name, by_number in layers.items():
    arrays = [by_number[i] for i in sorted(by_number)]
    stacked[f'Transformer/encoderblock/{name}'] = np.stack(arrays)
  return stacked
