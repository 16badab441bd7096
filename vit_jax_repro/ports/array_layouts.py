"""Arrays of the modules in `tables`, and their layouts in JAX and PyTorch.

Kernels are [in, out] or [kh, kw, in, out] in JAX, and [out, in] or [out, in,
kh, kw] in PyTorch. In JAX, attention has an axis of heads ([D, A, d], and
[A, d, D] for the output); in PyTorch it has none. timm has query, key and value
in one array.

Shapes: D hidden, A heads, d head dim.
"""

import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.models.variants import VIT_SIZES
from vit_jax_repro.output import messages
from vit_jax_repro.weights import trees

# {hidden size: number of heads} of every published ViT. Heads are 64 wide, in
# H/14 80 (ViT paper, Table 1; AugReg paper, Table 1).
NUM_HEADS = {width: heads for width, _, heads, _ in VIT_SIZES.values()}


class Leaf(NamedTuple):
  """One array of a port, and the canonical arrays that it contains."""

  canonical: tuple[str, ...]  # several if the port fuses them
  port: str
  layout: str  # a key of LAYOUTS


class Group(NamedTuple):
  """Modules below a prefix on either side, with rows as in `tables`."""

  canonical: str
  port: str
  rows: tuple[tuple, ...]


# kind: (canonical suffix, suffix of the port, layout) of each array.
_BIAS = ('/bias', '.bias', 'vector')
LEAVES = {
  'tokens': (('', '', 'tokens'),),
  'vector': (('', '', 'vector'),),
  'mask': (('', '', 'mask'),),
  'norm': (('/scale', '.weight', 'vector'), _BIAS),
  'dense': (('/kernel', '.weight', 'dense'), _BIAS),
  'conv': (('/kernel', '.weight', 'conv'), _BIAS),
  'std_conv': (('/kernel', '.weight', 'conv'),),
  'batch_norm': (
    ('/scale', '.weight', 'vector'),
    _BIAS,
    ('/mean', '.running_mean', 'vector'),
    ('/var', '.running_var', 'vector'),
  ),
  'conv_head': (('/kernel', '.weight', 'conv_head'), _BIAS),
  'heads': (
    ('/kernel', '.weight', 'heads'),
    ('/bias', '.bias', 'heads_bias'),
  ),
  'in_proj': (  # of torch.nn.MultiheadAttention
    ('/kernel', '_weight', 'heads'),
    ('/bias', '_bias', 'heads_bias'),
  ),
  'out': (('/kernel', '.weight', 'out'), _BIAS),
}


class Layout(NamedTuple):
  """The ranks of an array on either side, and the conversions between them."""

  rank: int
  port_rank: int
  to_port: Callable[[np.ndarray], np.ndarray]
  from_port: Callable[[np.ndarray, Any], np.ndarray]  # array, A or None
  headed_axis: int | None = None  # axis of the port's array that A divides


def _same(array, _=None):
  return array


def _transposed(array, _=None):
  return array.T


LAYOUTS = {
  'vector': Layout(1, 1, _same, _same),
  'tokens': Layout(3, 3, _same, _same),
  'mask': Layout(  # [1, 1, D] and [1, D]
    3, 2, lambda a: a.reshape(1, -1), lambda a, _: a.reshape(1, 1, -1)
  ),
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


# Units that have a module, by the fourth entry of a row.
_PLACES = {
  'first': lambda n: n['u'] == 0,
  'first stage': lambda n: n['s'] == 0,
  'later stages': lambda n: n['s'] > 0,
}


def leaves(
  table: tuple[Group, ...], given: Collection[str], side: str
) -> list[Leaf]:
  """Returns the arrays that a model with these names must have, by a table.

  The numbers of blocks, stages and units are those found in `given`. A module
  that is optional is left out if no block of `given` has it. The result thus
  includes arrays that are missing in `given`, and excludes unknown ones.

  Args:
    table: groups of modules, see `tables`.
    given: names of the arrays on one side.
    side: the side of these names, 'canonical' or 'port'.

  Raises:
    InputError: a number is too high for a model.
  """
  found = []
  for group in table:
    numbers = list(_numbers(getattr(group, side), given))
    for row in group.rows:
      new = [leaf for n in numbers for leaf in _leaves_of(group, row, n)]
      if not row[2].endswith('?') or _any_given(new, given, side):
        found += new
  return found


def _leaves_of(group, row, numbers):
  modules, port_module, kind, *where = row
  if where and not _PLACES[where[0]](numbers):
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


def _any_given(found, given, side):
  if side == 'port':
    return any(leaf.port in given for leaf in found)
  return any(name in given for leaf in found for name in leaf.canonical)


def _numbers(prefix, given) -> Iterator[dict[str, int]]:
  """Yields the fields of a prefix, up to the highest numbers in the names."""
  fields = re.findall(r'\{(\w+)', prefix)
  if not fields:
    yield {}
    return
  pattern = re.sub(r'\\\{.*?\\\}', '([0-9]+)', re.escape(prefix))
  matches = filter(None, (re.match(pattern, name) for name in given))
  first = int(fields[-1].endswith('1'))  # the first number
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
      f'layer number {messages.short(digits)} is too high: models may have at '
      f'most {trees.MAX_LAYERS} layers'
    )
  return int(digits)


def number_of_heads(hidden_size: int, num_heads: int | None) -> int:
  """Returns the number of attention heads; a state dict does not store it.

  Args:
    hidden_size: D.
    num_heads: A; None for that of the published ViT of this width.

  Raises:
    InputError: the number is neither given nor known, or does not divide D.
  """
  if num_heads is None:
    num_heads = NUM_HEADS.get(hidden_size)
  if num_heads is None:
    raise InputError(
      f'hidden size {hidden_size} is none of the published ViTs '
      f'({", ".join(map(str, NUM_HEADS))}), and the number of attention heads '
      'cannot be read off the arrays; give it with --num_heads'
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
  """Returns the canonical arrays that a port's array contains.

  They may be views of it.

  Raises:
    InputError: the shape is impossible, or the number of heads is unknown.
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
  """Returns a port's array, contiguous, made from its canonical arrays.

  Raises:
    InputError: a shape is impossible, or the dtypes differ.
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
