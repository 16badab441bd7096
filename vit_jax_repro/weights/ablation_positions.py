"""Position embeddings of the ViT paper's ablations, D.4 (Table 8).

No released file has them. Their kinds and places are those of
`models/positions.py`, and the names of the arrays determine both. They fit
images of one size only.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from vit_jax_repro.weights import positions

_TABLE = re.compile(
  'Transformer/'
  '(posembed_input(?=/[xy])|posembed_shared|encoderblock_[0-9]+/posembed_layer)'
  '/(pos|x|y|relative)_embedding'
)
_KINDS = dict(pos='learned', x='learned2d', y='learned2d', relative='relative')


def tables(flat: Iterable[str]) -> list[str]:
  """Lists the names of a tree that are such position embeddings."""
  return [name for name in flat if _TABLE.fullmatch(name)]


def fields(flat: Iterable[str]) -> dict[str, str]:
  """Returns the fields of a ViT for kind and place; {} without such a table.

  In a model of one block, 'relative' at the stem is the same as in every
  layer. It is called 'every_layer'.
  """
  matches = [match for match in map(_TABLE.fullmatch, flat) if match]
  if not matches:
    return {}
  place, leaf = matches[0].groups()
  if place.startswith('posembed_'):
    place = place.removeprefix('posembed_').replace('input', 'stem')
  else:
    blocks = {name.split('/')[1] for name in flat if '/encoderblock_' in name}
    all_blocks = {match[1].split('/')[0] for match in matches} == blocks
    place = 'every_layer' if all_blocks else 'stem'
  return dict(position_embedding=_KINDS[leaf], position_embedding_at=place)


def grid(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int] | None:
  """Returns the (h, w) of the tables, None if the shapes do not determine it.

  The grid is assumed to be square, except for 'learned2d'.
  """
  for name in tables(shapes):
    folder, _, leaf = name.rpartition('/')
    sides = shapes[name]
    if leaf in ('x_embedding', 'y_embedding'):
      rows, columns = (
        shapes.get(f'{folder}/{axis}_embedding', ()) for axis in 'yx'
      )
      known = len(rows) == len(columns) == 3
      return (rows[1], columns[1]) if known else None
    if len(sides) != 3:
      return None
    relative = leaf == 'relative_embedding'
    tokens = (sides[0] + 1) // 2 if relative else sides[1]
    count = positions.slots(tokens, positions.prefix(shapes, name))
    if count is None:
      return None
    side = math.isqrt(tokens - count)
    return side, side
  return None


def size_reasons(
  flat: Mapping[str, Any], wanted: Mapping[str, Any]
) -> dict[str, str]:
  """Returns messages, by name, for tables of another size than the model's.

  Args:
    flat: parameters of a file by flat name.
    wanted: arrays or shapes of the model by flat name.
  """
  names = [
    name
    for name in tables(flat)
    if name in wanted and flat[name].shape != wanted[name].shape
  ]
  if not names:
    return {}
  first = names[0]
  reason = (
    f'{first}: file {tuple(flat[first].shape)}, model '
    f'{tuple(wanted[first].shape)}; such position embeddings are not resized, '
    'keep the image size that they were trained at'
  )
  return dict.fromkeys(names, reason)
