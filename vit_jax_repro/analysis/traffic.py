"""Memory traffic of a compiled program: the bytes that it reads and writes."""

import collections

from vit_jax_repro.analysis import hlo

# Instructions without traffic of their own. They name parts of other buffers,
# or their traffic is counted in the computation that they call.
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


def total(module: hlo.HloModule) -> int:
  """Estimates the bytes that one call reads from and writes to memory.

  Each kernel reads its inputs and writes its outputs once. A kernel that reads
  or replaces a part of an array moves only that part.
  """
  fusions = _Fusions(module)
  return sum(
    times * _moved(instruction, fusions)
    for instruction, times, computation in module.instructions()
    if not module.is_fused(computation)
  )


def _moved(instruction, fusions):
  """Returns the bytes that one run of an instruction reads and writes."""
  opcode = instruction.opcode
  if opcode in _NO_TRAFFIC or opcode.endswith('-done'):
    return 0
  read = [_bytes(arrays) for arrays in instruction.inputs]
  written = _bytes(instruction.arrays)
  if opcode in _SLICES:
    part = instruction.arrays[1 if opcode.endswith('-start') else 0]
    return (part.bytes if read[0] else 0) + _bytes([part])
  if opcode.endswith('-start'):  # the results repeat the operands
    written = max(0, written - sum(read))
  if opcode == 'dynamic-update-slice':
    return 2 * read[1]
  if opcode == 'fusion':
    read, written = fusions.limited(instruction, read, written)
  return sum(read) + written


def _bytes(arrays):
  return sum(array.bytes for array in arrays if array.in_memory)


class _Fusions:
  """The parts of arrays that fusions read and write."""

  def __init__(self, module):
    self._module = module
    self._users = {}  # {computation: its users by value}, a cache

  def limited(self, fusion, read, written):
    """Limits the bytes of arrays of which a fusion uses or replaces a part."""
    name = _fused(fusion)
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
      for each in self._module.computation(name)
      if each.opcode == 'parameter'
    }

  def _taken(self, name, value):
    """Returns how many bytes of a value a computation reads.

    None means that it may read the whole value.
    """
    taken = 0
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
      taken += part
    return taken

  def _taken_by_fusion(self, fusion, value):
    """Returns the result of `_taken` for a fusion inside a computation."""
    name = _fused(fusion)
    parameters = self._parameters(name)
    parts = [
      self._taken(name, parameters[place])
      for place, operand in enumerate(fusion.operands)
      if operand == value
    ]
    return None if None in parts else sum(parts)

  def _replaced(self, name):
    """Yields the bytes of each partly replaced array, and of the part."""
    for each in self._module.computation(name):
      if each.opcode == 'fusion':
        yield from self._replaced(_fused(each))
      elif each.opcode == 'dynamic-update-slice' and each.inputs[1]:
        yield tuple(
          sum(array.bytes for array in arrays)
          for arrays in (each.arrays, each.inputs[1])
        )

  def _users_of(self, name):
    """Returns {value: instructions of a computation that use it}."""
    if name not in self._users:
      users = self._users[name] = collections.defaultdict(list)
      for each in self._module.computation(name):
        for operand in dict.fromkeys(each.operands):
          users[operand].append(each)
    return self._users[name]


def _fused(fusion):
  """Returns the name of the computation of a fusion."""
  return next(iter(fusion.called()), '')
