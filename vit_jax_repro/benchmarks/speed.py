"""Steps per second of our models and, in turns, of PyTorch's.

Each contender runs in a process of its own and computes for a while in each
round, so that what else the machine does hits all alike. A contender that
fails, because the memory is full, leaves a row that says so.
"""

import contextlib
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Sequence

from vit_jax_repro.benchmarks import programs, torch_models, workers
from vit_jax_repro.parallel import targets

EAGER, COMPILED = 'eager', 'compiled'
_PAUSE = 0.5  # seconds, in which the others come to rest


@dataclasses.dataclass(frozen=True)
class Speed:
  """One row: a case by a contender. Times are medians over the rounds.

  Attributes:
    contender: one of `programs.VARIANTS`, or 'timm eager' and the like.
    seconds: of a step; None if it failed.
    spread: the fastest and the slowest round's.
    images_per_sec: of each device.
    utilisation: model operations over what the devices can; None: unknown.
    ratio: speed of the first contender to this one's, the median over the
      rounds; of the first 1.
    peak_bytes: on one device, None where nobody says.
    ready: seconds until the first step was done: building, compiling.
    error: what went wrong, on one line, or None.
  """

  case: programs.Case
  contender: str
  seconds: float | None = None
  spread: tuple[float, float] | None = None
  images_per_sec: float | None = None
  utilisation: float | None = None
  ratio: float | None = None
  peak_bytes: int | None = None
  ready: float | None = None
  devices: int = 1
  device_kind: str | None = None
  error: str | None = None


def measure(
  case: programs.Case,
  *,
  contenders: Sequence[str],
  rounds: int,
  seconds: float,
  peak: float | None,
  show: Callable[[str], None],
) -> list[Speed]:
  """Measures a case, by several contenders.

  This process leaves the devices alone: a TPU has one process at a time, so
  that of several variants of ours all but one fail there.

  Args:
    case: what to measure.
    contenders: of `programs.VARIANTS`, and of what `others` gives.
    rounds: how often each contender computes.
    seconds: how long it does, about.
    peak: FLOP/s of a device, None: of the table `targets.CHIPS`.
    show: called with a line of text on what is being done.

  Returns:
    A row for each contender, in their order.
  """
  with contextlib.ExitStack() as stack:
    ready, rows = {}, {}
    for name in contenders:
      show(f'{case.model}, batch {case.batch_size}: {name} gets ready')
      worker = stack.enter_context(_worker(case, name, len(contenders) > 1))
      answer = _receive(worker)
      if 'error' in answer:
        rows[name] = Speed(case, name, error=answer['error'])
      else:
        ready[name], rows[name] = worker, Speed(case, name, **answer)
    times = _in_turns(ready, rounds, seconds, show)
    for name, worker in ready.items():
      if isinstance(times[name], str):
        rows[name] = dataclasses.replace(rows[name], error=times[name])
        continue
      worker.send(None)
      memory = _receive(worker).get('peak_bytes')
      first = times.get(contenders[0])
      rows[name] = _row(rows[name], times[name], first, memory, peak)
  return [rows[name] for name in contenders]


def others(against: str | None, compiled: bool, model: str) -> list[str]:
  """The names of the others: of PyTorch eager, and compiled if wanted.

  Raises:
    InputError: as `torch_models.pick_library`.
  """
  if against is None:
    return []
  library = torch_models.pick_library(against, model)
  kinds = (EAGER, COMPILED) if compiled else (EAGER,)
  return [f'{library} {kind}' for kind in kinds]


def _in_turns(ready, rounds, seconds, show):
  """{name: seconds a step in each round, or what went wrong}."""
  times = {name: [] for name in ready}
  for number in range(rounds):
    show(f'round {number + 1} of {rounds}')
    for name, worker in ready.items():
      if isinstance(times[name], str):
        continue
      time.sleep(_PAUSE)
      worker.send(seconds)
      answer = _receive(worker)
      if 'error' in answer:
        times[name] = answer['error']
      else:
        times[name].append(answer['seconds'])
  return times


def _row(row, seconds, firsts, memory, peak):
  median = statistics.median(seconds)
  rate = row.case.batch_size / median / row.devices
  ratio = None
  if isinstance(firsts, list):
    ratio = statistics.median(
      one / first for first, one in zip(firsts, seconds, strict=True)
    )
  if peak is None and row.device_kind is not None:
    peak = targets.peak(row.device_kind, row.case.dtype)
  utilisation = None
  if peak is not None:
    each = programs.operations(row.case) / row.case.batch_size
    utilisation = rate * each / peak
  return dataclasses.replace(
    row,
    seconds=median,
    spread=(min(seconds), max(seconds)),
    images_per_sec=rate,
    utilisation=utilisation,
    ratio=ratio,
    peak_bytes=memory,
  )


def _worker(case, name, shared):
  env = dict(os.environ)
  if shared:  # JAX would take three quarters of the card, and PyTorch fail
    env.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  return workers.worker(_work, case, name, env)


def _receive(pipe):
  try:
    return pipe.recv()
  except EOFError:
    return {'error': 'its process ended, killed for its memory perhaps'}


def _work(pipe, case, name, env):
  """Answers {'ready'}, then {'seconds'} to a time, {'peak_bytes'} to None."""
  os.environ.update(env)  # the server's may be older
  try:
    started = time.perf_counter()
    make_steps, memory, device = _contender(case, name)
    pipe.send({'ready': time.perf_counter() - started, **device})
    once = _timed(make_steps, 1)
    while True:
      wanted = pipe.recv()
      if wanted is None:
        pipe.send({'peak_bytes': memory()})
        continue
      number = max(1, round(wanted / once))
      once = _timed(make_steps, number)
      pipe.send({'seconds': once})
  except EOFError:
    return
  except Exception as error:  # of a compiler, an allocator, a foreign model
    line = ' '.join(f'{type(error).__name__}: {error}'.split())
    pipe.send({'error': line[:200]})


def _contender(case, name):
  """A function that makes steps, one that says the peak, and the device."""
  import jax

  if name not in programs.VARIANTS:
    jax.config.update('jax_platforms', 'cpu')  # the card is PyTorch's
    library, kind = name.split()
    make_steps = torch_models.run(case, library, kind == COMPILED)
    device = {'device_kind': torch_models.device_kind()}
    return make_steps, torch_models.peak_memory, device

  from vit_jax_repro.analysis import memory

  program = programs.create(programs.variant(case, name))
  make_steps = programs.run(program)
  device = {
    'devices': program.mesh.size,
    'device_kind': program.mesh.devices.flat[0].device_kind,
  }
  return make_steps, memory.peak, device


def _timed(make_steps, number):
  started = time.perf_counter()
  make_steps(number)
  return (time.perf_counter() - started) / number
