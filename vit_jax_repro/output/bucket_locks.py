"""Locks in a bucket: one process at a time writes below an address.

The lock is a small object that its owner makes only if there is none, and
writes again every few seconds. If it grows old, the owner has ended, and
another process takes it over. Ages are differences of the bucket's own times,
so the clocks of the machines do not matter. Of several processes that find the
same old lock, one can make the object that is named after it, and that one
takes the lock over.
"""

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from typing import Any

from vit_jax_repro.output import bucket_calls, buckets, waiting
from vit_jax_repro.output.locks import InUseError
from vit_jax_repro.output.messages import note

VARIABLE = 'VIT_JAX_REPRO_BUCKET_LOCK'
_STALE = 60.0  # seconds without a sign of life
_BEATS = 6  # signs of life in that time
_LOOK = 1.0  # seconds between two looks at another's lock


class BucketLock:
  """A lock object that one process at a time holds.

  A process that was killed leaves its lock behind. The next one on the same
  machine sees that; on other machines it waits until the lock is old.
  """

  def __init__(self, url: str, subject: str, remedy: str):
    """Takes the lock.

    Args:
      url: address of the object.
      subject: what is locked, for the messages.
      remedy: the end of the message.

    Raises:
      InUseError: another process holds the lock, and shows signs of life.
      BucketError: the bucket refuses or does not answer.
    """
    self._url, self._subject, self._remedy = url, subject, remedy
    self._token = uuid.uuid4().hex
    self._stale = stale_seconds()
    self._lost: Exception | None = None
    self._acquire()
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._beat, daemon=True)
    self._thread.start()

  def check(self) -> None:
    """Raises an error if the lock was lost to another process.

    Raises:
      InUseError: another process has taken it over.
      BucketError: the bucket refuses or does not answer.
    """
    if self._lost is not None:
      raise self._lost

  def release(self) -> None:
    """Removes the lock, if it is still this one's; raises nothing."""
    self._ended.set()
    self._thread.join(1.0)
    if self._lost is None:
      with contextlib.suppress(OSError), bucket_calls.at_once():
        if _token(_read(self._url)) == self._token:
          buckets.remove(self._url)

  def _acquire(self):
    first = None
    while not self._make(self._url):
      found = _read(self._url)
      if found is None:
        continue  # it was released just now
      if _has_ended(found) or _age_of(self._url) > self._stale:
        if self._take_over(found):
          return
        continue
      if first is None:
        first = found
      if found != first:
        raise InUseError(
          f'{self._subject} is in use by {_owner(found)}; {self._remedy}'
        )
      with waiting.doing(
        f'{self._subject} was in use by {_owner(found)}; looking whether it '
        f'still is, for at most {self._stale:g} s'
      ):
        time.sleep(min(_LOOK, self._stale / 10))

  def _make(self, url):
    try:
      buckets.write(url, self._content(), only_new=True)
    except FileExistsError:
      # A repeated request may have met its own first attempt.
      return _token(_read(url)) == self._token
    return True

  def _take_over(self, found):
    """Takes over the lock of a process that has ended; returns success."""
    claim = f'{self._url}.{_token(found)}'
    if not self._make(claim):
      if _age_of(claim) > self._stale:
        buckets.remove(claim)  # who made it has ended, too
      time.sleep(min(_LOOK, self._stale / 10))
      return False
    is_same = _read(self._url) == found
    if is_same:
      buckets.write(self._url, self._content())
      note(f'{self._subject}: {_owner(found)} has ended; taking over its lock')
    buckets.remove(claim)
    return is_same

  def _content(self):
    return json.dumps(
      {
        'process': os.getpid(),
        'host': socket.gethostname(),
        'system': _system(),
        'token': self._token,
        'beat': time.monotonic(),
      }
    ).encode()

  def _beat(self):
    while not self._ended.wait(self._stale / _BEATS):
      try:
        found = _read(self._url)
        if _token(found) != self._token:
          self._lost = InUseError(
            f'{self._subject} was taken over by {_owner(found)}, because this '
            f'process was silent for more than {self._stale:g} s; '
            f'{self._remedy}'
          )
          return
        buckets.write(self._url, self._content())
      except OSError as error:
        self._lost = error
        return


def stale_seconds() -> float:
  """Returns the age of a lock whose owner has ended: 60, or VARIABLE.

  Raises:
    InputError: the variable is no number of at least 1.
  """
  return waiting.seconds_from(VARIABLE, _STALE, least=1, finite=True)


def _read(url: str) -> dict[str, Any] | None:
  try:
    found = json.loads(buckets.read(url))
  except FileNotFoundError:
    return None
  except ValueError:
    return {}
  return found if isinstance(found, dict) else {}


def _token(found):
  return (found or {}).get('token')


def _owner(found):
  if not found:
    return 'another process'
  return f'process {found.get("process")} on {found.get("host")}'


def _age_of(url):
  """Returns how many seconds ago an object was written, by the bucket's clock.

  Returns 0 if it does not exist any more.
  """
  clock = f'{url}.now-{uuid.uuid4().hex}'
  buckets.write(clock, b'')
  try:
    now, then = buckets.info(clock), buckets.info(url)
  finally:
    buckets.remove(clock)
  if now is None or then is None:
    return 0.0
  return (now['mtime'] - then['mtime']).total_seconds()


def _has_ended(found):
  """Returns whether the owner ran on this system and does not run any more."""
  if not found.get('system') or found['system'] != _system():
    return False
  try:
    os.kill(int(found['process']), 0)
  except ProcessLookupError:
    return True
  except (OSError, ValueError, TypeError, KeyError):
    return False
  return False


def _system():
  """Returns what identifies this boot and its numbering of processes.

  Containers number their processes on their own. Returns '' on systems that do
  not tell.
  """
  try:
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text()
    return f'{boot.strip()} {os.readlink("/proc/self/ns/pid")}'
  except OSError:
    return ''
