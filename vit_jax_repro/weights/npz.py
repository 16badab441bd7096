"""Reads and writes .npz files array by array, and trusts nothing in them.

`read` yields one array at a time, so memory holds the requested arrays and no
second copy of the file. Each header is checked against the sizes in the archive
before memory is allocated. Pickles are never opened.
"""

import contextlib
import errno
import lzma
import math
import os
import pathlib
import re
import struct
import tokenize
import types
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, locations, messages

BFLOAT16 = np.dtype(jnp.bfloat16)

# Random weights hardly compress. A file that unpacks to over a hundred times
# its size (and to over 512 MiB) is not a model.
MAX_EXPANSION = 100
ALWAYS_ALLOWED_BYTES = 2**29
# Of the list of an archive's members: 70,000 of them or more.
MOST_LISTING_BYTES = 2**23
# The longest header that numpy itself reads, and more dimensions than any
# weight has (scanned attention has 4).
MAX_HEADER_BYTES = 10_000
MAX_DIMENSIONS = 8
_ALIGNMENT = 64  # bytes; JAX copies arrays to a CPU that are not aligned so

# Exceptions of zipfile, its decompressors and numpy's header reader for invalid
# bytes. NotImplementedError and RecursionError are RuntimeErrors.
_INVALID_BYTES_ERRORS = (
  zipfile.BadZipFile,
  zlib.error,
  lzma.LZMAError,
  struct.error,
  tokenize.TokenError,
  EOFError,
  LookupError,
  MemoryError,
  OverflowError,
  RuntimeError,
  SyntaxError,
  TypeError,
  ValueError,
)

# First bytes of other files that users name like a weights file.
_KNOWN_STARTS = (
  (b'\x80', 'a pickle (a PyTorch or Python object file), not an .npz archive'),
  (b'\x93NUMPY', 'a single .npy array, not an .npz archive'),
  (b'\x89HDF', 'an HDF5 file, not an .npz archive'),
  (b'version https://git-lfs', 'a Git LFS pointer, not the file it points to'),
)
# Files of `exporting`, which other programs run.
EXPORTS = ('.onnx', '.stablehlo')
_AGAIN = 'download it again'
_ANOTHER = 'give the .npz file of the model'


class BadFileError(InputError):
  """Raised for a damaged file, or one that is not an .npz archive."""


def read_names(path: str | os.PathLike) -> list[str]:
  """Returns the names of an .npz file's arrays in file order.

  Raises:
    FileNotFoundError, InputError: as `read`.
  """
  with _opened(local(path)) as archive:
    return [_name(member) for member in archive.infolist()]


def read(
  path: str | os.PathLike, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields (name, array) for each wanted array of an .npz file in file order.

  Arrays keep their stored shape and dtype. Only two-byte void arrays (`V2`, in
  which numpy stores bfloat16, as in big_vision's files) become bfloat16.

  Args:
    path: an .npz file on this machine, compressed or not.
    wanted: returns whether to read the array of a name; others are not read.

  Raises:
    FileNotFoundError: the file does not exist.
    InputError: the file is not an .npz archive, an array is damaged, or a
      header is impossible; one line with the reason.
  """
  path = local(path)
  with _opened(path) as archive:
    members = archive.infolist()
    check_expansion(path, members)
    for member in members:
      name = _name(member)
      if wanted(name):
        yield name, _read_member(path, archive, member, name)


def write(
  path: str | os.PathLike, arrays: Iterable[tuple[str, np.ndarray]]
) -> None:
  """Writes (name, array) pairs as an uncompressed .npz, atomically.

  The file gets its name only when it is complete. If anything fails, the
  previous file is kept. A symbolic link stays a link, now to the new file, and
  the new file has the permissions of the replaced one.

  Raises:
    OSError: the folder is missing or not writable, or the disk is full.
  """
  with (
    files.replacing(path) as temporary,
    zipfile.ZipFile(temporary, 'w', zipfile.ZIP_STORED) as archive,
  ):
    for name, array in arrays:
      with archive.open(f'{name}.npy', 'w', force_zip64=True) as file:
        _write_array(file, array)


def widened(array: np.ndarray) -> np.ndarray:
  """Returns a bfloat16 array as float32, which is exact; others unchanged.

  numpy has no bfloat16: where a file stores it, other programs find raw bytes.
  """
  return array.astype(np.float32) if array.dtype == BFLOAT16 else array


def _name(member):
  return member.filename.removesuffix('.npy')


@contextlib.contextmanager
def _converting_errors(message):
  """Converts exceptions of other libraries for invalid bytes to BadFileError.

  Disk and permission errors pass unchanged.
  """
  try:
    yield
  except BadFileError:
    raise
  except OSError as error:
    # EINVAL: a seek to before the file. No number: an error of the bz2 module.
    if error.errno not in (None, errno.EINVAL):
      raise
    raise BadFileError(f'{message} ({_reason(error)}); {_AGAIN}') from None
  except _INVALID_BYTES_ERRORS as error:
    raise BadFileError(f'{message} ({_reason(error)}); {_AGAIN}') from None


def _reason(error):
  """Returns the error's message without quotations of the file's bytes."""
  if isinstance(error, EOFError):
    return 'truncated'
  text = str(error.args[0] if error.args else error)
  text = re.sub(r"""b?(['"]).*\1|<.*>""", '...', text, flags=re.DOTALL)
  return messages.short(text) or type(error).__name__


def local(path: str | os.PathLike) -> pathlib.Path:
  """Returns a path on this machine; raises an InputError for an address."""
  if locations.is_address(path):
    raise InputError(
      f'{path} is an address, not a file; get the file first: '
      f'python -m vit_jax_repro.fetch {path}'
    )
  return pathlib.Path(path)


@contextlib.contextmanager
def _opened(path):
  if path.is_dir():
    raise InputError(f'{path} is a directory; give an .npz file in it')
  if not path.exists():
    raise FileNotFoundError(f'no weights file {path}; check the path')
  if files.is_special(path):
    raise InputError(f'{path} is a device or pipe; give an .npz file')
  with open(path, 'rb') as file:
    with _converting_errors(f'{path} is a damaged .npz archive'):
      if not zipfile.is_zipfile(file):
        raise BadFileError(f'{path} is {_what_is(path)}')
      archive = open_archive(file)
    with archive:
      yield archive


def _what_is(path):
  """Returns a guess at the kind of a file that is no zip archive."""
  size = path.stat().st_size
  with open(path, 'rb') as file:
    start = file.read(512)
  if not size:
    return f'empty (0 bytes); {_AGAIN}'
  for known, kind in _KNOWN_STARTS:
    if start.startswith(known):
      return f'{kind}; {_ANOTHER}'
  if start.lstrip().startswith(b'<'):
    return (
      f'an HTML or XML page ({size} bytes), not an .npz archive: the server '
      f'answered with a page instead of the file; {_AGAIN}'
    )
  if start.startswith(b'PK'):
    return (
      f'a truncated .npz archive ({size} bytes, its end is missing); {_AGAIN}'
    )
  return f'not an .npz archive (starts with {start[:8]!r}); {_AGAIN}'


class _FewMembers:
  """A file whose list of members zipfile reads only if it is not too long."""

  def __init__(self, file: Any):
    self._file = file
    self.most: int | None = MOST_LISTING_BYTES

  def read(self, size: int = -1) -> bytes:
    if self.most is not None and size > self.most:
      raise ValueError(f'a list of members of {size:,} bytes')
    return self._file.read(size)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._file, name)


def open_archive(file: Any) -> zipfile.ZipFile:
  """Opens a zip archive, whose list of members must not be too long.

  Args:
    file: opened for reading in binary mode.

  Raises:
    ValueError: the list has more than MOST_LISTING_BYTES.
    zipfile.BadZipFile, or another exception of zipfile: it is damaged.
  """
  guarded: Any = _FewMembers(file)
  archive = zipfile.ZipFile(guarded)
  guarded.most = None
  return archive


def check_expansion(
  path: pathlib.Path, members: Iterable[zipfile.ZipInfo]
) -> None:
  """Refuses an archive that claims to unpack to far more than a model.

  Args:
    path: of the archive.
    members: of the archive.

  Raises:
    InputError: it is such an archive.
  """
  total = sum(member.file_size for member in members)
  check_claim(path, total, path.stat().st_size)


def check_claim(path: pathlib.Path, claimed: int, stored: int) -> None:
  """Refuses weights that claim far more bytes than are stored.

  Args:
    path: of the weights, for the message.
    claimed: bytes of the arrays.
    stored: bytes on the disk.

  Raises:
    InputError: they do.
  """
  if claimed > max(ALWAYS_ALLOWED_BYTES, MAX_EXPANSION * stored):
    raise InputError(
      f'{path} claims to unpack to {claimed} bytes, over {MAX_EXPANSION} times '
      f'its size; no weights file does, so it is refused; {_AGAIN}'
    )


def _read_member(path, archive, member, name):
  subject = f'{path}: array {messages.quoted(name)}'
  with _converting_errors(f'{subject} is damaged'):
    file = archive.open(member)
  with file:
    shape, fortran_order, dtype = _read_header(file, subject)
    _check_dtype(subject, dtype)
    stored = member.file_size - file.tell()
    array = _aligned(_check_size(subject, shape, dtype, stored), dtype)
    with _converting_errors(f'{subject} is damaged'):
      _fill(file, array)
      if file.read(1):  # also makes zipfile compare the checksum
        raise InputError('more data than its header declares')
      if dtype == np.dtype('V2'):
        array = array.view(BFLOAT16)
      if fortran_order:
        return array.reshape(shape[::-1]).transpose()
      return array.reshape(shape)


def _read_header(file, subject):
  """Reads (shape, whether in Fortran order, dtype) with numpy."""

  def read(size):
    if size > MAX_HEADER_BYTES:
      raise InputError(f'a header of {size} bytes')
    with _converting_errors(f'{subject} is damaged'):
      return file.read(size)

  stream: Any = types.SimpleNamespace(read=read)
  with (
    _converting_errors(f'{subject} is not a NumPy array'),
    warnings.catch_warnings(),
  ):
    warnings.simplefilter('ignore')  # numpy 1 headers written by Python 2
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
      return np.lib.format.read_array_header_1_0(stream)
    return np.lib.format.read_array_header_2_0(stream)


def _check_dtype(subject, dtype):
  if dtype.hasobject:
    raise InputError(
      f'{subject} holds pickled Python objects, which could run any code and '
      'are refused; weights files hold plain numbers'
    )
  if dtype.kind not in 'biuf' and dtype != np.dtype('V2'):
    raise InputError(
      f'{subject} holds {messages.short(dtype)}, but weights are numbers; '
      'check that this is a weights file'
    )


def _check_size(subject, shape, dtype, stored):
  """Returns the number of elements; checks their size against `stored`."""
  if len(shape) > MAX_DIMENSIONS or not all(
    type(side) is int and side >= 0 for side in shape
  ):
    raise InputError(
      f'{subject} declares shape {messages.short(shape)}, which must be at '
      f'most {MAX_DIMENSIONS} non-negative integers; {_AGAIN}'
    )
  count = math.prod(shape)
  if count * dtype.itemsize != stored:
    raise InputError(
      f'{subject} declares shape {messages.short(shape)} of {dtype}, '
      f'{messages.short(count * dtype.itemsize)} bytes, but {stored} are '
      f'stored; {_AGAIN}'
    )
  return count


def _aligned(size, dtype):
  """Returns an empty array that CPU devices can use without a copy."""
  whole = np.empty(size * dtype.itemsize + _ALIGNMENT, np.uint8)
  first = -whole.ctypes.data % _ALIGNMENT
  return whole[first : first + size * dtype.itemsize].view(dtype)


def _fill(file, array):
  """Reads directly into the array's memory, 4 MiB at a time."""
  view = memoryview(array.view(np.uint8)) if array.nbytes else memoryview(b'')
  position = 0
  while position < len(view):
    got = file.readinto(view[position : position + 2**22])
    if not got:
      raise EOFError
    position += got


def _write_array(file, array):
  array = np.asarray(array)
  if array.dtype == BFLOAT16:
    array = array.view('V2')  # numpy cannot store bfloat16; `read` undoes this
  if array.dtype.hasobject:
    raise TypeError(f'cannot store Python objects of dtype {array.dtype}')
  array = np.asarray(array, order='C')
  header = np.lib.format.header_data_from_array_1_0(array)
  np.lib.format.write_array_header_1_0(file, header)
  if array.size:
    file.write(array.reshape(-1).view(np.uint8).data)
