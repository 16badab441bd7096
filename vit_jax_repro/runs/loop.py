"""The training loop: updates, and periodic work between them.

The loop depends on no model and no data set. Batches come from an iterator;
functions that the caller passes evaluate, write metrics and save.
"""

import collections
import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import jax

from vit_jax_repro.errors import InputError
from vit_jax_repro.runs import input_wait


class NotFiniteError(InputError):
  """The loss or the gradients of an update, or logits after it, are not finite.

  Attributes:
    step: number of the update.
    reason: what is not finite, such as 'the loss is nan'.
    last_finite: number of the last update with a finite loss.
    in_evaluation: whether an evaluation after the update found it.
  """

  def __init__(
    self,
    step: int,
    reason: str,
    last_finite: int,
    *,
    in_evaluation: bool = False,
  ):
    super().__init__(
      f'{reason} at step {step}; training stops (a lower base_lr, a longer '
      'warm-up or gradient clipping may help)'
    )
    self.step, self.reason, self.last_finite = step, reason, last_finite
    self.in_evaluation = in_evaluation


@dataclasses.dataclass(frozen=True)
class Every:
  """Numbers of steps between two events of a kind; 0 means only at the end."""

  progress: int
  evaluation: int
  checkpoint: int


def run(
  state: Any,
  batches: Iterable[dict],
  *,
  step: Callable[[Any, dict], tuple[Any, dict]],
  start_step: int,
  total_steps: int,
  batch_size: int,
  every: Every,
  learning_rate: Callable[[int], Any],
  evaluate: Callable[[Any], dict | None],
  write: Callable[[int, dict], None],
  save: Callable[[Any, dict], None],
  stop: Callable[[], bool] = lambda: False,
  stepped: Callable[[int], None] = lambda number: None,
) -> tuple[Any, dict | None]:
  """Runs the updates start_step + 1 ... total_steps.

  Args:
    state: the training state; it is donated to `step`.
    batches: at least total_steps - start_step batches on the devices.
    step: (state, batch) -> (state, metrics); metrics hold `loss`.
    start_step: number of updates that `state` has had.
    total_steps: number of the last update.
    batch_size: images of an update, for images per second.
    every: intervals of progress, evaluation and checkpoints.
    learning_rate: returns the learning rate of update n, counted from 0.
    evaluate: state -> scalars, or None if the evaluation was interrupted
      because the run must stop.
    write: (step, scalars); called after progress and evaluation.
    save: (state, scalars); called after the update of a checkpoint's step with
      the scalars of its evaluation, or {} without one.
    stop: called once after each update. If it returns True, the state is saved
      without an evaluation and the loop ends.
    stepped: called with the number of each update after it was started.

  Returns:
    The state and the scalars of the last evaluation, or None instead of these
    if the run was stopped.

  Raises:
    NotFiniteError: a loss or the norm of the gradients is not finite. No state
      after the last progress is saved.
  """
  pending = []  # (step, metrics) since the last progress, still on device
  evaluated: dict | None = {}
  meter = RateMeter(batch_size)
  batches, step = iter(batches), paced(step)
  for number in range(start_step + 1, total_steps + 1):
    state, metrics = step(state, meter.next(batches))
    pending.append((number, metrics))
    meter.count(metrics)
    stepped(number)
    last = number == total_steps
    stopping = stop()
    scalars, evaluated = {}, {}
    saving = _due(number, every.checkpoint) or last or stopping
    evaluating = (_due(number, every.evaluation) or last) and not stopping
    if _due(number, every.progress) or evaluating or saving:
      scalars = _fetch(pending)
      scalars['lr'] = float(learning_rate(number - 1))
      scalars |= meter.rates()
      pending = []
    with meter.paused():
      if evaluating:
        evaluated = evaluate(state)
        stopping = evaluated is None
        scalars.update(evaluated or {})
      if scalars:
        write(number, scalars)
      if saving or stopping:
        save(state, evaluated or {})
    if stopping:
      return state, None
  if start_step >= total_steps:  # the run was complete before
    evaluated = evaluate(state)
  return state, evaluated


def paced(step: Callable[[Any, dict], Any]) -> Callable[[Any, dict], Any]:
  """Returns `step`, which waits until the update before its own has ended.

  JAX returns before an update is computed. Without a limit the loop would read
  a batch for each of many updates, and all of them would lie in memory.

  Args:
    step: (state, batch) -> (state, metrics).
  """
  before = None

  def run(state, batch):
    nonlocal before
    state, metrics = step(state, batch)
    jax.block_until_ready(before)
    before = metrics
    return state, metrics

  return run


def prefetch(
  batches: Iterator[dict], put: Callable[[dict], dict], size: int
) -> Iterator[dict]:
  """Yields batches on the devices, `size` of them transferred in advance."""
  queue = collections.deque()
  for batch in itertools.islice(batches, size):
    queue.append(put(batch))
  while True:
    batch = next(batches, None)
    if batch is not None:
      queue.append(put(batch))
    if not queue:
      return
    yield queue.popleft()


def check_finite(number: int, metrics: Mapping[str, Any]) -> None:
  """Refuses an update whose loss or whose gradients are not finite.

  Args:
    number: number of the update.
    metrics: its `loss` and, if known, the `grad_norm` of the same parameters.

  Raises:
    NotFiniteError: one of them is a NaN or infinite.
  """
  loss, norm = float(metrics['loss']), float(metrics.get('grad_norm', 0))
  if not math.isfinite(loss):
    raise NotFiniteError(number, f'the loss is {loss}', number - 1)
  if not math.isfinite(norm):
    raise NotFiniteError(number, f'the norm of the gradients is {norm}', number)


class RateMeter:
  """Measures images per second, without the first update, which compiles."""

  def __init__(self, batch_size: int):
    self._batch_size = batch_size
    self._start: float | None = None  # beginning of the measured interval
    self._steps = 0
    self._paused = 0.0
    self._waiting = input_wait.WaitMeter()

  def next(self, batches: Iterator[dict]) -> dict:
    """Returns the batch of the next update."""
    return self._waiting.next(batches)

  def count(self, metrics: Any) -> None:
    """Counts one update, whose metrics may not be computed yet."""
    self._waiting.updated(metrics)
    if self._start is None:
      jax.block_until_ready(metrics)
      self._start = time.perf_counter()
    else:
      self._steps += 1

  def rates(self) -> dict[str, float]:
    """Returns what was measured since the last call; 0 without updates.

    Returns:
      images_per_sec, and input_wait, the share of the time in which the devices
      waited for images.
    """
    assert self._start is not None, 'count() was not called'
    now = time.perf_counter()
    busy = now - self._start - self._paused
    rate = self._steps * self._batch_size / busy if self._steps else 0.0
    self._start, self._steps, self._paused = now, 0, 0.0
    return {
      'images_per_sec': rate,
      'input_wait': self._waiting.share(busy),
    }

  @contextlib.contextmanager
  def paused(self) -> Generator[None]:
    """Excludes the time inside the context from the rate."""
    start = time.perf_counter()
    try:
      yield
    finally:
      self._paused += time.perf_counter() - start


def _due(number, every):
  return bool(every) and number % every == 0


def _fetch(pending):
  """Returns the last step's metrics as floats; checks every pending loss."""
  pending = [(number, jax.device_get(metrics)) for number, metrics in pending]
  for number, metrics in pending:
    check_finite(number, metrics)
  metrics = {name: float(value) for name, value in pending[-1][1].items()}
  return {'train_loss': metrics.pop('loss'), **metrics}
