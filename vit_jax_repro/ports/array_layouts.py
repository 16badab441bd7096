"""What arrays a table of modules stands for, and how they lie on either side.

Kernels are [in, out] or [kh, kw, in, out] here and [out, in] or [out, in, kh,
kw] in PyTorch. Attention has an axis of heads here ([D, A, d], and [A, d, D]
on the way out) and none there; timm has query, key and value in one array.

Shapes: D hidden, A heads, d head dim.
"""

import re
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages
from vit_jax_repro.weights import trees

# Hidden size of every published ViT: heads are 64 wide, those of H/14 80 (ViT
# paper, Table 1; AugReg paper, Table 1).
NUM_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}


class Leaf(NamedTuple):
  """One array of a port and the arrays of ours that it holds."""

  canonical: tuple[str, ...]  # several where the port fuses them
  port: str
  layout: str  # a key of LAYOUTS


class Group(NamedTuple):
  """Modules below a prefix on either side; rows as in `tables`."""

  canonical: str
  port: str
  rows: tuple[tuple, ...]


# kind: (suffix of ours, suffix of the port, layout) of each array.
_BIAS = ('/bias', '.bias', 'vector')
LEAVES = {
  'tokens': (('', '', 'tokens'),),
  'norm': (('/scale', '.weight', 'vector'), _BIAS),
  'dense': (('/kernel', '.weight', 'dense'), _BIAS),
  'conv': (('/kernel', '.weight', 'conv'), _BIAS),
  'std_conv': (('/kernel', '.weight', 'conv'),),
  'conv_head': (('/kernel', '.weight', 'conv_head'), _BIAS),
  'heads': (
    ('/kernel', '.weight', 'heads'),
    ('/bias', '.bias', 'heads_bias'),
  ),
  'out': (('/kernel', '.weight', 'out'), _BIAS),
}


class Layout(NamedTuple):
  """How an array lies on either side, and the way to and fro."""

  rank: int
  port_rank: int
  to_port: Callable[[np.ndarray], np.ndarray]
  from_port: Callable[[np.ndarray, int], np.ndarray]  # array, A
  headed_axis: int | None = None  # of the port, which A divides


def _same(array, _=None):
  return array


def _transposed(array, _=None):
  return array.T


LAYOUTS = {
  'vector': Layout(1, 1, _same, _same),
  'tokens': Layout(3, 3, _same, _same),
  'dense': Layout(2, 2, _transposed, _transposed),
  'conv': Layout(
    4,
    4,
    lambda a: a.transpose(3, 2, 0, 1),
    lambda a, _: a.transpose(2, 3, 1, 0),
  ),
  'conv_head': Layout(  # [C, K] and [K, C, 1, 1]
    2, 4, lambda a: a.T[..., None, None], lambda a, _: a.reshape(len(a), -1).T
  ),
  'heads': Layout(  # [D, A, d] and [D, D]
    3,
    2,
    lambda a: a.reshape(len(a), -1).T,
    lambda a, heads: a.T.reshape(a.shape[1], heads, -1),
    headed_axis=0,
  ),
  'heads_bias': Layout(  # [A, d] and [D]
    2,
    1,
    lambda a: a.reshape(-1),
    lambda a, heads: a.reshape(heads, -1),
    headed_axis=0,
  ),
  'out': Layout(  # [A, d, D] and [D, D]
    3,
    2,
    lambda a: a.reshape(-1, a.shape[-1]).T,
    lambda a, heads: a.T.reshape(heads, -1, len(a)),
    headed_axis=1,
  ),
}


def leaves(
  table: tuple[Group, ...], given: Collection[str], side: str
) -> list[Leaf]:
  """The arrays that a model of these names has, by a table.

  Blocks, stages and units are counted in `given`, and what a model may lack
  is left out if nothing of it is there; so names that should be there and are
  not are among the result, as are no others.

  Args:
    given: names of arrays of one side.
    side: 'canonical' or 'port': which one they are of.

  Raises:
    InputError: a number is too high for a model.
  """
  found = []
  for group in table:
    for numbers in _numbers(getattr(group, side), given):
      for row in group.rows:
        new = _leaves_of(group, row, numbers)
        if not row[2].endswith('?') or _any_there(new, given, side):
          found += new
  return found


def _leaves_of(group, row, numbers):
  modules, port_module, kind, *first = row
  if first and numbers['u']:
    return []
  modules = (modules,) if isinstance(modules, str) else modules
  ours, port = (
    prefix.format(**numbers) for prefix in (group.canonical, group.port)
  )
  return [
    Leaf(
      tuple(f'{ours}{module}{suffix}' for module in modules),
      f'{port}{port_module}{port_suffix}',
      layout,
    )
    for suffix, port_suffix, layout in LEAVES[kind.rstrip('?')]
  ]


def _any_there(found, given, side):
  if side == 'port':
    return any(leaf.port in given for leaf in found)
  return any(name in given for leaf in found for name in leaf.canonical)


def _numbers(prefix, given) -> Iterator[dict[str, int]]:
  """What to put into a prefix: all numbers up to the highest ones in names."""
  fields = re.findall(r'\{(\w+)', prefix)
  if not fields:
    yield {}
    return
  pattern = re.sub(r'\\\{.*?\\\}', '([0-9]+)', re.escape(prefix))
  matches = filter(None, (re.match(pattern, name) for name in given))
  first = int(fields[-1].endswith('1'))  # what is counted from
  counts = {}  # {stage: units}, or {(): blocks}
  for match in matches:
    *stage, last = (_small(digits) - first for digits in match.groups())
    counts[*stage,] = max(counts.get((*stage,), 0), last + 1)
  if fields == ['i']:
    yield from ({'i': i} for i in range(counts.get((), 0)))
    return
  for s in range(1 + max((stage for (stage,) in counts), default=-1)):
    for u in range(counts.get((s,), 0)):
      yield {'s': s, 'u': u, 's1': s + 1, 'u1': u + 1}


def _small(digits):
  if len(digits) > 4 or int(digits) > trees.MAX_LAYERS:
    raise InputError(
      f'layer number {messages.short(digits)} is too high: models of at most '
      f'{trees.MAX_LAYERS} layers are read'
    )
  return int(digits)


def number_of_heads(hidden_size: int, num_heads: int | None) -> int:
  """A of attention, which no array of a port tells.

  Raises:
    InputError: it is not given and not known, or does not divide D.
  """
  if num_heads is None:
    num_heads = NUM_HEADS.get(hidden_size)
  if num_heads is None:
    raise InputError(
      f'hidden size {hidden_size} is none of the published ViTs '
      f'({", ".join(map(str, NUM_HEADS))}), and no array tells the number of '
      'attention heads; give it with --num_heads'
    )
  if num_heads < 1 or hidden_size % num_heads:
    raise InputError(
      f'{num_heads=} must divide the hidden size {hidden_size}; give another '
      '--num_heads'
    )
  return num_heads


def split(
  leaf: Leaf, array: np.ndarray, num_heads: int | None
) -> list[np.ndarray]:
  """The canonical arrays that a port's array holds; they may be views.

  Raises:
    InputError: its shape makes no sense, or A is unknown.
  """
  layout = LAYOUTS[leaf.layout]
  _check_rank(leaf.port, array, layout.port_rank)
  parts = len(leaf.canonical)
  if array.shape[0] % parts:
    raise InputError(
      f'{messages.quoted(leaf.port)} has shape {array.shape}, whose first side '
      f'must be a multiple of {parts}'
    )
  heads = None
  if layout.headed_axis is not None:
    side = array.shape[layout.headed_axis] // parts
    heads = number_of_heads(side, num_heads)
  return [layout.from_port(part, heads) for part in np.split(array, parts)]


def join(leaf: Leaf, arrays: list[np.ndarray]) -> np.ndarray:
  """A port's array of the canonical ones that it holds, contiguous.

  Raises:
    InputError: a shape or dtype makes no sense.
  """
  layout = LAYOUTS[leaf.layout]
  for name, array in zip(leaf.canonical, arrays, strict=True):
    _check_rank(name, array, layout.rank)
  if len({array.dtype for array in arrays}) > 1:
    raise InputError(
      f'{", ".join(leaf.canonical)} have different dtypes, but are one array '
      'in the port; give them one dtype'
    )
  ported = [layout.to_port(array) for array in arrays]
  joined = ported[0] if len(ported) == 1 else np.concatenate(ported)
  return np.ascontiguousarray(joined)


def _check_rank(name, array, rank):
  if array.ndim != rank or not array.size:
    raise InputError(
      f'{messages.quoted(name)} has shape {array.shape} instead of {rank} '
      'positive sides'
    )
