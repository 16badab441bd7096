"""Progress of a long job: one line for each step, repeated while it lasts."""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Generator

INTERVAL = 4.0  # seconds without a line, after which the step is repeated


@contextlib.contextmanager
def shown(
  show: Callable[[str], object], interval: float = INTERVAL
) -> Generator[Callable[[str], None]]:
  """Yields a function that announces steps.

  Steps that follow each other faster than once a second are not all shown.

  Args:
    show: shows one line.
    interval: seconds after which a step that lasts is shown again.
  """
  ended, lock = threading.Event(), threading.Lock()
  step, since = '', time.monotonic()
  last = -math.inf  # time of the last line

  def announce(text):
    nonlocal step, since, last
    with lock:
      step, since = text, time.monotonic()
      if since - last >= 1:
        show(step)
        last = since

  def repeat():
    nonlocal last
    while not ended.wait(interval / 8):
      with lock:
        now = time.monotonic()
        if step and now - last >= interval:
          show(f'{step} ({now - since:.0f} s)')
          last = now

  thread = threading.Thread(target=repeat, daemon=True)
  thread.start()
  try:
    yield announce
  finally:
    ended.set()
    thread.join()
