"""JSON files that are either whole or not there."""

import contextlib
import json
import os


def check_writable(path):
  """Raises a one-line OSError if a file cannot be written at `path`.

  To be asked before the work whose result the file shall hold.
  """
  path = os.fspath(path)
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


def write(path, value):
  """Writes `value` as JSON; a reader sees the old file or the new one.

  Raises:
    OSError: the file cannot be written; what was there is unchanged.
    ValueError: the value holds a NaN or infinity, which JSON has not.
    TypeError: the value is not made of JSON's types.
  """
  text = json.dumps(value, indent=2, allow_nan=False) + '\n'
  temporary = _temporary(path)
  try:
    with open(temporary, 'w', encoding='utf-8') as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    with contextlib.suppress(OSError):
      os.remove(temporary)
    raise


def _temporary(path):
  return f'{os.fspath(path)}.{os.getpid()}.tmp'
