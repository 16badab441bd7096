"""A file that is replaced when the new one is complete, and not before."""

import contextlib
import os
import pathlib
import stat
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Gives a temporary path that takes the place of `path` on success.

  A symbolic link is written through; permissions of a replaced file stay.

  Raises:
    OSError: the folder is missing or not writable, or the disk is full.
  """
  path = pathlib.Path(os.path.realpath(path))  # write through symbolic links
  if path.is_dir():
    raise IsADirectoryError(f'{path} is a directory; give a file name')
  if not path.parent.is_dir():
    raise FileNotFoundError(
      f'folder {path.parent} does not exist; make it before writing {path.name}'
    )
  handle, name = tempfile.mkstemp(
    prefix=f'.{path.name}.', suffix='.tmp', dir=path.parent
  )
  os.close(handle)
  temporary = pathlib.Path(name)
  try:
    yield temporary
    temporary.chmod(_mode(path))  # mkstemp makes files for the owner alone
    with open(temporary, 'rb') as file:
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def _mode(path):
  """Permissions for a file at `path`: those of the one there, or new ones."""
  if path.exists():
    return stat.S_IMODE(path.stat().st_mode)
  mask = os.umask(0)
  os.umask(mask)
  return 0o666 & ~mask
