"""Stopping in time: what asks a run to end, and how it does.

Cloud TPU, SLURM and Kubernetes send SIGTERM and, some seconds later, SIGKILL;
Ctrl-C at a terminal sends SIGINT. Either is taken as a request to save after
the update that is running. Of several processes all stop after the same
update: JAX's coordination service then takes SIGTERM, whichever process it
comes to, and lets them agree (jax.experimental.multihost_utils,
reached_preemption_sync_point).
"""

import itertools
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import jax

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# How often all processes were asked whether to stop: JAX wants numbers that
# leave out none, and one process may train several times.
_asked = itertools.count(1)


class Stopped(SystemExit):
  """A run was asked to stop and has saved; its code is a shell's, 128 + N."""

  def __init__(self, signum: int, step: int):
    super().__init__(128 + signum)
    self.text = (
      f'stopped by {signal.Signals(signum).name} after step {step}; the same '
      'command continues'
    )

  def __str__(self):
    return self.text


class InterruptedEvaluationError(Exception):
  """An evaluation was left, as the run is to stop."""


class Watch:
  """Whether the run is to stop; a context in which signals are caught.

  Only the first signal: another one does what it did before, SIGINT stops at
  once. Where a run is not in the main thread, or in one of several processes,
  signals stay as they are.
  """

  def __init__(self):
    self._signum = None
    self._before = {}
    self._obeyed = False

  def __enter__(self):
    main = threading.current_thread() is threading.main_thread()
    if main and jax.process_count() == 1:
      for signum in SIGNALS:
        self._before[signum] = signal.signal(signum, self._catch)
    return self

  def __exit__(self, *exception):
    self._restore()
    # It came too late for the last update: what it did before.
    if self._signum and not self._obeyed and exception == (None,) * 3:
      signal.raise_signal(self._signum)

  def should_stop(self) -> bool:
    """Asked once after every update, by all processes."""
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils

      if multihost_utils.reached_preemption_sync_point(next(_asked)):
        self._signum = signal.SIGTERM
    return self._signum is not None

  def unless_stopped(self, batches: Iterable[Any]) -> Iterator[Any]:
    """The batches of an evaluation.

    Raises:
      InterruptedEvaluationError: this process, the only one, is to stop.
    """
    alone = jax.process_count() == 1
    for batch in batches:
      if alone and self._signum is not None:
        raise InterruptedEvaluationError
      yield batch

  def stopped(self, step: int) -> Stopped:
    """What to raise once the state of `step` is saved."""
    self._obeyed = True
    return Stopped(self._signum, step)

  def _catch(self, signum, frame):
    del frame
    self._restore()
    self._signum = signum

  def _restore(self):
    for signum, handler in self._before.items():
      # None: a handler that is not Python's, which cannot be put back.
      signal.signal(signum, signal.SIG_DFL if handler is None else handler)
    self._before = {}
