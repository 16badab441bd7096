"""Files that are still coming: `PATH.part`, and of which file its bytes are.

`PATH.part.json` next to it has the address, the ETag or date, the size and the
hashes that the server declared, so that no other file continues a part.
"""

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files

# First bytes of a file by the end of its name: zip; the JSON header of
# safetensors after its length (the format's README); zip or pickle (PyTorch).
_STARTS = {
  '.npz': (0, (b'PK',)),
  '.safetensors': (8, (b'{',)),
  '.pth': (0, (b'PK', b'\x80')),
  '.bin': (0, (b'PK', b'\x80')),
}
_LONGEST_START = 64
_KEYS = {'url', 'etag', 'modified', 'size', 'hashes'}
# What readers of files advise, which who fetches them does anyway.
_ADVICE = '; download it again'


class WrongBytesError(InputError):
  """The bytes are not those of the file; they have been removed."""


class PartialFile:
  """The bytes that have come, and of which file they are (`known`)."""

  def __init__(self, path: str | os.PathLike):
    """Finds what an earlier attempt has left; `path`: of the whole file."""
    self.target = pathlib.Path(path)
    self.path = pathlib.Path(f'{os.fspath(path)}.part')
    self.notes = pathlib.Path(f'{self.path}.json')
    self.known: dict[str, Any] | None = None
    try:
      known = json.loads(self.notes.read_text('utf-8'))
    except (FileNotFoundError, ValueError):
      return
    if isinstance(known, dict) and known.keys() == _KEYS:
      self.known = known

  def size(self) -> int:
    """Returns bytes that have come."""
    return self.path.stat().st_size if self.path.exists() else 0

  def begin(self, known: dict[str, Any]) -> None:
    """Empties it for the file that `known` describes."""
    self.remove()
    with files.replacing(self.notes) as temporary:
      temporary.write_text(json.dumps(known), encoding='utf-8')
    self.known = known

  def remove(self) -> None:
    """Leaves nothing of it."""
    self.path.unlink(missing_ok=True)
    self.notes.unlink(missing_ok=True)
    self.known = None

  def finish(
    self,
    hashes: Iterable[str] = (),
    check: Callable[[pathlib.Path], Any] = lambda path: None,
  ) -> None:
    """Gives the whole file its name.

    Args:
      hashes: 'ALGORITHM:HEX' or the first digits, that it must have.
      check: called with the path of the bytes; a ValueError refuses them.

    Raises:
      WrongBytesError: they are refused, or not those of such a file.
    """
    try:
      for wanted in hashes:
        self._check_hash(wanted)
      self._check_start()
      check(self.path)
    except ValueError as error:
      self.remove()
      raise WrongBytesError(reason(error, self.path)) from None
    with open(self.path, 'rb') as file:
      os.fsync(file.fileno())
    os.replace(self.path, self.target)
    self.notes.unlink()

  def _check_hash(self, wanted):
    algorithm, _, digits = wanted.partition(':')
    found = files.file_hash(self.path, algorithm)
    if not found.startswith(digits):
      raise InputError(
        f'wrong bytes: their {algorithm} is {found}, not {digits}'
      )

  def _check_start(self):
    offset, starts = _STARTS.get(self.target.suffix, (0, ()))
    with open(self.path, 'rb') as file:
      start = file.read(_LONGEST_START)
    if start[offset:].startswith(starts or b''):
      return
    page = start.lstrip().startswith(b'<')
    what = 'an HTML or XML page' if page else f'bytes such as {start[:8]!r}'
    raise InputError(f'{what} instead of a {self.target.suffix} file')


def reason(error: ValueError, path: str | os.PathLike) -> str:
  """Returns what is wrong with a file, without its path or a remedy."""
  text = str(error).replace(f'{path}: ', '').replace(str(path), 'it')
  return text.removesuffix(_ADVICE)


@contextlib.contextmanager
def alone(path: str | os.PathLike) -> Iterator[None]:
  """Keeps other processes from bringing the same file; ends with this one.

  Raises:
    OSError: another one is at it, or its folder cannot be written to.
  """
  lock = f'{os.fspath(path)}.lock'
  with open(lock, 'w') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      # Whoever held it may have removed it since it was opened.
      is_it = os.path.samestat(os.fstat(file.fileno()), os.stat(lock))
    except (BlockingIOError, FileNotFoundError):
      is_it = False
    if not is_it:
      raise OSError(f'another process is bringing {path}; wait for it')
    try:
      yield
    finally:
      os.remove(lock)
