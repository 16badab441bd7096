"""The time in which the devices wait for images, and what limits reading."""

import math
import time
from collections.abc import Iterator
from typing import Any

import jax

from vit_jax_repro.parallel import host_memory

NOTABLE = 0.1  # share of the time above which a note is given
_LEAST_SECONDS = 5.0  # a shorter time is not typical of a run
# Cores that are busy, as a part of all cores: from here on they are the limit.
_BUSY = 0.6


class WaitMeter:
  """Measures the time in which the devices have no work for lack of a batch.

  Updates run in the background. So the time for the next batch counts only
  where the last update had ended before the batch was there, and only what came
  after its end. How long an update takes is measured once between two reports,
  on an update that begins without a queue: the meter waits for its end.
  """

  def __init__(self):
    self._waited = 0.0
    self._last: tuple[float, Any] | None = (
      None  # the last update: start, result
    )
    self._starved = False  # the devices were idle when the last batch came
    self._update_seconds: float | None = None
    self._measuring = True

  def next(self, batches: Iterator[dict]) -> dict:
    """Returns the next batch; counts the time that the devices wait for it."""
    began = time.perf_counter()
    batch = next(batches)
    now = time.perf_counter()
    if self._last is not None:
      started, result = self._last
      self._starved = _is_ready(result)
      if self._starved and self._update_seconds is not None:
        idle = now - started - self._update_seconds
        self._waited += max(0.0, min(idle, now - began))
    self._last = now, None
    return batch

  def updated(self, result: Any) -> None:
    """Takes the result of the update of the last batch, maybe still computed.

    The first update, which compiles, is not measured.
    """
    assert self._last is not None, 'next() was not called'
    started, _ = self._last
    if self._measuring and self._starved:
      jax.block_until_ready(result)
      self._update_seconds = time.perf_counter() - started
      self._measuring = False
    self._last = started, result

  def share(self, seconds: float) -> float:
    """Returns the waiting since the last call as a part of these seconds."""
    waited, self._waited, self._measuring = self._waited, 0.0, True
    return min(1.0, waited / seconds) if seconds > 0 else 0.0


class Adviser:
  """Describes once what limits a run that waits for images."""

  def __init__(self, platform: str):  # of the devices, such as 'gpu'
    self._platform = platform
    self._done = False
    self._start: tuple[float, float] | None = None

  def line(self, share: float) -> str | None:
    """Returns a line if the share of waiting is notable for the first time.

    Must be called first when the updates begin, then with each new share.
    """
    now, cpu = time.perf_counter(), time.process_time()
    if self._start is None:
      self._start = now, cpu
    seconds = now - self._start[0]
    if self._done or seconds < _LEAST_SECONDS:
      return None
    busy = (cpu - self._start[1]) / seconds
    self._start = now, cpu
    if share <= NOTABLE or self._platform == 'cpu':
      return None
    self._done = True
    return advice(share, busy, host_memory.cores())


def advice(share: float, busy: float, cores: int) -> str:
  """Returns a line on what limits the reading of images.

  Args:
    share: of the time in which the devices wait for images.
    busy: number of busy cores of this process, on average.
    cores: number of cores that it may use.
  """
  start = f'the devices wait for images {share:.0%} of the time'
  if busy < _BUSY * cores:
    return (
      f'{start}, and reading waits, too: {busy:.1f} of {cores} cores are busy. '
      'A faster disk or network would feed them, or a copy of the data on a '
      'local disk'
    )
  needed = max(cores + 1, math.ceil(cores / max(1 - share, 0.01)))
  return (
    f'{start}: decoding and augmenting keep {busy:.1f} of {cores} cores busy, '
    f'and about {needed} would feed the devices. Less work for each image '
    'helps, too: --config.pp.reduced_decode=True for large photographs, fewer '
    'layers of RandAugment, smaller files'
  )


def _is_ready(result):
  leaves = jax.tree.leaves(result)
  return all(leaf.is_ready() for leaf in leaves if hasattr(leaf, 'is_ready'))
