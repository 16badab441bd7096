"""Parser for XLA's text of a compiled program, with counts of executions.

XLA's own cost analysis counts the body of a loop once. This parser counts the
executions of each instruction in one call of the program, so that the body of a
scanned encoder counts once for each block.

All figures are for one device. The text is the result of `compiled.as_text()`;
its grammar is defined by openxla/xla, `hlo_parser.cc`.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

from vit_jax_repro.errors import InputError

_ARRAY = re.compile(r'([a-z]+\d*\w*)\[([\d,]*)\](\{[^{}]*\})?')
_CALLED = re.compile(
  r'(?:calls|body|condition|to_apply|called_computations|branch_computations'
  r'|true_computation|false_computation)=(?:\{([^}]*)\}|%?([\w.\-]+))'
)
# Instructions that run the computations they call; all others fuse them.
_CALLS = ('while', 'call', 'conditional', 'async-start')
# Instructions that call a function of scalars, which is ignored here.
_SCALAR_CALLS = ('reduce', 'sort', 'scatter', 'map', 'select-and-scatter')


@dataclasses.dataclass(frozen=True)
class Array:
  """The type of one array of a program.

  Attributes:
    dtype: XLA's name, such as 'bf16'.
    shape: shape on one device.
    in_memory: False for an array that XLA keeps on the chip, outside the
      memory that limits programs (a TPU's VMEM, `S(1)`).
  """

  dtype: str
  shape: tuple[int, ...]
  in_memory: bool = True

  @property
  def size(self) -> int:
    """Returns the number of elements."""
    return math.prod(self.shape)

  @property
  def bytes(self) -> int:
    """Returns the number of bytes, without the padding of a layout."""
    digits = re.search(r'\d+', self.dtype)
    bits = int(digits[0]) if digits else 8 * (self.dtype == 'pred')
    return -(-self.size * bits // 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  Attributes:
    name: its name, without the '%'.
    opcode: its operation, such as 'fusion'.
    arrays: types of its results.
    operands: names of its operands; for a constant its value, for a parameter
      its number.
    inputs: types of the arrays of each operand; () if no line above defines
      the operand.
    attributes: the text after the operands.
    is_root: whether it is the result of its computation.
  """

  name: str
  opcode: str
  arrays: tuple[Array, ...]
  operands: tuple[str, ...]
  inputs: tuple[tuple[Array, ...], ...]
  attributes: str
  is_root: bool

  def called(self) -> list[str]:
    """Returns the names of the computations that the instruction calls."""
    if self.opcode in _SCALAR_CALLS:
      return []
    names = []
    for several, one in _CALLED.findall(self.attributes):
      names += re.findall(r'[\w.\-]+', several) if several else [one]
    return names


class HloModule:
  """The computations of a program, and the number of executions of each.

  Args:
    text: the text of a compiled program.
  """

  def __init__(self, text: str):
    self._computations, entry = _computations(text)
    self._times = collections.Counter()  # {computation: executions}
    self._fused = set()  # names of computations within a fusion
    self._visit(entry, 1, fused=False)

  def instructions(self) -> Iterator[tuple[Instruction, int, str]]:
    """Yields the instructions that run.

    Yields:
      An instruction, its number of executions, and the name of its computation.
    """
    for name, instructions in self._computations.items():
      if self._times[name]:
        for instruction in instructions:
          yield instruction, self._times[name], name

  def computation(self, name: str) -> list[Instruction]:
    """Returns the instructions of a computation; [] if there is none."""
    return self._computations.get(name, [])

  def is_fused(self, computation: str) -> bool:
    """Returns whether a computation is part of a fusion."""
    return computation in self._fused

  def custom_calls(self) -> collections.Counter[str]:
    """Counts calls of library kernels, by target, in one call."""
    calls = collections.Counter()
    for instruction, times, _ in self.instructions():
      target = re.search(
        r'custom_call_target="([^"]*)"', instruction.attributes
      )
      if target:
        calls[target[1]] += times
    return calls

  def arrays(self) -> Iterator[Array]:
    """Yields the results of all instructions that run."""
    for instruction, _, _ in self.instructions():
      yield from instruction.arrays

  def _visit(self, name, times, *, fused):
    if name not in self._computations:
      return
    self._times[name] += times
    if fused:
      self._fused.add(name)
    for instruction in self._computations[name]:
      inner = times
      if instruction.opcode == 'while':
        inner *= self._trips(instruction)
      for called in instruction.called():
        within = fused or instruction.opcode not in _CALLS
        self._visit(called, inner, fused=within)

  def _trips(self, loop):
    """Returns the trip count of a loop, from XLA or from its condition."""
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
      return int(known[1])
    condition = _called_as('condition', loop)
    tests = {each.name: each for each in self._computations[condition]}
    root = next(each for each in tests.values() if each.is_root)
    if root.opcode != 'compare' or 'direction=LT' not in root.attributes:
      return 1
    counter, limit = (tests.get(operand) for operand in root.operands)
    if limit is None or limit.opcode != 'constant':
      return 1
    index = re.search(r'index=(\d+)', counter.attributes if counter else '')
    body = _called_as('body', loop)
    step = self._step(body, int(index[1])) if index else 1
    return max(1, math.ceil(int(limit.operands[0]) / step))

  def _step(self, body, index):
    """Returns the number that the body of a loop adds to its counter."""
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


def instructions_of(text: str, opcode: str) -> list[Instruction]:
  """Returns the instructions with an opcode, wherever they are.

  This takes a tenth of the time of `HloModule`, which parses all instructions.

  Args:
    text: the text of a compiled program.
    opcode: XLA's name of an operation, such as 'convolution'.
  """
  lines = _lines(text)
  wanted = [line for line in lines if f' {opcode}(' in line]
  operands = set(re.findall(r'%([\w.\-]+)', ' '.join(wanted)))
  known = {}  # names are unique in a program
  for line in lines:
    name = line.partition(' = ')[0].strip().removeprefix('ROOT ').lstrip('%')
    if name in operands:
      known[name] = _instruction(line, {}).arrays
  found = [_instruction(line, known) for line in wanted]
  return [each for each in found if each.opcode == opcode]


def _called_as(role, loop):
  """Returns the name of the 'condition' or the 'body' of a loop."""
  found = re.search(rf'{role}=%?([\w.\-]+)', loop.attributes)
  assert found is not None
  return found[1]


def _computations(text):
  """Returns {name: instructions} of a program, and the name of its entry."""
  found, entry, current = {}, None, None
  for line in _lines(text):
    if current is None:
      start = re.match(r'(ENTRY )?%?([\w.\-]+) \(.*\{$', line)
      if start:
        current, arrays = [], {}
        found[start[2]] = current
        entry = start[2] if start[1] else entry
    elif line.startswith('}'):
      current = None
    else:
      instruction = _instruction(line, arrays)
      arrays[instruction.name] = instruction.arrays
      current.append(instruction)
  return found, entry


def _lines(text):
  """Returns the lines of a program without XLA's comments."""
  return re.sub(r'/\*.*?\*/', '', text).splitlines()


def _instruction(line: str, known: Mapping[str, tuple[Array, ...]]):
  """Parses a line; `known` has the results of the lines above it."""
  head, _, rest = line.strip().partition(' = ')
  end = _closing(rest, 0) + 1 if rest.startswith('(') else rest.index(' ')
  kind, rest = rest[:end], rest[end:].lstrip()
  start = rest.index('(')
  close = _closing(rest, start)
  inside = rest[start + 1 : close]
  operands = re.findall(r'%([\w.\-]+)', inside)
  if not operands and inside:  # the value of a constant, a parameter's number
    operands = [inside]
  return Instruction(
    name=head.removeprefix('ROOT ').lstrip('%'),
    opcode=rest[:start],
    arrays=_arrays(kind),
    operands=tuple(operands),
    inputs=tuple(known.get(name, ()) for name in operands),
    attributes=rest[close + 1 :],
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
