"""What a command is doing, printed to standard error while it takes long.

`command_line.run` enters `watch`. From then on a line is printed whenever a
command has been silent for `patience()` seconds. The line names the innermost
step that `doing` announced, and its duration. Without `watch`, for example in a
notebook, nothing is printed.
"""

import concurrent.futures
import contextlib
import dataclasses
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from typing import TypeVar

from vit_jax_repro.errors import InputError, printable

_PATIENCE, _LEAST = 4.0, 0.05  # seconds
# Name of threads that compile, which cannot be stopped and may take minutes.
COMPILER = 'compiler'
# Name of threads in which a library waits for a storage that was given up.
ABANDONED = 'abandoned'
_Result = TypeVar('_Result')


@dataclasses.dataclass(eq=False)
class _Step:
  """What is going on, and since when."""

  text: str
  since: float = dataclasses.field(default_factory=time.monotonic)


class _Watch:
  """The steps of a command, and a thread that prints the innermost one."""

  def __init__(self, name, patience):
    self._patience = patience
    self._name = name
    self._steps = [_Step(f'{name}: loading libraries')]
    # The first line comes earlier, to show that the command runs.
    self._heard = time.monotonic() - patience / 2
    self._lock = threading.Lock()
    self._ended = threading.Event()
    self._suspended = 0
    self._thread = threading.Thread(target=self._repeat, daemon=True)
    self._thread.start()

  def end(self):
    self._ended.set()
    self._thread.join()

  def heard(self):
    self._heard = time.monotonic()

  @contextlib.contextmanager
  def step(self, text):
    step = _Step(text)  # of any thread
    with self._lock:
      self._steps.append(step)
    try:
      yield
    finally:
      with self._lock:
        self._steps.remove(step)
        if len(self._steps) == 1:
          self._steps = [_Step(f'{self._name}: working')]

  def now(self, text):
    with self._lock:
      self._steps[-1].text, self._steps[-1].since = text, time.monotonic()

  @contextlib.contextmanager
  def suspended(self):
    self._suspended += 1
    try:
      yield
    finally:
      self._suspended -= 1
      self.heard()

  def _repeat(self):
    while not self._ended.wait(min(0.2, self._patience / 4)):
      now = time.monotonic()
      if self._suspended or now - self._heard < self._patience:
        continue
      with self._lock:
        text, since = self._steps[-1].text, self._steps[-1].since
      self._heard = now
      seconds = f' ({now - since:.0f} s)' if now - since >= 1 else ''
      print(printable(f'{text}{seconds}'), file=sys.stderr, flush=True)


_current: list[_Watch] = []  # empty, or the watch of this process's command


@contextlib.contextmanager
def watch(name: str) -> Generator[None]:
  """Prints what a command is doing, while the block runs.

  Args:
    name: the command, for the line of the time before its first step.
  """
  _current.append(_Watch(name, patience()))
  try:
    yield
  finally:
    _current.pop().end()


@contextlib.contextmanager
def doing(text: str) -> Generator[None]:
  """Announces a step that may take long, such as 'reading ViT-B_16.npz'."""
  if not _current:
    yield
    return
  with _current[-1].step(text):
    yield


def now_doing(text: str) -> None:
  """Replaces the text of the innermost step, and restarts its seconds."""
  if _current:
    _current[-1].now(text)


def heard() -> None:
  """Restarts the silence; called by everything that prints."""
  if _current:
    _current[-1].heard()


def show(line: str) -> None:
  """Prints a line to stderr, with unprintable characters escaped."""
  heard()
  print(printable(line), file=sys.stderr, flush=True)


def start(line: str) -> None:
  """Prints a line about a step that starts, and repeats it while it lasts."""
  show(line)
  now_doing(line)


@contextlib.contextmanager
def suspended() -> Generator[None]:
  """Prints no lines inside the block, because a moving bar is on the screen."""
  if not _current:
    yield
    return
  with _current[-1].suspended():
    yield


def in_thread(
  function: Callable[[], _Result],
) -> tuple[threading.Thread, concurrent.futures.Future[_Result]]:
  """Calls a function in a thread that does not keep the process from ending."""
  future: concurrent.futures.Future[_Result] = concurrent.futures.Future()

  def run():
    try:
      future.set_result(function())
    except BaseException as error:
      future.set_exception(error)

  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  return thread, future


def within(seconds: float, function: Callable[[], _Result]) -> _Result:
  """Calls a function of a library that may wait without an end.

  The function runs in a thread.

  Args:
    seconds: how long to wait for it.
    function: what the library does.

  Raises:
    TimeoutError: the function has not ended. The thread still waits; its name
      is ABANDONED.
    Exception: as the function.
  """
  thread, future = in_thread(function)
  if not concurrent.futures.wait([future], seconds).done:
    thread.name = ABANDONED
    raise TimeoutError(f'no end after {seconds:g} s')
  return future.result()


def silence() -> None:
  """Prints no more lines in this process, because another one does."""
  if _current:
    _current[-1].end()


def patience() -> float:
  """Returns the longest silence in seconds: 4, or VIT_JAX_REPRO_PATIENCE.

  Raises:
    InputError: the variable is no number of at least 0.05.
  """
  return seconds_from('VIT_JAX_REPRO_PATIENCE', _PATIENCE, least=_LEAST)


def seconds_from(
  variable: str, default: float, *, least: float, finite: bool = False
) -> float:
  """Returns the seconds in an environment variable, or a default.

  Args:
    variable: name of the environment variable.
    default: the seconds if it is empty or not set.
    least: the lowest number that is allowed.
    finite: whether infinity is refused.

  Raises:
    InputError: the variable is no such number.
  """
  text = os.environ.get(variable) or str(default)
  try:
    seconds = float(text)
  except ValueError:
    seconds = math.nan
  if not seconds >= least or (finite and seconds == math.inf):
    raise InputError(
      f'{variable}={text} must be a number of seconds of at least {least:g}; '
      f'{default:g} is the default'
    )
  return seconds
