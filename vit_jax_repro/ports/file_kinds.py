"""What a file or folder of weights is, by its contents.

The name of a file is its owner's and decides nothing: PyTorch's files have
no ending in common, and .npz files and PyTorch's are both zip archives. Kinds
that this package reads get a name. Others raise an InputError with the kind of
the file and the remedy. Nothing is unpickled here.
"""

import glob
import os
import re
import struct
import zipfile
from collections.abc import Sequence

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, messages
from vit_jax_repro.ports import foreign_files
from vit_jax_repro.weights import flax_files, npz

# Names of weights files in a folder, in order of preference, as written by
# transformers and timm (transformers/utils/__init__.py, timm/models/_hub.py).
FILES = (
  'model.safetensors',
  'model.safetensors.index.json',
  'pytorch_model.bin',
  'pytorch_model.bin.index.json',
)
# The kinds that `state_dicts.read` reads. 'index' is a JSON list of the parts
# of a model, 'folder' a folder with one of FILES.
PORTS = ('safetensors', 'torch', 'index', 'folder')
# Of PEFT (peft/utils/constants.py).
ADAPTER = 'adapter_config.json'
ADAPTER_FILES = ('adapter_model.safetensors', 'adapter_model.bin')
FLAX = ('flax_model.msgpack', 'flax_model.msgpack.index.json')
# Files of which each folder of arrays of Orbax has one, and those of a
# checkpoint (orbax/checkpoint/_src/metadata/checkpoint.py). The list of the
# files of the arrays (ocdbt) differs between any two checkpoints.
ORBAX_LIST = 'manifest.ocdbt'
ORBAX_ARRAYS = ('_METADATA', ORBAX_LIST)
_ORBAX = ('_CHECKPOINT_METADATA', *ORBAX_ARRAYS)
# A step's folder, with the prefix that CheckpointManager may give it.
_ORBAX_STEP = re.compile(r'(?:[\w.-]*_)?([0-9]+)')
# What each kind is called in a message.
NAMES = {
  'npz': 'an .npz archive',
  'safetensors': 'a safetensors file',
  'torch': 'a PyTorch file',
  'index': 'the index of a model in parts',
  'folder': "a PyTorch library's folder",
  'msgpack': "Flax's msgpack",
  'orbax': 'an Orbax checkpoint',
  'peft': 'a PEFT adapter',
  'tensorflow': 'a TensorFlow checkpoint',
}

_START_BYTES = 512
_SEARCHED_TEXT = 2**20  # characters
# Bytes of safetensors' list of tensors: the most that the format allows (its
# README), and the most that is read, 100,000 tensors.
_LONGEST_HEADER, _READ_HEADER = 100_000_000, 2**23
# Pickles of protocols 2 to 5 begin so. In msgpack b'\x80' is an empty map.
_PICKLE = re.compile(rb'\x80[\x02-\x05]')
# The number at the beginning of PyTorch's pickles (torch/serialization.py).
_MAGIC = b'\x8a\x0a' + 0x1950A86A20F9469CFC6C.to_bytes(10, 'little')
# A msgpack map that is not empty, whose first key is a text; or a list that
# begins with one.
_MSGPACK = re.compile(
  rb'[\x91-\x9f]?(?:[\x81-\x8f]|\xde..|\xdf....)(?:[\xa0-\xbf]|\xd9.)',
  re.DOTALL,
)
# Of TensorFlow, whose checkpoints are PREFIX.index, a LevelDB table, and
# PREFIX.data-*. The text file `checkpoint` names the newest in its folder.
_TABLE_END = b'\x57\xfb\x80\x8b\x24\x75\x47\xdb'
_TENSORFLOW_FILE = re.compile(r'\.(index|data-\d{5}-of-\d{5})$')
_NEWEST = re.compile(r'^model_checkpoint_path: "(?:.*/)?([^/"]+)"$', re.M)
# A file in one of several parts, as transformers names it.
_PART = re.compile(r'-\d{5}-of-\d{5}\.')


def kind_of(path: str | os.PathLike) -> str:
  """Returns the kind of a weights file or folder, a key of `NAMES`.

  Args:
    path: on this machine.

  Raises:
    FileNotFoundError: the path does not exist, or the folder has no weights.
    InputError: it is no weights file, or one that this package does not read;
      the message names it.
    OSError: the file cannot be read.
  """
  path = npz.local(path)
  if not path.is_dir() and tensorflow_prefix(path):
    return 'tensorflow'
  if path.is_dir():
    return _kind_of_folder(path)
  if not path.exists():
    raise FileNotFoundError(f'no weights file {path}; check the path')
  if files.is_special(path):
    raise InputError(f'{path} is a device or pipe; give a file')
  with open(path, 'rb') as file:
    start = file.read(_START_BYTES)
  if start.startswith(b'PK'):
    return _kind_of_zip(path)
  if _is_safetensors(start):
    _check_header(path, start)
    return 'safetensors'
  if _PICKLE.match(start):
    if _MAGIC in start[:64]:
      return 'torch'
    raise foreign_files.other_pickle(path)
  if start.lstrip().startswith((b'{', b'[')):
    return _kind_of_json(path)
  foreign_files.refuse(path, start)
  if _MSGPACK.match(start):
    return 'msgpack'
  raise foreign_files.unknown(path, start)


def is_part(path: str | os.PathLike) -> bool:
  """Returns whether a file is named as one of several parts of a model."""
  return _PART.search(os.path.basename(path)) is not None


def weights_in(
  folder: str | os.PathLike, names: Sequence[str] = FILES
) -> str | None:
  """Returns the path of the first of some files in a folder, or None."""
  paths = [os.path.join(folder, name) for name in names]
  return next(filter(os.path.exists, paths), None)


def is_checkpoint(folder: str | os.PathLike) -> bool:
  """Returns whether a folder is or holds a checkpoint of JAX or TensorFlow."""
  if not os.path.isdir(folder):
    return False
  if newest_step(folder) is not None or _is_orbax(folder):
    return True
  names = os.listdir(folder)
  return any(name in FLAX or _is_index(folder, name) for name in names)


def newest_step(folder: str | os.PathLike) -> str | None:
  """Returns the path of the newest of a folder's Flax or Orbax checkpoints.

  Returns None if there is none, or the folder is a checkpoint itself.

  Args:
    folder: whose checkpoints are named by their steps.
  """
  if _is_orbax(folder):
    return None
  if (newest := flax_files.newest(folder)) is not None:
    return newest
  steps = {}
  for name in os.listdir(folder):
    path = os.path.join(folder, name)
    if (match := _ORBAX_STEP.fullmatch(name)) and _is_orbax(path):
      steps[int(match[1])] = path
  return steps[max(steps)] if steps else None


def tensorflow_prefix(path: str | os.PathLike) -> str | None:
  """Returns the PREFIX of a TensorFlow checkpoint, or None if it is none.

  Args:
    path: PREFIX, PREFIX.index, PREFIX.data-*, or a folder; of several
      checkpoints in a folder, the newest is taken.

  Raises:
    InputError: the folder does not name the newest of several.
  """
  if not os.path.isdir(path):
    prefix = _TENSORFLOW_FILE.sub('', os.fspath(path))
    return prefix if _is_table(f'{prefix}.index') else None
  found = {
    name.removesuffix('.index')
    for name in os.listdir(path)
    if _is_index(path, name)
  }
  if len(found) > 1:
    newest = re.findall(_NEWEST, _text_of(os.path.join(path, 'checkpoint')))
    if not found & {*newest[:1]}:
      raise InputError(
        f'{path} holds several TensorFlow checkpoints; give one of '
        f'{messages.listed(sorted(found))}'
      )
    found = {newest[0]}
  return os.path.join(path, found.pop()) if found else None


def tensorflow_files(path: str | os.PathLike) -> list[str]:
  """Returns the paths of a TensorFlow checkpoint's index and arrays.

  Args:
    path: see `tensorflow_prefix`.
  """
  prefix = tensorflow_prefix(path)
  arrays = glob.glob(f'{glob.escape(prefix or "")}.data-*')
  return [f'{prefix}.index', *sorted(arrays)]


def _is_index(folder, name):
  return name.endswith('.index') and _is_table(os.path.join(folder, name))


def _is_table(path):
  if not os.path.isfile(path):
    return False
  with open(path, 'rb') as file:
    file.seek(max(0, os.path.getsize(path) - len(_TABLE_END)))
    return file.read() == _TABLE_END


def _text_of(path):
  if not os.path.isfile(path):
    return ''
  with open(path, encoding='utf-8', errors='replace') as file:
    return file.read(_SEARCHED_TEXT)


def _is_orbax(folder):
  return any(os.path.exists(os.path.join(folder, name)) for name in _ORBAX)


def _kind_of_folder(folder):
  names = sorted(os.listdir(folder))
  if ADAPTER in names:  # transformers, too, reads it before a model there
    return 'peft'
  if any(name in names for name in FILES):
    return 'folder'
  if any(name in names for name in _ORBAX):
    return 'orbax'
  if any(name in names for name in FLAX):
    return 'msgpack'
  if (newest := newest_step(folder)) is not None:
    try:
      kind = kind_of(newest)
    except (InputError, FileNotFoundError):
      raise InputError(
        f'{newest}, the newest checkpoint in {folder}, is empty or of another '
        'program; give an earlier one'
      ) from None
    if kind in ('msgpack', 'orbax'):
      return kind
  foreign_files.refuse_folder(folder, names)
  if tensorflow_prefix(folder):
    return 'tensorflow'
  found = [name for name in names if _is_read(folder / name)]
  if not found:
    raise FileNotFoundError(
      f'{folder} has none of {", ".join(FILES)}, nor another weights file; '
      'give a folder written by save_pretrained, or a file'
    )
  raise InputError(
    f'{folder} has neither {FILES[0]} nor a checkpoint_STEP; give one of the '
    f'files or folders in it: {messages.listed(found)}'
  )


def _is_read(path):
  try:
    return not path.name.startswith('.') and bool(kind_of(path))
  except (InputError, OSError):
    return False


def _kind_of_zip(path):
  """Returns the kind of a zip archive: 'npz' or 'torch'."""
  if not zipfile.is_zipfile(path):
    raise InputError(
      f'{path} is a truncated .npz archive or PyTorch file '
      f'({path.stat().st_size} bytes, its end is missing); download it again'
    )
  try:
    with open(path, 'rb') as file, npz.open_archive(file) as archive:
      names = archive.namelist()
      npz.check_expansion(path, archive.infolist())
  except InputError:
    raise
  except Exception as error:  # damaged bytes make zipfile raise any exception
    raise InputError(
      f'{path} is a damaged .npz archive or PyTorch file '
      f'({messages.short(error)}); download it again'
    ) from None
  foreign_files.refuse_archive(path, names)
  # PyTorch's archives have one folder, whose name is that of the first file.
  if any(name.count('/') == 1 and name.endswith('/data.pkl') for name in names):
    return 'torch'
  if not names or any(name.endswith('.npy') for name in names):
    return 'npz'
  raise foreign_files.unknown_archive(path, names)


def _is_safetensors(start):
  """Returns whether a file begins with the length of a JSON object."""
  if len(start) < 9:
    return False
  (length,) = struct.unpack('<Q', start[:8])
  return 2 <= length <= _LONGEST_HEADER and start[8:9] == b'{'


def _check_header(path, start):
  """Raises an InputError if a safetensors file lists too many tensors."""
  (length,) = struct.unpack('<Q', start[:8])
  if _READ_HEADER < length <= path.stat().st_size:
    raise InputError(
      f'{path} is a safetensors file whose list of tensors has {length:,} '
      f'bytes, above the {_READ_HEADER:,} that are read; no model has that many'
    )


def _kind_of_json(path):
  """Returns 'index'; raises for any other JSON file."""
  try:
    found = files.read_any_json(path)
  except ValueError:
    if path.name in FILES:  # the reader names the mistake
      return 'index'
    raise foreign_files.unknown_text(path) from None
  if path.name in FLAX:
    return 'msgpack'
  if (isinstance(found, dict) and 'weight_map' in found) or path.name in FILES:
    return 'index'
  raise foreign_files.other_json(path, found)
