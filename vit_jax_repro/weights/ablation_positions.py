"""Position embeddings that no released file has: ViT paper, D.4 (Table 8).

Kinds and places are those of `models/positions.py`. They are told by their
names, and resized where they stand; nothing is moved between models.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import scipy.ndimage

from vit_jax_repro.errors import InputError
from vit_jax_repro.weights import positions

_TABLE = re.compile(
  'Transformer/'
  '(posembed_input(?=/[xy])|posembed_shared|encoderblock_[0-9]+/posembed_layer)'
  '/(pos|x|y|relative)_embedding'
)
_KINDS = dict(pos='learned', x='learned2d', y='learned2d', relative='relative')


def tables(flat: Iterable[str]) -> list[str]:
  """The names, among those of a tree, that are such position embeddings."""
  return [name for name in flat if _TABLE.fullmatch(name)]


def fields(flat: Iterable[str]) -> dict[str, str]:
  """The fields of a ViT that say kind and place; {} without such a table.

  In a model of one block, 'relative' at the stem is the same as in every
  layer, and is called that.
  """
  found = [match for match in map(_TABLE.fullmatch, flat) if match]
  if not found:
    return {}
  place, leaf = found[0].groups()
  if place.startswith('posembed_'):
    place = place.removeprefix('posembed_').replace('input', 'stem')
  else:
    blocks = {name.split('/')[1] for name in flat if '/encoderblock_' in name}
    all_blocks = {match[1].split('/')[0] for match in found} == blocks
    place = 'every_layer' if all_blocks else 'stem'
  return dict(position_embedding=_KINDS[leaf], position_embedding_at=place)


def grid(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int] | None:
  """(h, w) that they were made for; but for 'learned2d' it must be a square.

  None where the shapes do not tell it.
  """
  for name in tables(shapes):
    folder, _, leaf = name.rpartition('/')
    sides = shapes[name]
    if leaf in ('x_embedding', 'y_embedding'):
      rows, columns = (
        shapes.get(f'{folder}/{axis}_embedding', ()) for axis in 'yx'
      )
      tells = len(rows) == len(columns) == 3
      return (rows[1], columns[1]) if tells else None
    if len(sides) != 3:
      return None
    relative = leaf == 'relative_embedding'
    tokens = (sides[0] + 1) // 2 if relative else sides[1]
    count = positions.slots(tokens, positions.prefix(shapes, name))
    return None if count is None else (math.isqrt(tokens - count),) * 2
  return None


def adapt(
  flat: Mapping[str, Any],
  wanted: Mapping[str, Any],
  grid: tuple[int, int],
  *,
  source_grid: tuple[int, int] | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
  """Resizes tables to a model's, by the rule of `positions`.

  Rows and columns of 'learned2d' are resized along their one axis. Offsets of
  'relative' are along the sequence of one image size and cannot be.

  Args:
    flat: parameters by flat name; arrays are not changed.
    wanted: arrays or shapes of the model, likewise.
    grid, source_grid: see `positions.adapt`.

  Returns:
    The parameters, and why those that were not resized could not be, by name.
  """
  flat, reasons = dict(flat), {}
  for name in tables(flat):
    have, want = flat[name].shape, wanted[name].shape if name in wanted else ()
    if have == want or len(have) != 3 or len(want) != 3:
      continue  # the check of all names will tell
    if name.endswith('/relative_embedding'):
      if have[1:] == want[1:]:
        reasons[name] = (
          f'{name}: its offsets are of a sequence of {(have[0] + 1) // 2} '
          f'tokens, not {(want[0] + 1) // 2}; keep the image size'
        )
    elif have[2] == want[2] and name.endswith('/pos_embedding'):
      try:
        flat[name] = positions.resized(
          flat[name], positions.prefix(flat, name), grid, source_grid
        )
      except InputError as error:
        reasons[name] = f'{name}: {error}'
    elif have[2] == want[2]:
      flat[name] = _stretched(np.asarray(flat[name]), want[1])
  return flat, reasons


def _stretched(table, length):  # [1, n, D/2] -> [1, length, D/2]
  wide = table.astype(np.promote_types(table.dtype, np.float32))
  factors = (1, length / table.shape[1], 1)
  return scipy.ndimage.zoom(wide, factors, order=1).astype(table.dtype)
