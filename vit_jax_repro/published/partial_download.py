"""Partial downloads: `PATH.part`, and `PATH.part.json` to identify the file.

The JSON file has the address, the ETag or date, the size and the hashes that
the server declared. So a part is never continued with bytes of another file.
"""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, locks

# By suffix, the offset and the possible values of the first bytes: zip;
# safetensors' JSON header, which follows its length (the format's README); zip
# or pickle (PyTorch).
_STARTS = {
  '.npz': (0, (b'PK',)),
  '.safetensors': (8, (b'{',)),
  '.pth': (0, (b'PK', b'\x80')),
  '.bin': (0, (b'PK', b'\x80')),
}
_LONGEST_START = 64
_KEYS = {'url', 'etag', 'modified', 'size', 'hashes'}
# Remedy in the messages of the file readers; pointless for a file that has just
# been downloaded.
_ADVICE = '; download it again'


class WrongBytesError(InputError):
  """The downloaded bytes are not the expected file; they have been removed."""


class PartialFile:
  """A partial download.

  Attributes:
    target: path of the complete file.
    path: path of the bytes downloaded so far.
    notes: path of the JSON file that describes the complete file.
    known: contents of `notes`; None if no download has begun.
  """

  def __init__(self, path: str | os.PathLike):
    """Finds the part that an earlier attempt has left.

    Args:
      path: path of the complete file.
    """
    self.target = pathlib.Path(path)
    self.path = pathlib.Path(f'{os.fspath(path)}.part')
    self.notes = pathlib.Path(f'{self.path}.json')
    self.known: dict[str, Any] | None = None
    try:
      known = files.read_json(self.notes, 'description of a download')
    except (FileNotFoundError, InputError):
      return
    if known.keys() == _KEYS:
      self.known = known

  def size(self) -> int:
    """Returns the number of bytes downloaded so far."""
    return self.path.stat().st_size if self.path.exists() else 0

  def begin(self, known: dict[str, Any]) -> None:
    """Removes the part and records `known`, the description of the new file."""
    self.remove()
    files.write_json(self.notes, known)
    self.known = known

  def remove(self) -> None:
    """Removes the part and its JSON file."""
    self.path.unlink(missing_ok=True)
    self.notes.unlink(missing_ok=True)
    self.known = None

  def finish(
    self,
    hashes: Iterable[str] = (),
    check: Callable[[pathlib.Path], Any] = lambda path: None,
  ) -> None:
    """Checks the complete file and gives it its name.

    Args:
      hashes: 'ALGORITHM:HEX' (or the first digits) that the file must have.
      check: called with the path of the bytes; a ValueError rejects them.

    Raises:
      WrongBytesError: a hash or the first bytes are wrong, or `check` rejected
        the file.
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
  """Returns the message of an error, without the file's path and remedy."""
  text = str(error).replace(f'{path}: ', '').replace(str(path), 'it')
  return text.removesuffix(_ADVICE)


def alone(path: str | os.PathLike) -> contextlib.AbstractContextManager[None]:
  """Locks a path inside the block, so that one process at a time downloads it.

  Raises:
    OSError: another process holds the lock, or the folder is not writable.
  """
  path = os.fspath(path)
  return locks.locked(
    f'{path}.lock', path, 'wait until it has finished the download'
  )
