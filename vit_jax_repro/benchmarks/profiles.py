"""What a step spends its time on, by parts of the model."""

import collections
import dataclasses
import glob
import os
import re
import tempfile

import jax

from vit_jax_repro.benchmarks import programs

# Blocks, units and layers of one kind are one part.
_NUMBER = re.compile(r'(?<=[a-z])_?\d+(?=/|$)')
_INSTRUCTION = re.compile(
  r'^\s*(?:ROOT )?%?([\w.\-]+) = .*metadata=\{[^}]*op_name="([^"]*)"', re.M
)
_OTHER = 'other'


@dataclasses.dataclass(frozen=True)
class Part:
  """One row, the largest first.

  Attributes:
    name: modules as flax has them and the operation, such as
      'backward Transformer/encoderblock/MlpBlock/Dense: dot_general'.
    seconds: of a step, summed over threads or streams of a device.
    share: of all parts.
  """

  case: programs.Case
  variant: str
  name: str
  seconds: float
  share: float


def profile(
  case: programs.Case, variant: str, *, number: int, trace: str | None
) -> list[Part]:
  """Times the operations of some steps.

  Args:
    variant: a key of `programs.VARIANTS`.
    number: of steps.
    trace: folder for JAX's trace, which TensorBoard and XProf show; None: a
      temporary one.
  """
  program = programs.create(programs.variant(case, variant))
  compiled = programs.compile(program)
  make_steps = programs.run(program, compiled)
  with tempfile.TemporaryDirectory() as temporary:
    folder = temporary if trace is None else trace
    with jax.profiler.trace(folder):
      make_steps(number)
    times = _times(folder)
  names = dict(_INSTRUCTION.findall(compiled.as_text()))
  parts = collections.Counter()
  for instruction, nanoseconds in times.items():
    if instruction in names:
      parts[part_of(names[instruction])] += nanoseconds
    elif re.search(r'[._]\d+$', instruction):  # made by XLA, of nothing of ours
      parts[_OTHER] += nanoseconds
  total = sum(parts.values())
  devices = len(program.mesh.local_devices)
  return [
    Part(case, variant, name, time / 1e9 / number / devices, time / total)
    for name, time in parts.most_common()
  ]


def part_of(op_name: str) -> str:
  """'jit(train_step)/transpose(jvp(ViT))/head/dot_general' -> its part."""
  pieces = [p for p in op_name.split('/') if not p.startswith(('jit(', 'pjit'))]
  backward = any(piece.startswith('transpose(') for piece in pieces)
  *modules, operation = pieces or [_OTHER]
  modules = [p for p in modules if re.fullmatch(r'[A-Za-z]\w*', p)]
  modules = [p for p in modules if p not in ('while', 'body', 'checkpoint')]
  if 'shard_map' in modules:  # a layer, whose name stands there again
    modules = modules[: modules.index('shard_map')]
  if modules:  # of the backward pass the path stands there twice
    last = len(modules) - 1 - modules[::-1].index(modules[0])
    modules = modules[last:]
  where = _NUMBER.sub('', '/'.join(modules))
  if not where:
    return f'{"backward " if backward else ""}{operation}'
  return f'{"backward " if backward else ""}{where}: {operation}'


def _is_work(plane, line):
  """Whether a line of a trace has operations, and has them alone.

  GPUs have a line for each stream, and the same again by modules and steps.
  """
  if plane.startswith('/device:TPU'):
    return line == 'XLA Ops'
  if plane.startswith('/device:'):
    return line.startswith('Stream')
  return line != 'python'


def _instruction(plane, event):
  """A CPU's events are called so; reading their stats ends JAX 0.12."""
  if not plane.startswith('/device:'):
    return event.name
  for name, value in event.stats:
    if name == 'hlo_op':
      return value
  return event.name


def _times(folder):
  """{HLO instruction: nanoseconds}, over all threads and devices."""
  paths = glob.glob(os.path.join(folder, '**', '*.xplane.pb'), recursive=True)
  path = max(paths, key=os.path.getmtime)  # there may be earlier ones
  times = collections.Counter()
  for plane in jax.profiler.ProfileData.from_file(path).planes:
    if not plane.name.startswith(('/device:', '/host:CPU')):
      continue
    for line in plane.lines:
      if not _is_work(plane.name, line.name):
        continue
      for event in line.events:
        times[_instruction(plane.name, event)] += event.duration_ns
  return times
