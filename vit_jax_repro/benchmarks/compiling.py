"""Compile time, and the memory that the compiler expects of a program."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

import jax

from vit_jax_repro.analysis import dry_run, memory
from vit_jax_repro.benchmarks import programs
from vit_jax_repro.errors import InputError
from vit_jax_repro.parallel import targets


@dataclasses.dataclass(frozen=True)
class Compilation:
  """Compile time of a program: medians over the rounds, in seconds.

  Attributes:
    case: the program.
    variant: a key of `programs.VARIANTS`.
    lower: time of tracing and lowering.
    compile: time of compilation by XLA.
    ratio: lowering and compilation together, relative to the first variant;
      the median over the rounds.
  """

  case: programs.Case
  variant: str
  lower: float
  compile: float
  ratio: float


@dataclasses.dataclass(frozen=True)
class Fit:
  """The memory of a program on one device, in bytes.

  Attributes:
    case: the program.
    variant: a key of `programs.VARIANTS`.
    memory: what the compiler expects; if it refused the program, the memory
      that it reports as needed. None if it refused without a figure.
    limit: bytes that a run may use of the device; None if unknown.
    largest_batch: the batch size, doubled or halved until it just fits into
      the limit. 0 if none fits, None if not requested.
    taken: bytes that JAX takes of the device, or None.
  """

  case: programs.Case
  variant: str
  memory: memory.Memory | None
  limit: int | None
  largest_batch: int | None
  taken: int | None = None


@dataclasses.dataclass(frozen=True)
class Forecast:
  """A program compiled for a target, with the analysis of the result.

  Attributes:
    case: the program.
    variant: a key of `programs.VARIANTS`.
    num_chips: number of chips of the target.
    analysis: memory, collectives and bound of the compiled program.
    limit: bytes that a run may use of a device; None if unknown.
    taken: bytes that JAX takes of a device; None if unknown.
    fits: whether the program fits into the limit.
    largest_batch: see `Fit`.
  """

  case: programs.Case
  variant: str
  num_chips: int
  analysis: dry_run.Analysis
  limit: int | None
  taken: int | None
  fits: bool
  largest_batch: int | None = None


def times(
  case: programs.Case,
  variants: Sequence[str],
  *,
  rounds: int,
  show: Callable[[str], None],
) -> list[Compilation]:
  """Returns the compile times of each variant, without a cache.

  Every round compiles every variant once.
  """
  found = {name: [] for name in variants}
  with dry_run.without_cache():
    for number in range(rounds):
      for name in variants:
        show(f'{case.model} {name}, round {number + 1} of {rounds}')
        found[name].append(_compile(programs.variant(case, name)))
  first = [sum(pair) for pair in found[variants[0]]]
  return [
    Compilation(
      case=case,
      variant=name,
      lower=statistics.median(pair[0] for pair in pairs),
      compile=statistics.median(pair[1] for pair in pairs),
      ratio=statistics.median(
        sum(pair) / base for pair, base in zip(pairs, first, strict=True)
      ),
    )
    for name, pairs in found.items()
  ]


def fits(
  case: programs.Case,
  variants: Sequence[str],
  *,
  limit: int | None,
  largest: bool,
  show: Callable[[str], None],
) -> list[Fit]:
  """Returns the memory of each variant, with the largest batch if requested.

  Args:
    case: the program.
    variants: keys of `programs.VARIANTS`.
    limit: bytes of a device; None for 0.95 of what it reports, as in `main`.
    largest: whether to search for the largest batch.
    show: called with a line of text about the progress.

  Raises:
    InputError: the largest batch is requested, but the limit is unknown.
  """
  taken, usable = dry_run.limits(programs.devices(case)[0])
  limit = usable if limit is None else limit
  if largest and limit is None:
    raise InputError(
      'the largest batch needs a limit, and this device reports none; give '
      '--memory_limit_gb=N'
    )
  rows = []
  for name in variants:
    show(f'{case.model} {name}, batch {case.batch_size}')
    one = programs.variant(case, name)
    found = expected(one)
    batch = _largest(one, limit, show) if largest else None
    rows.append(Fit(case, name, found, limit, batch, taken))
  return rows


def forecasts(
  case: programs.Case,
  variants: Sequence[str],
  *,
  limit: int | None,
  largest: bool,
  show: Callable[[str], None],
) -> list[Forecast]:
  """Compiles each variant for the target of a case and bounds its speed.

  Args:
    case: the program, with a target.
    variants, limit, largest, show: see `fits`.
  """
  with dry_run.without_cache():
    return [_forecast(case, name, limit, largest, show) for name in variants]


def _forecast(case, name, limit, largest, show):
  one = programs.variant(case, name)
  program = programs.create(one)
  taken, usable = dry_run.limits(program.mesh.devices.flat[0])
  allowed = usable if limit is None else limit
  title = f'{case.target}: {case.model} {name}, batch {case.batch_size}'
  analysis = dry_run.analyse(
    program.function,
    program.arguments,
    mesh=program.mesh,
    params=program.params,
    images=case.batch_size,
    parts=1,
    model_operations=programs.operations(one),
    dtype=case.dtype,
    name=title,
  )
  return Forecast(
    case,
    name,
    targets.parse(case.target).num_chips,
    analysis,
    allowed,
    taken,
    fits=analysis.fits(allowed),
    largest_batch=_largest(one, allowed, show) if largest else None,
  )


def expected(case: programs.Case) -> memory.Memory | None:
  """Returns the memory that the compiler expects a case to take on one device.

  If XLA refused the program, this is the memory that it reports as needed, or
  None if it reports no figure.
  """
  program = programs.create(case)
  return memory.compile_and_measure(lambda: programs.compile(program))


def _largest(case, limit, show):
  """Returns the batch size, doubled or halved until it just fits."""
  shards = programs.shards(case)

  def does_fit(number):
    batch = number * shards
    show(f'{case.model}: trying a batch of {batch}')
    found = expected(dataclasses.replace(case, batch_size=batch))
    return found is not None and found.total <= limit

  return shards * dry_run.largest(max(1, case.batch_size // shards), does_fit)


def _compile(case):
  jax.clear_caches()
  program = programs.create(case)
  started = time.perf_counter()
  lowered = program.function.lower(*program.arguments)
  between = time.perf_counter()
  lowered.compile()
  return between - started, time.perf_counter() - between
