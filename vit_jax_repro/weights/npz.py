"""Reading and writing .npz files array by array, trusting nothing in them.

`read` hands out one array at a time, so that memory holds the arrays that
were asked for and no second copy of the file. Every header is checked against
the archive's own sizes before memory is taken, and no pickle is ever opened.
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

import jax.numpy as jnp
import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, messages

BFLOAT16 = np.dtype(jnp.bfloat16)

# Random weights hardly compress; a file that unpacks to over a hundred times
# its size (and to over 1 GiB) holds no model.
MAX_EXPANSION = 100
ALWAYS_ALLOWED_BYTES = 2**30
# The longest header that numpy itself reads, and more dimensions than any
# weight has (those of scanned attention have 4).
MAX_HEADER_BYTES = 10_000
MAX_DIMENSIONS = 8

# What zipfile, its decompressors and numpy's header reader raise for bytes
# that make no sense. NotImplementedError and RecursionError are RuntimeErrors.
_NONSENSE = (
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

# First bytes of what people save under the name of a weights file.
_KNOWN_STARTS = (
  (b'\x80', 'a pickle (a PyTorch or Python object file), not an .npz archive'),
  (b'\x93NUMPY', 'a single .npy array, not an .npz archive'),
  (b'\x89HDF', 'an HDF5 file, not an .npz archive'),
  (b'version https://git-lfs', 'a Git LFS pointer, not the file it points to'),
)
_AGAIN = 'download it again'
_ANOTHER = 'give the .npz file of the model'


class BadFileError(InputError):
  """A file is damaged, or something else than an .npz archive."""


def read_names(path: str | os.PathLike) -> list[str]:
  """The names of an .npz file's arrays, in file order; raises as `read`."""
  with _opened(_local(path)) as archive:
    return [_name(member) for member in archive.infolist()]


def read(
  path: str | os.PathLike, wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields (name, array) for every wanted array of an .npz file, in file order.

  Arrays keep their stored shape and dtype; two-byte void arrays (`V2`, what
  numpy makes of bfloat16, as in big_vision's files) come back as bfloat16.

  Args:
    path: an .npz file on this machine, compressed or not.
    wanted: which names to read; the others are not touched.

  Raises:
    FileNotFoundError: there is no such file.
    InputError: one line saying what the file is instead of an .npz, which
      array is damaged, or which header is impossible.
  """
  path = _local(path)
  with _opened(path) as archive:
    members = archive.infolist()
    _check_expansion(path, members)
    for member in members:
      name = _name(member)
      if wanted(name):
        yield name, _read_member(path, archive, member, name)


def write(
  path: str | os.PathLike, arrays: Iterable[tuple[str, np.ndarray]]
) -> None:
  """Writes (name, array) pairs as an uncompressed .npz, atomically.

  The file appears under its name only when it is complete; if anything fails,
  what was there before stays. A symbolic link stays one, to the new file; the
  new file has the permissions of the one it replaces.

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


def _name(member):
  return member.filename.removesuffix('.npy')


@contextlib.contextmanager
def _nonsense_is(says):
  """Turns what foreign code raises for senseless bytes into one ValueError.

  Errors of the disk and of permissions pass.
  """
  try:
    yield
  except BadFileError:
    raise
  except OSError as error:
    # EINVAL: a seek to before the file; without a number: the bz2 module.
    if error.errno not in (None, errno.EINVAL):
      raise
    raise BadFileError(f'{says} ({_reason(error)}); {_AGAIN}') from None
  except _NONSENSE as error:
    raise BadFileError(f'{says} ({_reason(error)}); {_AGAIN}') from None


def _reason(error):
  """The error's words, without the bytes of the file that it may quote."""
  if isinstance(error, EOFError):
    return 'truncated'
  text = str(error.args[0] if error.args else error)
  text = re.sub(r"""b?(['"]).*\1|<.*>""", '...', text, flags=re.DOTALL)
  return messages.short(text) or type(error).__name__


def _local(path):
  if '://' in os.fspath(path):
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
  if not path.is_file():
    raise InputError(f'{path} is no regular file; give an .npz file')
  with open(path, 'rb') as file:
    with _nonsense_is(f'{path} is a damaged .npz archive'):
      if not zipfile.is_zipfile(file):
        raise BadFileError(f'{path} is {_what_is(path)}')
      archive = zipfile.ZipFile(file)
    with archive:
      yield archive


def _what_is(path):
  """Says in a few words what a file that is no zip archive may be."""
  size = path.stat().st_size
  with open(path, 'rb') as file:
    start = file.read(512)
  if not size:
    return f'empty (0 bytes); {_AGAIN}'
  for known, answer in _KNOWN_STARTS:
    if start.startswith(known):
      return f'{answer}; {_ANOTHER}'
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


def _check_expansion(path, members):
  total = sum(member.file_size for member in members)
  limit = max(ALWAYS_ALLOWED_BYTES, MAX_EXPANSION * path.stat().st_size)
  if total > limit:
    raise InputError(
      f'{path} claims to unpack to {total} bytes, over {MAX_EXPANSION} times '
      f'its size; no weights file does, so it is refused; {_AGAIN}'
    )


def _read_member(path, archive, member, name):
  subject = f'{path}: array {messages.quoted(name)}'
  with _nonsense_is(f'{subject} is damaged'):
    file = archive.open(member)
  with file:
    shape, fortran_order, dtype = _read_header(file, subject)
    _check_dtype(subject, dtype)
    stored = member.file_size - file.tell()
    array = np.empty(_check_size(subject, shape, dtype, stored), dtype)
    with _nonsense_is(f'{subject} is damaged'):
      _fill(file, array)
      if file.read(1):  # also makes zipfile compare the checksum
        raise InputError('more data than its header says')
      if dtype == np.dtype('V2'):
        array = array.view(BFLOAT16)
      if fortran_order:
        return array.reshape(shape[::-1]).transpose()
      return array.reshape(shape)


def _read_header(file, subject):
  """(shape, whether in Fortran order, dtype) as numpy reads them."""

  def read(size):
    if size > MAX_HEADER_BYTES:
      raise InputError(f'a header of {size} bytes')
    with _nonsense_is(f'{subject} is damaged'):
      return file.read(size)

  stream = types.SimpleNamespace(read=read)
  with (
    _nonsense_is(f'{subject} is not a NumPy array'),
    warnings.catch_warnings(),
  ):
    warnings.simplefilter('ignore')  # numpy 1 files in Python 2 spelling
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
  """The number of elements; their bytes must be just those that are stored."""
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


def _fill(file, array):
  """Reads straight into the array's memory, a piece at a time."""
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
    array = array.view('V2')  # what numpy can store, and what `read` undoes
  if array.dtype.hasobject:
    raise TypeError(f'cannot store Python objects of dtype {array.dtype}')
  array = np.asarray(array, order='C')
  header = np.lib.format.header_data_from_array_1_0(array)
  np.lib.format.write_array_header_1_0(file, header)
  if array.size:
    file.write(memoryview(array.reshape(-1).view(np.uint8)))
