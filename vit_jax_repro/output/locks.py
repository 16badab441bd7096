"""One run at a time in a folder."""

import contextlib
import fcntl
import os
import socket


class Lock:
  """A file that one process has locked, in which it says who it is.

  The kernel frees it when the process ends, however it does.
  """

  def __init__(self, path: str | os.PathLike):
    """Takes the lock; goes on without on a file system that has none.

    Raises:
      OSError: another process has it, or the file cannot be written.
    """
    self._file = open(path, 'a+', encoding='utf-8')  # noqa: SIM115
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      owner = _read(self._file)
      self._file.close()
      raise OSError(
        f'{os.path.dirname(path)} is in use by {owner}; wait for it to end or '
        'choose another workdir'
      ) from None
    except OSError:
      return
    self._file.truncate(0)
    self._file.write(f'process {os.getpid()} on {socket.gethostname()}')
    self._file.flush()

  def release(self) -> None:
    """Lets others have it."""
    self._file.close()


def _read(file):
  with contextlib.suppress(OSError):
    file.seek(0)
    return file.read() or 'another process'
  return 'another process'
