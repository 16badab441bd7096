"""Locks: one process at a time uses a folder or writes a file."""

import contextlib
import os
import pathlib
import socket
from collections.abc import Generator


class InUseError(OSError):
  """Another process holds the lock."""


class Lock:
  """A lock file that one process at a time holds.

  The operating system releases the lock when the process ends, even if it is
  killed. The file contains the name of the process.
  """

  def __init__(self, path: str | os.PathLike, subject: str, remedy: str):
    """Takes the lock, or does without it on a file system that has no locks.

    Args:
      path: path of the lock file, created if it does not exist.
      subject: the locked folder or file, for the message.
      remedy: the end of the message.

    Raises:
      InUseError: another process holds the lock.
      OSError: the file cannot be written.
    """
    import filelock

    self._lock = None
    if filelock.FileLock is filelock.SoftFileLock:
      return  # no locks of the system; others would outlive a killed process
    with open(path, 'a', encoding='utf-8'):
      pass  # filelock alone would also make missing folders
    self._lock = filelock.FileLock(
      path, thread_local=False, fallback_to_soft=False
    )
    try:
      self._lock.acquire(timeout=0)
    except filelock.Timeout:
      raise InUseError(
        f'{subject} is in use by {_owner(path)}; {remedy}'
      ) from None
    except OSError:
      return
    with contextlib.suppress(OSError):  # Windows lets no one write it
      pathlib.Path(path).write_text(
        f'process {os.getpid()} on {socket.gethostname()}', encoding='utf-8'
      )

  def release(self) -> None:
    """Releases the lock."""
    if self._lock is not None:
      self._lock.release()


@contextlib.contextmanager
def locked(
  path: str | os.PathLike, subject: str, remedy: str
) -> Generator[None]:
  """Holds a `Lock` inside the block, and removes its file afterwards."""
  lock = Lock(path, subject, remedy)
  try:
    yield
  finally:
    with contextlib.suppress(OSError):  # on Windows, the release removes it
      os.remove(path)
    lock.release()


def _owner(path):
  with contextlib.suppress(OSError):
    return pathlib.Path(path).read_text(encoding='utf-8') or 'another process'
  return 'another process'
