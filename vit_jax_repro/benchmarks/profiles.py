"""Profiles: the time of a step, by parts of the model."""

import collections
import dataclasses
import glob
import os
import re
import tempfile

import jax

from vit_jax_repro.benchmarks import programs

# Numbers of blocks, units and layers; those of one kind count as one part.
# Parts of a path that JAX adds for loops and rematerialisation.
_CONTROL = ('while', 'body', 'checkpoint', 'closed_call')
_NUMBER = re.compile(r'(?<=[a-z])_?\d+(?=/|$)')
_INSTRUCTION = re.compile(
  r'^\s*(?:ROOT )?%?([\w.\-]+) = .*metadata=\{[^}]*op_name="([^"]*)"', re.M
)
_OTHER = 'other'


@dataclasses.dataclass(frozen=True)
class ModelPart:
  """The time of one part of a model.

  Attributes:
    case: the program.
    variant: a key of `programs.VARIANTS`.
    name: path of flax modules and operation, such as
      'backward Transformer/encoderblock/MlpBlock/Dense: dot_general'.
    seconds: per step, summed over threads or streams of a device.
    share: fraction of the time of all parts.
  """

  case: programs.Case
  variant: str
  name: str
  seconds: float
  share: float


def profile(
  case: programs.Case, variant: str, *, number: int, trace: str | None
) -> list[ModelPart]:
  """Returns the times of all parts of a model, the largest first.

  Args:
    case: the program.
    variant: a key of `programs.VARIANTS`.
    number: number of steps to profile.
    trace: folder for JAX's trace, which TensorBoard and XProf can show; None
      for a temporary one.
  """
  program = programs.create(programs.variant(case, variant))
  compiled = programs.compile(program)
  make_steps = programs.run(program, compiled)
  with tempfile.TemporaryDirectory() as temporary:
    folder = temporary if trace is None else trace
    with jax.profiler.trace(folder):
      make_steps(number)
    times = _times(folder)
  text = compiled.as_text()
  assert text is not None
  names = dict(_INSTRUCTION.findall(text))
  parts = collections.Counter()
  for instruction, nanoseconds in times.items():
    if instruction in names:
      parts[part_of(names[instruction])] += nanoseconds
    elif re.search(r'[._]\d+$', instruction):
      # XLA inserted this instruction; it belongs to no module.
      parts[_OTHER] += nanoseconds
  total = sum(parts.values())
  devices = len(program.mesh.local_devices)
  return [
    ModelPart(case, variant, name, time / 1e9 / number / devices, time / total)
    for name, time in parts.most_common()
  ]


def part_of(op_name: str) -> str:
  """Returns the part of the model that an HLO operation belongs to.

  Args:
    op_name: such as 'jit(train_step)/transpose(jvp(ViT))/head/dot_general',
      which becomes 'backward head: dot_general'.
  """
  pieces = [p for p in op_name.split('/') if not p.startswith(('jit(', 'pjit'))]
  backward = any(piece.startswith('transpose(') for piece in pieces)
  *modules, operation = pieces or [_OTHER]
  modules = [p for p in modules if re.fullmatch(r'[A-Za-z]\w*', p)]
  modules = [p for p in modules if p not in _CONTROL]
  if 'shard_map' in modules:  # the layer's name is repeated after it
    modules = modules[: modules.index('shard_map')]
  if modules:  # operations of the backward pass have the path twice
    last = len(modules) - 1 - modules[::-1].index(modules[0])
    modules = modules[last:]
  where = _NUMBER.sub('', '/'.join(modules))
  if not where:
    return f'{"backward " if backward else ""}{operation}'
  return f'{"backward " if backward else ""}{where}: {operation}'


def _is_work(plane, line):
  """Returns whether a line of a trace contains operations and nothing else.

  GPUs have one line per stream, and further lines that repeat the operations
  by modules and steps.
  """
  if plane.startswith('/device:TPU'):
    return line == 'XLA Ops'
  if plane.startswith('/device:'):
    return line.startswith('Stream')
  return line != 'python'


def _instruction(plane, event):
  """Returns the HLO instruction of an event.

  On CPUs it is the event's name; reading their stats crashes JAX 0.12.
  """
  if not plane.startswith('/device:'):
    return event.name
  for name, value in event.stats:
    if name == 'hlo_op':
      return value
  return event.name


def _times(folder):
  """Returns {HLO instruction: nanoseconds}, over all threads and devices."""
  paths = glob.glob(os.path.join(folder, '**', '*.xplane.pb'), recursive=True)
  path = max(paths, key=os.path.getmtime)  # others are from earlier runs
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
