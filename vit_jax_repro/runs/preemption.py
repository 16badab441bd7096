"""Preemption: a run saves and ends when it receives SIGTERM or SIGINT.

Cloud TPU, SLURM and Kubernetes send SIGTERM and, some seconds later, SIGKILL.
Ctrl-C at a terminal sends SIGINT. Either signal makes the run save after the
current update. With several processes, all of them stop after the same update:
JAX's coordination service catches SIGTERM in whichever process receives it, and
makes the processes agree on a step (jax.experimental.multihost_utils,
reached_preemption_sync_point).
"""

import itertools
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from vit_jax_repro.parallel import sigterm

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Number of the next sync point. JAX wants consecutive numbers, also when one
# process trains several times.
_sync_points = itertools.count(1)


class Stopped(SystemExit):
  """A signal stopped a run, which has saved; the exit status is 128 + N."""

  def __init__(self, signum: int, step: int):
    super().__init__(128 + signum)
    self.text = (
      f'stopped by {signal.Signals(signum).name} after step {step}; the same '
      'command continues'
    )

  def __str__(self):
    return self.text


class InterruptedEvaluationError(Exception):
  """An evaluation was interrupted because the run must stop."""


class Watch:
  """A context that catches signals and decides whether the run stops.

  It catches only the first signal. The next one has its usual effect: a second
  SIGINT stops the process at once. Signal handlers stay unchanged if the run is
  not in the main thread. In one of several processes JAX handles SIGTERM.
  """

  def __init__(self):
    self._signum: int | None = None
    self._before = {}  # {signal: handler outside of the context}
    self._obeyed = False
    self._told_jax = False

  def __enter__(self):
    if jax.process_count() > 1:
      self._told_jax = sigterm.tell_jax()
    main = threading.current_thread() is threading.main_thread()
    if main and jax.process_count() == 1:
      for signum in SIGNALS:
        self._before[signum] = signal.signal(signum, self._catch)
    return self

  def __exit__(self, *exception):
    # After a stop, SIGTERM may still come to a process.
    if self._told_jax and not self._obeyed:
      sigterm.end_process()
    self._restore()
    # The signal came after the last update: it gets its usual effect now.
    if self._signum and not self._obeyed and exception == (None,) * 3:
      signal.raise_signal(self._signum)

  def should_stop(self) -> bool:
    """Returns whether the run must stop; all processes call it per update."""
    if jax.process_count() > 1:
      from jax.experimental import multihost_utils

      if multihost_utils.reached_preemption_sync_point(next(_sync_points)):
        self._signum = signal.SIGTERM
    return self._signum is not None

  def unless_stopped(self, batches: Iterable[Any]) -> Iterator[Any]:
    """Yields the batches of an evaluation.

    Raises:
      InterruptedEvaluationError: the run must stop; only with one process.
    """
    is_single = jax.process_count() == 1
    for batch in batches:
      if is_single and self._signum is not None:
        raise InterruptedEvaluationError
      yield batch

  def stopped(self, step: int) -> Stopped:
    """Returns the exception to raise after the state of `step` is saved."""
    assert self._signum is not None, 'the run was not asked to stop'
    self._obeyed = True
    return Stopped(self._signum, step)

  def _catch(self, signum, frame):
    del frame
    self._restore()
    self._signum = signum

  def _restore(self):
    for signum, handler in self._before.items():
      # None: the handler was not set in Python, so it cannot be restored.
      signal.signal(signum, signal.SIG_DFL if handler is None else handler)
    self._before = {}
