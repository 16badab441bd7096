"""Reads XLA's text of a compiled program: collectives, kernels, memory traffic.

XLA's own cost analysis counts the body of a loop once. Here each instruction
has the number of times that it runs in one call of the program: the body of a
scanned encoder counts once for each block.

All figures are those of one device. A text comes from
`compiled.as_text()`; the grammar is that of openxla/xla, `hlo_parser.cc`.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from vit_jax_repro.errors import InputError

COLLECTIVES = (
  'all-gather',
  'all-reduce',
  'all-to-all',
  'collective-permute',
  'ragged-all-to-all',
  'reduce-scatter',
)
# Instructions that move nothing: names for parts of other buffers, or their
# work is counted in the computation that they call.
_NO_TRAFFIC = frozenset(
  (
    'add-dependency',
    'after-all',
    'async-done',
    'async-update',
    'bitcast',
    'call',
    'conditional',
    'constant',
    'domain',
    'get-tuple-element',
    'iota',
    'opt-barrier',
    'parameter',
    'partition-id',
    'tuple',
    'while',
  )
)
_SLICES = (
  'dynamic-slice',
  'dynamic-slice-start',
  'gather',
  'slice',
  'slice-start',
)
_ARRAY = re.compile(r'([a-z]+\d*\w*)\[([\d,]*)\](\{[^{}]*\})?')
_CALLED = re.compile(
  r'(?:calls|body|condition|to_apply|called_computations|branch_computations'
  r'|true_computation|false_computation)=(?:\{([^}]*)\}|%?([\w.\-]+))'
)


@dataclasses.dataclass(frozen=True)
class Array:
  """The type of one array of a program.

  Attributes:
    dtype: XLA's name, such as 'bf16'.
    shape: on one device.
    in_memory: False for an array that XLA keeps on the chip, beside the
      memory that programs are limited by (a TPU's VMEM, `S(1)`).
  """

  dtype: str
  shape: tuple[int, ...]
  in_memory: bool = True

  @property
  def size(self) -> int:
    """Number of elements."""
    return math.prod(self.shape)

  @property
  def bytes(self) -> int:
    """Bytes, without what a layout pads."""
    digits = re.search(r'\d+', self.dtype)
    bits = int(digits[0]) if digits else 8 * (self.dtype == 'pred')
    return -(-self.size * bits // 8)


@dataclasses.dataclass(frozen=True)
class Collective:
  """One exchange between devices.

  Attributes:
    kind: a member of `COLLECTIVES`.
    axes: the axes of the mesh whose devices take part; () if all devices of
      the mesh do and it has no axis of more than one.
    group: numbers, in the mesh's order, of the devices of one group; of a
      permutation a source and its target.
    arrays: the whole arrays: what a gather gives, what a sum takes; for a
      `collective-permute` what one device receives.
    times: how often it runs in one call of the program.
    origin: the operation of the traced program that it comes from.
  """

  kind: str
  axes: tuple[str, ...]
  group: tuple[int, ...]
  arrays: tuple[Array, ...]
  times: int
  origin: str

  @property
  def payload(self) -> int:
    """Bytes of the whole arrays, in one call of the program."""
    return self.times * sum(array.bytes for array in self.arrays)


@dataclasses.dataclass(frozen=True)
class _Instruction:
  name: str
  opcode: str
  arrays: tuple[Array, ...]
  operands: tuple[str, ...]
  rest: str  # attributes
  is_root: bool


class Program:
  """The computations of a program, and how often each runs.

  Args:
    text: of a compiled program.
  """

  def __init__(self, text: str):
    self._computations, entry = _computations(text)
    self._times = collections.Counter()  # by computation
    self._fused = set()  # names of computations within a fusion
    self._users = {}  # by computation, when they are asked for first
    self._visit(entry, 1, fused=False)

  def collectives(self, mesh_shape: Mapping[str, int]) -> list[Collective]:
    """Lists the collectives, those that run in pieces once.

    Args:
      mesh_shape: sizes of the axes of the mesh, in its order.
    """
    found = {}
    for instruction, times, types, computation in self._instructions():
      kind = _kind(instruction, computation)
      if kind is None:
        continue
      arrays = _whole(kind, instruction, types)
      axes, group = _group(instruction, mesh_shape)
      if len(group) == 1:
        continue
      # A TPU runs one gather beside several fusions, with a copy in each.
      channel = re.search(r'channel_id=(\d+)', instruction.rest)
      in_fusion = channel and computation in self._fused
      key = channel[1] if in_fusion else instruction.name
      origin = re.search(r'op_name="([^"]*)"', instruction.rest)
      one = Collective(
        kind, axes, group, arrays, times, origin[1] if origin else ''
      )
      if key not in found or found[key].payload < one.payload:
        found[key] = one
    return list(found.values())

  def custom_calls(self) -> collections.Counter:
    """Counts calls of library kernels by their target, in one call."""
    calls = collections.Counter()
    for instruction, times, _, _ in self._instructions():
      target = re.search(r'custom_call_target="([^"]*)"', instruction.rest)
      if target:
        calls[target[1]] += times
    return calls

  def arrays(self) -> Iterator[Array]:
    """Yields the results of all instructions that run."""
    for instruction, _, _, _ in self._instructions():
      yield from instruction.arrays

  def traffic(self) -> int:
    """Estimates the bytes that one call reads from and writes to memory.

    Each kernel reads its inputs and writes its outputs once; a kernel that
    takes or replaces a part of an array moves that part.
    """
    total = 0
    for instruction, times, types, computation in self._instructions():
      if computation not in self._fused:
        total += times * self._moved(instruction, types)
    return total

  def _visit(self, name, times, *, fused):
    if name not in self._computations:
      return
    self._times[name] += times
    if fused:
      self._fused.add(name)
    for instruction in self._computations[name]:
      inner = times
      if instruction.opcode == 'while':
        inner *= self._trips(name, instruction)
      for called in _called(instruction):
        within = fused or instruction.opcode not in _CALLS
        self._visit(called, inner, fused=within)

  def _instructions(self) -> Iterator[tuple]:
    for name, instructions in self._computations.items():
      if self._times[name]:
        types = {each.name: each.arrays for each in instructions}
        for instruction in instructions:
          yield instruction, self._times[name], types, name

  def _trips(self, name, loop):
    """How often a loop runs: as XLA says, or read off its condition."""
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.rest)
    if known:
      return int(known[1])
    condition, body = (
      re.search(rf'{part}=%?([\w.\-]+)', loop.rest)[1]
      for part in ('condition', 'body')
    )
    tests = {each.name: each for each in self._computations[condition]}
    root = next(each for each in tests.values() if each.is_root)
    if root.opcode != 'compare' or 'direction=LT' not in root.rest:
      return 1
    counter, limit = (tests.get(operand) for operand in root.operands)
    if limit is None or limit.opcode != 'constant':
      return 1
    index = re.search(r'index=(\d+)', counter.rest if counter else '')
    step = self._step(body, int(index[1])) if index else 1
    return max(1, math.ceil(int(limit.operands[0]) / step))

  def _step(self, body, index):
    """What the body of a loop adds to its counter."""
    inside = {each.name: each for each in self._computations[body]}
    root = next(each for each in inside.values() if each.is_root)
    if index >= len(root.operands):
      return 1
    added = inside.get(root.operands[index])
    for operand in added.operands if added and added.opcode == 'add' else ():
      constant = inside.get(operand)
      if constant and constant.opcode == 'constant':
        return max(1, int(constant.operands[0]))
    return 1

  def _moved(self, instruction, types):
    opcode = instruction.opcode
    if opcode in _NO_TRAFFIC or opcode.endswith('-done'):
      return 0
    read = [_bytes(types.get(name, ())) for name in instruction.operands]
    written = _bytes(instruction.arrays)
    if opcode in _SLICES:
      part = instruction.arrays[1 if opcode.endswith('-start') else 0]
      return (part.bytes if read[0] else 0) + _bytes([part])
    if opcode.endswith('-start'):  # its result repeats its operands
      written = max(0, written - sum(read))
    if opcode == 'dynamic-update-slice':
      return 2 * read[1]
    if opcode == 'fusion':
      (called,) = _called(instruction)[:1] or (None,)
      read, written = self._of_fusion(called, read, written)
    return sum(read) + written

  def _of_fusion(self, name, read, written):
    """Bytes read and written where a fusion takes or replaces parts."""
    for place, parameter in self._parameters(name).items():
      part = self._taken(name, parameter)
      if place < len(read) and part is not None:
        read[place] = min(read[place], part)
    for whole, part in self._replaced(name):
      if whole <= written:
        written += part - whole
    return read, max(0, written)

  def _parameters(self, name):
    return {
      int(each.operands[0]): each.name
      for each in self._computations.get(name, ())
      if each.opcode == 'parameter'
    }

  def _taken(self, name, value):
    """Bytes that a fused computation takes of a value; None: all of it."""
    total = 0
    for user in self._users_of(name).get(value, ()):
      part = None
      if user.opcode == 'bitcast':
        part = self._taken(name, user.name)
      elif user.opcode in _SLICES:
        part = sum(array.bytes for array in user.arrays)
      elif user.opcode == 'dynamic-update-slice' and user.operands[0] == value:
        part = 0
      elif user.opcode == 'fusion':
        part = self._taken_by_fusion(user, value)
      if part is None:
        return None
      total += part
    return total

  def _taken_by_fusion(self, fusion, value):
    """As `_taken`, by a fusion within a fusion."""
    (called,) = _called(fusion)[:1] or ('',)
    names = self._parameters(called)
    parts = [
      self._taken(called, names[place])
      for place, operand in enumerate(fusion.operands)
      if operand == value
    ]
    return None if None in parts else sum(parts)

  def _replaced(self, name):
    """Yields the bytes of arrays that are replaced in part, and of the part."""
    by_name = {each.name: each for each in self._computations.get(name, ())}
    for each in by_name.values():
      if each.opcode == 'fusion':
        for called in _called(each):
          yield from self._replaced(called)
      elif each.opcode == 'dynamic-update-slice':
        part = by_name.get(each.operands[1])
        if part is not None:
          yield (
            sum(array.bytes for array in each.arrays),
            sum(array.bytes for array in part.arrays),
          )

  def _users_of(self, name):
    """{value: the instructions of a computation that take it}."""
    if name not in self._users:
      users = self._users[name] = collections.defaultdict(list)
      for each in self._computations.get(name, ()):
        for operand in dict.fromkeys(each.operands):
          users[operand].append(each)
    return self._users[name]


_CALLS = ('while', 'call', 'conditional', 'async-start')


def _bytes(arrays):
  return sum(array.bytes for array in arrays if array.in_memory)


def _computations(text):
  """{name: instructions} of a program, and the name of its entry."""
  found, entry, current = {}, None, None
  for line in re.sub(r'/\*.*?\*/', '', text).splitlines():
    if current is None:
      start = re.match(r'(ENTRY )?%?([\w.\-]+) \(.*\{$', line)
      if start:
        current = found[start[2]] = []
        entry = start[2] if start[1] else entry
    elif line.startswith('}'):
      current = None
    else:
      current.append(_instruction(line))
  return found, entry


def _instruction(line):
  head, _, rest = line.strip().partition(' = ')
  end = _closing(rest, 0) + 1 if rest.startswith('(') else rest.index(' ')
  kind, rest = rest[:end], rest[end:].lstrip()
  start = rest.index('(')
  close = _closing(rest, start)
  inside = rest[start + 1 : close]
  operands = re.findall(r'%([\w.\-]+)', inside)
  if not operands and inside:  # the value of a constant, a parameter's number
    operands = [inside]
  return _Instruction(
    name=head.removeprefix('ROOT ').lstrip('%'),
    opcode=rest[:start],
    arrays=_arrays(kind),
    operands=tuple(operands),
    rest=rest[close + 1 :],
    is_root=head.startswith('ROOT '),
  )


def _closing(text, start):
  depth = 0
  for place in range(start, len(text)):
    depth += (text[place] == '(') - (text[place] == ')')
    if not depth:
      return place
  raise InputError(f'unbalanced parentheses in an instruction: {text[:80]!r}')


def _arrays(kind):
  return tuple(
    Array(
      dtype,
      tuple(int(size) for size in sizes.split(',') if size),
      in_memory=not re.search(r'S\([1-9]', layout or ''),
    )
    for dtype, sizes, layout in _ARRAY.findall(kind)
  )


def _called(instruction):
  names = []
  if instruction.opcode in (
    'reduce',
    'sort',
    'scatter',
    'map',
    'select-and-scatter',
  ):
    return names  # a scalar function
  for several, one in _CALLED.findall(instruction.rest):
    names += re.findall(r'[\w.\-]+', several) if several else [one]
  return names


def _kind(instruction, computation):
  name = instruction.opcode.removesuffix('-start')
  if name == 'all-reduce' and computation.startswith('all-reduce-scatter'):
    return 'reduce-scatter'  # a TPU's kernel that keeps its part of the sum
  return name if name in COLLECTIVES else None


def _whole(kind, instruction, types):
  """The whole arrays of a collective, see `Collective.arrays`."""
  operands = [
    array for name in instruction.operands for array in types.get(name, ())
  ]
  results = list(instruction.arrays)
  if instruction.opcode.endswith('-start'):  # (operands, results, contexts)
    results = results[len(operands) : 2 * len(operands)]
  if kind not in ('all-reduce', 'reduce-scatter', 'all-to-all'):
    return tuple(results)
  if len(results) != len(operands):
    return tuple(operands)
  # A sum is computed in the dtype of its result, to which it may cast.
  return tuple(
    dataclasses.replace(operand, dtype=result.dtype)
    for operand, result in zip(operands, results, strict=True)
  )


def _group(instruction, mesh_shape):
  """The axes of the mesh along which a group lies, and the group."""
  ids = np.arange(math.prod(mesh_shape.values())).reshape(
    tuple(mesh_shape.values())
  )
  group = _first_group(instruction.rest, ids.size)
  places = np.stack(np.unravel_index(group, ids.shape))  # [axes, devices]
  axes = tuple(
    axis
    for axis, row in zip(mesh_shape, places, strict=True)
    if len(set(row.tolist())) > 1
  )
  return axes, tuple(group)


def _first_group(attributes, num_devices) -> Sequence[int]:
  """Numbers of devices that exchange; of a permutation one source and target.

  Groups are written as axes of a mesh, as a reshaped and transposed range, or
  as lists.
  """
  pairs = re.search(r'source_target_pairs=\{(.*?)\}\}', attributes)
  if pairs:
    for source, target in re.findall(r'(\d+),(\d+)', pairs[1]):
      if source != target:
        return [int(source), int(target)]
    return [0]
  mesh = re.search(
    r'replica_groups=mesh\[([^\]]*)\](?:[^{,]*)? ?\{([^}]*)\}', attributes
  )
  if mesh:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
    taken = re.findall(r"'(\w+)'", mesh[2])
    ids = np.arange(num_devices).reshape([int(size) for size in sizes.values()])
    kept = tuple(slice(None) if axis in taken else 0 for axis in sizes)
    return ids[kept].ravel().tolist()
  reshaped = re.search(
    r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', attributes
  )
  if reshaped:
    groups, dims, order = (
      [int(n) for n in text.split(',')] if text else None
      for text in reshaped.groups()
    )
    ids = np.arange(math.prod(dims)).reshape(dims)
    ids = ids.transpose(order) if order else ids
    return ids.reshape(groups)[0].tolist()
  listed = re.search(r'replica_groups=\{\{([\d,]+)\}', attributes)
  if listed:
    return [int(n) for n in listed[1].split(',')]
  return list(range(num_devices))
