"""Files: atomic writing, JSON objects, checks before a job, hashes."""

import contextlib
import errno
import hashlib
import json
import math
import os
import pathlib
import re
import stat
import tempfile
from collections.abc import Generator, Iterable
from typing import Any

from vit_jax_repro.errors import InputError

# A card with the names of 22,000 classes has 1 MB. Python's objects take thirty
# times the bytes of the text at most.
MOST_JSON_BYTES = 2**25
# What /dev/null is: a file that takes its place would harm the whole system.
_SPECIAL = 'a device or a pipe, not a file'


# What a full disk answers, without the name of the file.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def naming_full_disk(path: str | os.PathLike) -> Generator[None]:
  """Names the file that the block writes in the error of a full disk.

  Raises:
    OSError: the disk is full.
  """
  try:
    yield
  except OSError as error:
    if error.errno not in _FULL:
      raise
    raise OSError(
      f'cannot write {os.fspath(path)}: {error.strerror}; make room on its '
      'disk, and give the same command again'
    ) from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Generator[pathlib.Path]:
  """Yields a temporary path that replaces `path` if the block succeeds.

  A symbolic link is written through. The permissions of a replaced file stay.

  Raises:
    OSError: the folder is missing or not writable, or the disk is full.
  """
  path = pathlib.Path(os.path.realpath(path))  # write through symbolic links
  if path.is_dir():
    raise IsADirectoryError(f'{path} is a directory; give a file name')
  if is_special(path):
    raise OSError(f'{path} is {_SPECIAL}; give a file name')
  if not path.parent.is_dir():
    raise FileNotFoundError(
      f'folder {path.parent} does not exist; make it before writing {path.name}'
    )
  with naming_full_disk(path):
    temporary = _temporary(path)
    try:
      yield temporary
      temporary.chmod(_mode(path))  # mkstemp makes files for the owner alone
      with open(temporary, 'rb') as file:
        os.fsync(file.fileno())
      os.replace(temporary, path)
    finally:
      temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes a text file; a reader sees the old file or the new one.

  Raises:
    OSError: the file cannot be written; an old file is unchanged.
  """
  with replacing(path) as temporary:
    temporary.write_text(text, encoding='utf-8')


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes a value as JSON; a reader sees the old file or the new one.

  Raises:
    OSError: the file cannot be written; an old file is unchanged.
    ValueError: the value contains a NaN or infinity, which JSON lacks.
    TypeError: the value contains other types than those of JSON.
  """
  write_text(path, json.dumps(value, indent=2, allow_nan=False) + '\n')


def read_json(
  path: str | os.PathLike, what: str, remedy: str = '', *, finite: bool = False
) -> dict[str, Any]:
  """Reads the JSON object in a file.

  Args:
    path, what, remedy, finite: see `json_object`.

  Raises:
    InputError, OSError: see `json_object`; FileNotFoundError without the file.
  """
  content = _json_bytes(path)
  return json_object(content, os.fspath(path), what, remedy, finite=finite)


def read_any_json(path: str | os.PathLike) -> Any:
  """Reads the JSON value in a file that may be hostile.

  Args:
    path: a path, also an epath.Path in a bucket.

  Raises:
    ValueError: see `parse_json`.
    OSError: the file cannot be read.
  """
  return parse_json(_json_bytes(path))


def _json_bytes(path):
  """Reads a file, up to the size above which `parse_json` refuses it."""
  # Paths open themselves: `open` would take one in a bucket for a local file.
  if not isinstance(path, pathlib.PurePath):
    path = pathlib.Path(path)
  with path.open('rb') as file:
    return file.read(MOST_JSON_BYTES + 1)


def parse_json(content: bytes, *, finite: bool = False) -> Any:
  """Returns the JSON value in bytes that may be hostile.

  Args:
    content: the bytes.
    finite: whether every number must be one that a float64 holds.

  Raises:
    ValueError: they are not valid JSON in UTF-8, are nested too deep, hold half
      of a surrogate pair, are more than MOST_JSON_BYTES, or, with `finite`,
      hold another number; one line.
  """
  if len(content) > MOST_JSON_BYTES:
    raise ValueError(f'over {MOST_JSON_BYTES:,} bytes')
  try:
    hooks: dict[str, Any] = {}
    if finite:
      hooks = dict(
        parse_constant=_finite(float),
        parse_float=_finite(float),
        parse_int=_finite(int),
      )
    value = json.loads(content.decode(), **hooks)
    if re.search(rb'\\u[dD]', content):
      # Surrogates that stand for the bytes of a file's name are allowed.
      json.dumps(value, ensure_ascii=False).encode(errors='surrogateescape')
  except RecursionError:
    raise ValueError('nested too deep') from None
  except UnicodeEncodeError as error:
    half = ascii(error.object[error.start])
    raise ValueError(f'it holds {half}, half of a character') from None
  return value


def _finite(read):
  """Returns a reader of numbers that refuses those no float64 holds."""

  def number(text):
    value = read(text)
    with contextlib.suppress(OverflowError):
      if math.isfinite(value):
        return value
    shown = text if len(text) <= 20 else f'{text[:20]}...'
    raise ValueError(f'it holds {shown}, no finite float64')

  return number


def json_object(
  content: bytes,
  path: str,
  what: str,
  remedy: str = '',
  *,
  finite: bool = False,
) -> dict[str, Any]:
  """Returns the JSON object in the bytes of a file.

  Args:
    content: the bytes, text in UTF-8.
    path: path or address of the file, for the message.
    what: the expected kind of file, such as 'result', for the message.
    remedy: the end of the message.
    finite: see `parse_json`; True for files that this package writes.

  Raises:
    InputError: it is not valid JSON or holds another value; one line.
  """
  try:
    value = parse_json(content, finite=finite)
  except ValueError as error:  # also other text than UTF-8
    problem = f'it is not valid JSON ({error})'
  else:
    if isinstance(value, dict):
      return value
    problem = f'it is a {type(value).__name__}, not an object'
  end = f'; {remedy}' if remedy else ''
  raise InputError(f'{path} is no {what}: {problem}{end}')


def check_writable(
  path: str | os.PathLike, keep: Iterable[str | os.PathLike[str]] = ()
) -> None:
  """Raises a one-line OSError if a file cannot be written at `path`.

  Call this before the work whose result the file will hold.

  Args:
    path: path of the file.
    keep: paths of files that must not be replaced, such as the job's inputs;
      they may be missing. Links to them are refused too.

  Raises:
    OSError: the file cannot be written, or would replace one of `keep`.
  """
  path = os.fspath(path)
  for other in [os.fspath(each) for each in keep]:
    if _same_file(path, other):
      raise OSError(
        f'cannot write {path!r}: it would replace {other!r}, which is read or '
        'written, too; give another file name'
      )
  folder = os.path.dirname(path) or '.'
  if not path or os.path.isdir(path):
    raise OSError(f'cannot write {path!r}: it is a folder, not a file')
  if is_special(path):
    raise OSError(f'cannot write {path!r}: it is {_SPECIAL}; give a file name')
  if not os.path.isdir(folder):
    raise OSError(f'cannot write {path!r}: there is no folder {folder!r}')
  try:
    _temporary(pathlib.Path(path)).unlink()
  except OSError as error:
    raise OSError(f'cannot write {path!r}: {error.strerror}') from error


def check_folder(path: str | os.PathLike) -> None:
  """Raises a one-line OSError if a folder cannot be made or written in.

  Nothing remains on the disk; a missing folder is not made.
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


def is_special(path: str | os.PathLike) -> bool:
  """Returns whether there is a device, pipe or socket at a path."""
  try:
    mode = os.stat(path).st_mode
  except OSError:
    return False
  return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def file_hash(path: str | os.PathLike, algorithm: str = 'sha256') -> str:
  """Returns the hash of a file's bytes in lower-case hexadecimal digits."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, algorithm).hexdigest()


def _temporary(path):
  """Creates an empty file .NAME.*.tmp in the folder of `path`."""
  handle, name = tempfile.mkstemp(
    prefix=f'.{path.name}.', suffix='.tmp', dir=path.parent
  )
  os.close(handle)
  return pathlib.Path(name)


def _mode(path):
  """Returns the permissions of an existing file, or those of a new file."""
  if path.exists():
    return stat.S_IMODE(path.stat().st_mode)
  mask = os.umask(0)
  os.umask(mask)
  return 0o666 & ~mask


def _same_file(path, other):
  if os.path.realpath(path) == os.path.realpath(other):
    return True
  both_exist = os.path.exists(path) and os.path.exists(other)
  return both_exist and os.path.samefile(path, other)  # hard links


def cache_folder(*parts: str) -> pathlib.Path:
  """Returns a folder for files that can be made again.

  It is below VIT_JAX_REPRO_CACHE, or ~/.cache/vit_jax_repro (XDG_CACHE_HOME
  replaces ~/.cache). It may not exist yet.

  Args:
    parts: names of folders below it.
  """
  own = os.environ.get('VIT_JAX_REPRO_CACHE')
  if own:
    return pathlib.Path(own).expanduser().joinpath(*parts)
  root = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return pathlib.Path(root).expanduser().joinpath('vit_jax_repro', *parts)
