"""Steps per second of this package's models, compared with PyTorch's.

Each contender runs in a process of its own. In each round the contenders
compute for a while, one after the other, so that other load on the machine
affects all of them equally. A contender that fails, for example because the
memory is full, gets a row with the error.
"""

import contextlib
import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Sequence

from vit_jax_repro.benchmarks import programs, torch_models, workers
from vit_jax_repro.parallel import chips

EAGER, COMPILED = 'eager', 'compiled'
_PAUSE = 0.5  # seconds for the previous contender to become idle


@dataclasses.dataclass(frozen=True)
class Speed:
  """The speed of one contender on a case; times are medians over the rounds.

  Attributes:
    case: the program.
    contender: one of `programs.VARIANTS`, or a name such as 'timm eager'.
    seconds: per step; None if the contender failed.
    spread: seconds per step of the fastest and the slowest round.
    images_per_sec: per device.
    utilisation: model operations as a fraction of the devices' peak; None if
      the peak is unknown.
    ratio: speed of the first contender relative to this one, the median over
      the rounds; 1 for the first.
    peak_bytes: largest memory use on one device; None if the device does not
      report it.
    ready: seconds until the first step was done, including building and
      compilation.
    devices: number of devices.
    device_kind: name of the devices; None if the contender failed at the start.
    error: the error on one line, or None.
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
  """Measures the speed of several contenders on a case.

  This process does not use the devices, because only one process at a time can
  use a TPU. For the same reason all but one of several JAX variants fail there.

  Args:
    case: the program to measure.
    contenders: names from `programs.VARIANTS` and from `others`.
    rounds: number of times that each contender computes.
    seconds: approximate time that it computes in a round.
    peak: FLOP/s of a device; None for the value in the table `chips.CHIPS`.
    show: called with a line of text about the progress.

  Returns:
    A row for each contender, in the order of `contenders`.
  """
  with contextlib.ExitStack() as stack:
    ready, rows = {}, {}
    for name in contenders:
      show(f'{case.model}, batch {case.batch_size}: preparing {name}')
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
  """Returns the names of the PyTorch contenders.

  Args:
    against: 'torch', 'timm' or 'transformers'; None for no contenders.
    compiled: whether to add torch.compile to eager execution.
    model: name of the model.

  Raises:
    InputError: see `torch_models.pick_library`.
  """
  if against is None:
    return []
  library = torch_models.pick_library(against, model)
  kinds = (EAGER, COMPILED) if compiled else (EAGER,)
  return [f'{library} {kind}' for kind in kinds]


def _in_turns(ready, rounds, seconds, show):
  """Returns {name: seconds per step in each round, or the error}."""
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
  """Returns the row with its measurements filled in."""
  median = statistics.median(seconds)
  rate = row.case.batch_size / median / row.devices
  ratio = None
  if isinstance(firsts, list):
    ratio = statistics.median(
      one / first for first, one in zip(firsts, seconds, strict=True)
    )
  if peak is None and row.device_kind is not None:
    peak = chips.peak(row.device_kind, row.case.dtype)
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
  if shared:
    # Otherwise JAX takes three quarters of the card and PyTorch fails.
    env.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  return workers.worker(_work, case, name, env)


def _receive(pipe):
  try:
    return pipe.recv()
  except EOFError:
    return {'error': 'its process ended, perhaps killed for lack of memory'}


def _work(pipe, case, name, env):
  """Runs a contender in its own process.

  Sends {'ready'}. Then answers each number of seconds with {'seconds'}, the
  time of a step, and None with {'peak_bytes'}.
  """
  os.environ.update(env)  # the fork server may have an older environment
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
  except Exception as error:  # a compiler, allocator or model of others failed
    line = ' '.join(f'{type(error).__name__}: {error}'.split())
    pipe.send({'error': line[:200]})


def _contender(case, name):
  """Returns a function that runs steps, one for peak memory, and the device."""
  import jax

  if name not in programs.VARIANTS:
    jax.config.update('jax_platforms', 'cpu')  # leaves the card to PyTorch
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
