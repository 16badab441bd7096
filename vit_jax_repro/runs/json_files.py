"""JSON files that are either whole or not there."""

import json
import os
import tempfile

from vit_jax_repro.weights import atomic


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


def write(path, value):
  """Writes `value` as JSON; a reader sees the old file or the new one.

  Raises:
    OSError: the file cannot be written; what was there is unchanged.
    ValueError: the value holds a NaN or infinity, which JSON has not.
    TypeError: the value is not made of JSON's types.
  """
  write_text(path, json.dumps(value, indent=2, allow_nan=False) + '\n')


def write_text(path, text):
  """Writes a text file; a reader sees the old file or the new one.

  Raises:
    OSError: the file cannot be written; what was there is unchanged.
  """
  with atomic.replacing(path) as temporary:
    temporary.write_text(text, encoding='utf-8')


def _same_file(path, other):
  if os.path.realpath(path) == os.path.realpath(other):
    return True
  both_there = os.path.exists(path) and os.path.exists(other)
  return both_there and os.path.samefile(path, other)  # hard links


def _temporary(path):
  return f'{os.fspath(path)}.{os.getpid()}.tmp'
