"""Calls that wait for a bucket: how long, with which notes and errors.

`call` repeats a request until the bucket answers or the deadline has passed.
`patiently` watches over libraries that repeat requests themselves.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

from vit_jax_repro.output import messages, waiting

PREFIX = 'gs://'
VARIABLE = 'VIT_JAX_REPRO_BUCKET_DEADLINE'
_DEADLINE = 300.0  # seconds
_LONGEST_PAUSE = 10.0  # seconds between two attempts
_LOOK = 5.0  # seconds between two looks whether a bucket answers
_LOGIN = 'log in again: gcloud auth application-default login'
_REMEDIES = {
  400: _LOGIN,
  401: _LOGIN,
  403: 'ask for the role Storage Object User on the bucket, or log in with '
  'another account',
}
_FAULTS = {
  400: 'it refuses the request, as with an expired login',
  401: 'the login is missing or has expired',
  403: 'permission denied',
}
_QUIET = 10.0  # seconds after an outage in which the next one is not noted
_outages_lock = threading.Lock()
_impatient = threading.local()  # its `now` is True inside `at_once`


class BucketError(OSError):
  """A bucket refuses, or there is none; the message is one line."""


class UnreachableError(BucketError, TimeoutError):
  """A bucket gives no answer, or refuses, while a library waits for it."""


@dataclasses.dataclass
class _Outage:
  """What the user knows of the calls that a bucket does not answer."""

  calls: int = 0
  is_noted: bool = False
  ended: float = float('-inf')


_outages: dict[str, _Outage] = collections.defaultdict(_Outage)


def deadline() -> float:
  """Returns the longest outage in seconds: 300, or VARIABLE.

  Raises:
    InputError: the variable is no number of at least 0.
  """
  return waiting.seconds_from(VARIABLE, _DEADLINE, least=0, finite=True)


@contextlib.contextmanager
def at_once() -> Generator[None]:
  """Asks a bucket only once inside the block, for what ends a process."""
  _impatient.now = True
  try:
    yield
  finally:
    _impatient.now = False


def bucket_of(url: str) -> str:
  """Returns the bucket of an address."""
  return url.removeprefix(PREFIX).partition('/')[0]


def call(
  what: str, url: str, function: Callable[..., Any], *arguments: Any, **named
) -> Any:
  """Calls a function of the file system until the bucket answers.

  Args:
    what: what it does, such as 'reading'.
    url: the address that the messages name.
    function: of gcsfs.
    *arguments, **named: of the function.

  Raises:
    FileNotFoundError, FileExistsError: as the function.
    UnreachableError: there is no answer until the deadline.
    BucketError: the bucket refuses.
  """
  longest = 0.0 if getattr(_impatient, 'now', False) else deadline()
  pause, is_silent = 0.5, False
  end = time.monotonic() + longest
  # A step of a thread would hide what the command is doing.
  is_main = threading.current_thread() is threading.main_thread()
  step = waiting.doing(f'{what} {url}') if is_main else contextlib.nullcontext()
  with step:
    while True:
      try:
        result = function(*arguments, **named)
      except Exception as error:
        is_answer = isinstance(error, FileNotFoundError | FileExistsError)
        reason, passes = ('', False) if is_answer else explained(error)
        is_over = not passes or time.monotonic() + pause > end
        if is_silent and is_over:
          _end_silence(url, answers=is_answer)
        if is_answer:
          raise
        if not passes:
          raise BucketError(f'{url}: {reason}') from error
        if is_over:
          raise _given_up(url, reason, longest) from error
        if not is_silent:
          _begin_silence(url, reason, longest)
        is_silent = True
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
      else:
        if is_silent:
          _end_silence(url, answers=True)
        return result


def patiently(
  url: str, function: Callable[[], Any], look: Callable[[], Any]
) -> Any:
  """Calls a function of a library that waits for a bucket without an end.

  The function runs in a thread.

  Args:
    url: the address that the messages name.
    function: what the library does.
    look: called if that takes long, to see whether the bucket answers at all.

  Raises:
    UnreachableError: the bucket has not answered until the deadline, or it
      refuses. The thread still waits; its name is waiting.ABANDONED.
    Exception: as the function.
  """
  longest = deadline()
  pause = min(_LOOK, max(longest / 4, 0.1))
  since: float | None = None
  thread, future = waiting.in_thread(function)
  try:
    while not concurrent.futures.wait([future], pause).done:
      reason, passes = _problem(look)
      if reason and not passes:
        thread.name = waiting.ABANDONED
        raise UnreachableError(f'{url}: {reason}')
      if since is None:
        if reason:
          since = time.monotonic()
          _begin_silence(url, reason, longest)
      elif not reason:
        since = None
        _end_silence(url, answers=True)
      elif time.monotonic() - since >= longest:
        thread.name = waiting.ABANDONED
        raise _given_up(url, reason, longest)
  finally:
    if since is not None:
      _end_silence(url, answers=future.done())
  return future.result()


def explained(error: Exception) -> tuple[str, bool]:
  """Returns the reason of an error of gcsfs, and whether it may pass.

  An error that is none of the bucket is raised again.
  """
  import aiohttp
  import google.auth.exceptions
  import requests
  from gcsfs.retry import HttpError

  text = messages.short(error)
  code = getattr(error, 'code', None) if isinstance(error, HttpError) else None
  if str(code).isdecimal():
    code = int(str(code))
  elif isinstance(error, OSError) and text.startswith('Forbidden'):
    code = 403
  elif isinstance(error, ValueError) and text.startswith('Bad Request'):
    code = 400
  if code in _FAULTS:
    return f'{_FAULTS[code]} ({code}); {_REMEDIES[code]}', False
  if code is not None:
    return f'it answers with status {code}', code in (408, 429) or code >= 500
  if isinstance(error, google.auth.exceptions.TransportError):
    return f'the login cannot be checked ({text})', True
  if isinstance(error, google.auth.exceptions.GoogleAuthError):
    return f'the login is unusable ({text}); {_LOGIN}', False
  if isinstance(error, requests.exceptions.ProxyError):  # gcsfs's for 502
    return 'it answers with status 502', True
  if isinstance(
    error,
    aiohttp.ClientError
    | requests.exceptions.RequestException
    | TimeoutError
    | ConnectionError,
  ):
    return f'no answer ({type(error).__name__})', True
  raise error


def _given_up(url, reason, longest):
  return UnreachableError(
    f'{url}: {reason}, for {longest:g} s; repeat the command when the '
    f'connection is back, or set {VARIABLE}'
  )


def _begin_silence(url, reason, longest):
  """Notes that a bucket does not answer, once for all threads."""
  bucket = bucket_of(url)
  with _outages_lock:
    outage = _outages[bucket]
    outage.calls += 1
    if outage.calls > 1:
      return
    outage.is_noted = time.monotonic() - outage.ended > _QUIET
    if outage.is_noted:
      messages.note(
        f'{PREFIX}{bucket}: {reason}; asking again for at most {longest:g} s',
        every_process=True,
      )


def _end_silence(url, *, answers):
  """Notes that a bucket answers all threads again, or that one has given up."""
  bucket = bucket_of(url)
  with _outages_lock:
    outage = _outages[bucket]
    outage.calls -= 1
    if not outage.calls:
      outage.ended = time.monotonic()
      if answers and outage.is_noted:
        messages.note(f'{PREFIX}{bucket}: it answers again', every_process=True)


def _problem(look):
  """Returns why a bucket does not answer or refuses, and whether it may pass.

  The reason is '' if it answers.
  """
  try:
    look()
  except FileNotFoundError:
    return 'the bucket is gone', False
  except Exception as error:
    return explained(error)
  return '', True
