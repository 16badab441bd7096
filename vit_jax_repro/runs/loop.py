"""The training loop: updates, and periodic work between them.

It knows no model and no data set: batches come from an iterator, and
evaluating, writing and saving are functions.
"""

import collections
import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from vit_jax_repro.errors import InputError


@dataclasses.dataclass(frozen=True)
class Every:
  """Steps between two events; 0 means at the end alone."""

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
) -> tuple[Any, dict | None]:
  """Makes the updates start_step + 1 ... total_steps.

  Args:
    state: donated to `step`.
    batches: at least total_steps - start_step of them, on the devices.
    step: (state, batch) -> (state, metrics); metrics hold `loss`.
    start_step: updates that `state` has had.
    batch_size: images of an update, for images per second.
    learning_rate: of update number n, counted from 0.
    evaluate: state -> scalars; None: it was left, as the run is to stop.
    write: (step, scalars), after progress and evaluation.
    save: called with the state, after the step's update, and the scalars of
      its evaluation, {} without one.
    stop: asked once after each update; True: this is the last one for now. It
      is saved, not evaluated.

  Returns:
    The state, and the scalars of the last evaluation; None: it was stopped.

  Raises:
    InputError: a loss is not finite; the message has the step. Nothing is
      saved from the last progress on.
  """
  pending = []  # (step, metrics) since the last progress, still on device
  evaluated = {}
  meter = RateMeter(batch_size)
  batches = iter(batches)
  for number in range(start_step + 1, total_steps + 1):
    state, metrics = step(state, next(batches))
    pending.append((number, metrics))
    meter.count(metrics)
    last = number == total_steps
    stopping = stop()
    scalars, evaluated = {}, {}
    saving = _due(number, every.checkpoint) or last or stopping
    evaluating = (_due(number, every.evaluation) or last) and not stopping
    if _due(number, every.progress) or evaluating or saving:
      scalars = _fetch(pending)
      scalars['lr'] = float(learning_rate(number - 1))
      scalars['images_per_sec'] = meter.rate()
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
  if start_step >= total_steps:  # nothing was left to do
    evaluated = evaluate(state)
  return state, evaluated


def prefetch(
  batches: Iterator[dict], put: Callable[[dict], dict], size: int
) -> Iterator[dict]:
  """Puts batches on the devices `size` ahead of their use."""
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


class RateMeter:
  """Images per second of updates; the first one, which compiles, left out."""

  def __init__(self, batch_size: int):
    self._batch_size = batch_size
    self._start = None  # of the interval that is measured
    self._steps = 0
    self._paused = 0.0

  def count(self, metrics: Any) -> None:
    """Counts one update, whose metrics may still be computed."""
    if self._start is None:
      jax.block_until_ready(metrics)
      self._start = time.perf_counter()
    else:
      self._steps += 1

  def rate(self) -> float:
    """Returns images per second since the last call; 0 without updates."""
    now = time.perf_counter()
    busy = now - self._start - self._paused
    rate = self._steps * self._batch_size / busy if self._steps else 0.0
    self._start, self._steps, self._paused = now, 0, 0.0
    return rate

  @contextlib.contextmanager
  def paused(self):
    """Leaves the time inside the context out of the rate."""
    start = time.perf_counter()
    try:
      yield
    finally:
      self._paused += time.perf_counter() - start


def _due(number, every):
  return bool(every) and number % every == 0


def _fetch(pending):
  """Returns the last step's metrics as floats, every loss checked."""
  pending = [(number, jax.device_get(metrics)) for number, metrics in pending]
  for number, metrics in pending:
    loss = float(metrics['loss'])
    if not math.isfinite(loss):
      raise InputError(
        f'the loss is {loss} at step {number}; training stops (a lower '
        'base_lr, a longer warm-up or gradient clipping may help)'
      )
  metrics = {name: float(value) for name, value in pending[-1][1].items()}
  return {'train_loss': metrics.pop('loss'), **metrics}
