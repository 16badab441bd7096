"""A file that is replaced when the new one is complete, and not before."""

import contextlib
import hashlib
import json
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


def check_writable(path, keep=()):
  """Raises a one-line OSError if a file cannot be written at `path`.

  To be asked before the work whose result the file shall hold.

  Args:
    path: where the file shall be.
    keep: paths of files that must not be replaced, such as the job's inputs;
      they may be missing. Links to them are refused too.

  Raises:
    OSError: the file cannot be written, or would replace one of `keep`.
  """
  path = os.fspath(path)
  for other in map(os.fspath, keep):
    if _same_file(path, other):
      raise OSError(
        f'cannot write {path!r}: it would replace {other!r}, which is read; '
        'give another file name'
      )
  folder = os.path.dirname(path) or '.'
  if not path or os.path.isdir(path):
    raise OSError(f'cannot write {path!r}: it is a folder, not a file')
  if not os.path.isdir(folder):
    raise OSError(f'cannot write {path!r}: there is no folder {folder!r}')
  probe = _temporary(path)
  try:
    with open(probe, 'x'):
      pass
    os.remove(probe)
  except OSError as error:
    raise OSError(f'cannot write {path!r}: {error.strerror}') from error


def check_folder(path):
  """Raises a one-line OSError if a folder cannot be made or written in.

  Nothing is left: a folder that is not there is not made.
  """
  above = os.path.abspath(path)
  while not os.path.lexists(above):
    above = os.path.dirname(above)
  try:
    with tempfile.TemporaryFile(dir=above):
      pass
  except OSError as error:
    raise OSError(
      f'cannot write in {os.fspath(path)!r}: {above!r}: {error.strerror}'
    ) from error


def write_json(path, value):
  """Writes `value` as JSON; a reader sees the old file or the new one.

  Raises:
    OSError: the file cannot be written; what was there is unchanged.
    InputError: the value holds a NaN or infinity, which JSON has not.
    TypeError: the value is not made of JSON's types.
  """
  write_text(path, json.dumps(value, indent=2, allow_nan=False) + '\n')


def write_text(path, text):
  """Writes a text file; a reader sees the old file or the new one.

  Raises:
    OSError: the file cannot be written; what was there is unchanged.
  """
  with replacing(path) as temporary:
    temporary.write_text(text, encoding='utf-8')


def _same_file(path, other):
  if os.path.realpath(path) == os.path.realpath(other):
    return True
  both_there = os.path.exists(path) and os.path.exists(other)
  return both_there and os.path.samefile(path, other)  # hard links


def _temporary(path):
  return f'{os.fspath(path)}.{os.getpid()}.tmp'


def file_hash(path: str | os.PathLike, algorithm: str = 'sha256') -> str:
  """Returns the hash of a file's bytes, in small hexadecimal digits."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, algorithm).hexdigest()
