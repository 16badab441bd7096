"""Reading and writing .npz files array by array, trusting nothing in them.

`read` hands out one array at a time, so that memory holds the arrays that
were asked for and no second copy of the file. Every header is checked against
the archive's own sizes before memory is taken, and no pickle is ever opened.
"""

import contextlib
import os
import pathlib
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator

import jax.numpy as jnp
import numpy as np

BFLOAT16 = np.dtype(jnp.bfloat16)

# Random weights hardly compress; a file that unpacks to over a hundred times
# its size (and to over 1 GiB) holds no model.
MAX_EXPANSION = 100
ALWAYS_ALLOWED_BYTES = 2**30

# First bytes of what people save under the name of a weights file.
_KNOWN_STARTS = (
  (b'\x80', 'a pickle (a PyTorch or Python object file), not an .npz archive'),
  (b'\x93NUMPY', 'a single .npy array, not an .npz archive'),
  (b'\x89HDF', 'an HDF5 file, not an .npz archive'),
  (b'version https://git-lfs', 'a Git LFS pointer, not the file it points to'),
)
_AGAIN = 'download it again'


def read_names(path: str | os.PathLike) -> list[str]:
  """The names of an .npz file's arrays, in file order; raises as `read`."""
  with _open(pathlib.Path(path)) as archive:
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
    ValueError: one line saying what the file is instead of an .npz, which
      array is damaged, or which header is impossible.
  """
  path = pathlib.Path(path)
  with _open(path) as archive:
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
  what was there before stays.

  Raises:
    OSError: the folder is missing or not writable, or the disk is full.
  """
  path = pathlib.Path(path)
  with (
    atomic_path(path) as temporary,
    zipfile.ZipFile(temporary, 'w', zipfile.ZIP_STORED) as archive,
  ):
    for name, array in arrays:
      with archive.open(f'{name}.npy', 'w', force_zip64=True) as file:
        _write_array(file, array)


@contextlib.contextmanager
def atomic_path(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Gives a temporary path beside `path` that replaces it on success."""
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
    mask = os.umask(0)
    os.umask(mask)
    temporary.chmod(0o666 & ~mask)  # mkstemp makes files for the owner alone
    with open(temporary, 'rb') as file:
      os.fsync(file.fileno())
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def _name(member):
  return member.filename.removesuffix('.npy')


def _open(path):
  if path.is_dir():
    raise ValueError(f'{path} is a directory; give an .npz file in it')
  if not path.exists():
    raise FileNotFoundError(f'no weights file {path}; check the path')
  try:
    return zipfile.ZipFile(path)
  except zipfile.BadZipFile:
    raise ValueError(f'{path} is {_what_is(path)}') from None


def _what_is(path):
  """Says in a few words what a file that is no zip archive may be."""
  size = path.stat().st_size
  with open(path, 'rb') as file:
    start = file.read(512)
  if not size:
    return f'empty (0 bytes); {_AGAIN}'
  for known, answer in _KNOWN_STARTS:
    if start.startswith(known):
      return answer
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
    raise ValueError(
      f'{path} claims to unpack to {total} bytes, over {MAX_EXPANSION} times '
      'its size; no weights file does, so it is refused'
    )


def _read_member(path, archive, member, name):
  damaged = f'{path}: array {name!r} is damaged'
  try:
    with archive.open(member) as file:
      shape, fortran_order, dtype = _read_header(file, path, name)
      count = int(np.prod(shape, dtype=object))
      _check_size(path, name, member, file.tell(), shape, dtype, count)
      array = np.empty(count, dtype)
      _fill(file, array)
      if file.read(1):  # also makes zipfile compare the checksum
        raise ValueError(f'{damaged} (more data than its header says)')
  except EOFError:
    raise ValueError(f'{damaged} (truncated); {_AGAIN}') from None
  except (zipfile.BadZipFile, zlib.error) as error:
    raise ValueError(f'{damaged} ({error}); {_AGAIN}') from None
  except (NotImplementedError, RuntimeError) as error:  # method, encryption
    raise ValueError(f'{path}: array {name!r}: {error}') from None
  if dtype == np.dtype('V2'):
    array = array.view(BFLOAT16)
  if fortran_order:
    return array.reshape(shape[::-1]).transpose()
  return array.reshape(shape)


def _read_header(file, path, name):
  try:
    version = np.lib.format.read_magic(file)
    with warnings.catch_warnings():  # numpy 1 files in Python 2 spelling
      warnings.simplefilter('ignore')
      if version == (1, 0):
        header = np.lib.format.read_array_header_1_0(file)
      else:
        header = np.lib.format.read_array_header_2_0(file)
  except ValueError as error:
    reason = str(error).splitlines()[0]
    raise ValueError(
      f'{path}: {name!r} is not a NumPy array ({reason})'
    ) from None
  dtype = header[2]
  if dtype.hasobject:
    raise ValueError(
      f'{path}: array {name!r} holds pickled Python objects, which could run '
      'any code and are refused; weights files hold plain numbers'
    )
  if dtype.kind not in 'biuf' and dtype != np.dtype('V2'):
    raise ValueError(
      f'{path}: array {name!r} holds {dtype}, but weights are numbers'
    )
  return header


def _check_size(path, name, member, header_bytes, shape, dtype, count):
  """The declared shape must take exactly the bytes that the archive holds."""
  declared = count * dtype.itemsize
  if min(shape, default=0) < 0 or declared != member.file_size - header_bytes:
    raise ValueError(
      f'{path}: array {name!r} declares shape {shape} of {dtype}, {declared} '
      f'bytes, but {member.file_size - header_bytes} are stored; refused'
    )


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
