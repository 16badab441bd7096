"""A process of a job of several: joined, quiet, and aware of the others."""

import threading
import time
from collections.abc import Callable
from typing import Any

import jax

from vit_jax_repro.parallel import native_output, peers, processes

# Seconds for the other processes to print their last line and to end.
_LAST_SECONDS = 20
# The same after `connect` has failed, when their ends cannot be noticed.
_UNCONNECTED_SECONDS = 4


class Job:
  """This process as one of several.

  Attributes:
    number: number of this process.
    size: number of processes.
  """

  def __init__(
    self,
    on_loss: Callable[[int, bool], None],
    host: str | None = None,
    num_processes: int | None = None,
  ):
    """Diverts the output of libraries.

    Args:
      on_loss: see `peers.Peers`.
      host: address of process 0; None: found by its name.
      num_processes: as this process was started; None: by the launcher.
    """
    native_output.divert()
    self.number, self.size = jax.process_index(), jax.process_count()
    self._loss, self._on_loss = threading.Event(), on_loss
    self._host, self._num_processes = host, num_processes
    self._peers = None

  def connect(self) -> None:
    """Connects to the other processes; all of them must call this together.

    Raises:
      InputError: the processes have not the same number of devices, or were
        started with different numbers of processes; raised in every process.
    """
    if self.size > 1:
      processes.require_equal_devices()
      processes.require_equal_texts(
        '--num_processes', str(self._num_processes or 'missing')
      )
      self._peers = peers.Peers(self._lose, self._host)

  def has_lost(self, seconds: float) -> bool:
    """Returns whether another process has ended, within a number of seconds."""
    return self._loss.wait(seconds)

  def leave(self) -> bool:
    """Waits until all processes have finished, see `peers.Peers.leave`.

    JAX's own exit handler only makes all processes begin to end together, which
    on a busy machine is too little.

    Returns:
      Whether this process may end without JAX's exit handler.
    """
    native_output.end()
    return self._peers is not None and self._peers.leave()

  def fail(self) -> None:
    """Reports to the others that this process ends because of an error.

    Process 0 then waits for them, because JAX ends the others soon after it
    without a message.
    """
    if self._peers is not None:
      self._peers.fail()
      if self.number == 0 and not self._loss.is_set():
        self._peers.wait(_LAST_SECONDS)
    elif self.number == 0 and self.size > 1:  # `connect` has failed in all
      time.sleep(_UNCONNECTED_SECONDS)

  def output(self) -> str:
    """Returns what libraries have printed."""
    return native_output.read()

  def _lose(self, number, has_failed):
    self._loss.set()
    self._on_loss(number, has_failed)


def join(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  *,
  on_loss: Callable[[int, bool], None],
  **options: Any,
) -> Job | None:
  """Joins the other processes of this job; returns None if there are none.

  The caller must then call `Job.connect`.

  Args:
    coordinator_address, num_processes, process_id, **options: of
      `processes.initialize`.
    on_loss: see `Job`.

  Raises:
    InputError, OSError: as `processes.initialize`.
  """
  processes.initialize(
    coordinator_address, num_processes, process_id, **options
  )
  if not jax.distributed.is_initialized():
    return None
  host = (coordinator_address or '').rpartition(':')[0].strip('[]')
  return Job(on_loss, host or None, num_processes)
