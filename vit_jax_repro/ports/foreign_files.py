"""Files that this package does not read, named by their contents.

Each message has the kind of the file and the remedy. Only a file that is
damaged is to be downloaded again.
"""

import pathlib
import re
import tarfile
from collections.abc import Sequence
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages

SAME = 'give the same weights as .npz, .safetensors or a PyTorch file'
_WEIGHTS = (
  'this package reads .npz, safetensors and PyTorch files, Flax checkpoints '
  'and folders of save_pretrained'
)
_IMAGE = f'an image; {_WEIGHTS}'
# The first bytes of a file, what it is, and the remedy.
_STARTS = (
  (b'\x89HDF', f'an HDF5 file, as Keras writes its weights (.h5); {SAME}'),
  (
    b'GGUF',
    'a GGUF file of llama.cpp; give the .safetensors file that it was made '
    'from',
  ),
  (
    b'version https://git-lfs',
    'a Git LFS pointer, not the file it points to; run `git lfs pull` in its '
    'repository',
  ),
  (
    b'\x93NUMPY',
    'a single array of NumPy (.npy), not a model; write all arrays by name '
    'with numpy.savez',
  ),
  (b'\x1f\x8b', 'compressed with gzip; unpack it: gzip -d'),
  (b'BZh', 'compressed with bzip2; unpack it: bzip2 -d'),
  (b'\xfd7zXZ\x00', 'compressed with xz; unpack it: xz -d'),
  (b'\x28\xb5\x2f\xfd', 'compressed with zstd; unpack it: zstd -d'),
  (b'7z\xbc\xaf\x27\x1c', 'a 7z archive; unpack it: 7z x'),
  (b'Rar!', 'a RAR archive; unpack it: unrar x'),
  (b'%PDF', f'a PDF document; {_WEIGHTS}'),
  (b'\xff\xd8\xff', _IMAGE),
  (b'\x89PNG', _IMAGE),
  (b'GIF8', _IMAGE),
  (b'II*\x00', _IMAGE),
  (b'MM\x00*', _IMAGE),
  (b'ML\xefR', 'a program of MLIR (StableHLO), an export; {EXPORT}'),
)
_EXPORT = (
  'for programs without this package, which cannot read it back; give the '
  'weights that it was made from'
)
# Messages of protocol buffers: field 1 with a number, then one of ONNX's fields
# (onnx.proto, ModelProto); a SavedModel (schema version 1, then field 2); a
# GraphDef, whose first field is a node with its name and operation.
_ONNX = re.compile(rb'\x08[\x02-\x1f][\x12\x1a\x22\x28\x32\x3a\x42\x72]')
_SAVED_MODEL = re.compile(rb'\x08\x01\x12')
_GRAPH = re.compile(rb'\n[\x00-\xff]{1,5}?\n[\x01-\x7f][\w./-]+\x12.[A-Z]\w+')
_PAGE = re.compile(rb'\s*<[!?A-Za-z]')
_TAR = (257, b'ustar')  # offset, bytes
# Members of archives that look like weights.
_LIKE_WEIGHTS = re.compile(
  r'\.(npz|safetensors|pth|pt|bin|ckpt|msgpack|tar)$', re.IGNORECASE
)
_SEARCHED = 2**20  # bytes, for the start of a StableHLO module


def refuse(path: pathlib.Path, start: bytes) -> None:
  """Raises an InputError if a file is of a known kind that is not read.

  Args:
    path: the file.
    start: its first bytes, at least 300 of them if it is longer.

  Raises:
    InputError: one line with the kind and the remedy.
  """
  if not start:
    raise InputError(f'{path} is empty (0 bytes); download it again')
  for known, what in _STARTS:
    if start.startswith(known):
      raise InputError(f'{path} is {what.replace("{EXPORT}", _EXPORT)}')
  if start[:4] == b'RIFF' and start[8:12] == b'WEBP':
    raise InputError(f'{path} is {_IMAGE}')
  if _PAGE.match(start):
    raise InputError(
      f'{path} is an HTML or XML page ({path.stat().st_size} bytes): the '
      'server answered with a page instead of the file; download it again'
    )
  if start[_TAR[0] :].startswith(_TAR[1]):
    raise InputError(f'{path} is {_tar(path)}')
  if _SAVED_MODEL.match(start):
    raise InputError(
      f'{path} is the program of a TensorFlow SavedModel; {SAME}'
    )
  if _ONNX.match(start):
    raise InputError(f'{path} is an export in ONNX, {_EXPORT}')
  if _GRAPH.match(start):
    raise InputError(f'{path} is a graph of TensorFlow (.pb); {SAME}')


def refuse_folder(folder: pathlib.Path, names: Sequence[str]) -> None:
  """Raises an InputError if a folder is a program of TensorFlow.

  Args:
    folder: the folder.
    names: of its files and folders.

  Raises:
    InputError: one line with the kind and the remedy.
  """
  if 'saved_model.pb' in names:
    raise InputError(f'{folder} is a TensorFlow SavedModel; {SAME}')


def refuse_archive(path: pathlib.Path, names: Sequence[str]) -> None:
  """Raises an InputError if a zip archive is a program or a Keras model.

  Args:
    path: the archive.
    names: of its members.

  Raises:
    InputError: one line with the kind and the remedy.
  """
  ends = {name.partition('/')[2] for name in names}
  if 'constants.pkl' in ends:
    raise InputError(
      f'{path} is a TorchScript program, which holds code and is not run; '
      f'write its weights where you trust it: {_written("torch.jit.load")}'
    )
  if 'archive_format' in ends:
    raise InputError(
      f'{path} is a program of torch.export (.pt2), which is not run; write '
      f'its weights where you trust it: {_written("torch.export.load")}'
    )
  if 'model.weights.h5' in names:
    raise InputError(f'{path} is a Keras model (.keras); {SAME}')


def other_pickle(path: pathlib.Path) -> InputError:
  """Returns the error for a pickle that PyTorch did not write."""
  return InputError(
    f'{path} is a pickle that PyTorch did not write (of arrays of NumPy, JAX '
    'or Paddle, say), which could run any code, and is refused; where you '
    'trust it, load it with pickle and write a dict of its arrays: numpy.savez('
    "'weights.npz', **arrays), or torch.save if the names are PyTorch's"
  )


def unknown_archive(path: pathlib.Path, names: Sequence[str]) -> InputError:
  """Returns the error for a zip archive of which nothing is known."""
  inside = [name for name in names if _LIKE_WEIGHTS.search(name)]
  if inside:
    return InputError(
      f'{path} is a zip archive with {messages.listed(inside)} inside; unpack '
      f'it: unzip {path}'
    )
  return InputError(
    f'{path} is a zip archive of {messages.listed(names)}, not of arrays; '
    f'{_WEIGHTS}'
  )


def other_json(path: pathlib.Path, found: Any) -> InputError:
  """Returns the error for a JSON file that is not the index of a model."""
  keys = found if isinstance(found, dict) else {}
  if 'peft_type' in keys:
    what = 'the configuration of a PEFT adapter; give its folder'
  elif isinstance(keys.get('architecture'), dict):
    what = f'the description of weights; give {path.with_suffix(".npz").name}'
  elif {'architecture', 'architectures', 'model_type'} & set(keys):
    what = 'the configuration of a model; give its folder or its weights file'
  else:
    what = f'a JSON file without weights; {_WEIGHTS}'
  return InputError(f'{path} is {what}')


def unknown_text(path: pathlib.Path) -> InputError:
  """Returns the error for a text file."""
  return InputError(f'{path} is a text file, no weights file; {_WEIGHTS}')


def unknown(path: pathlib.Path, start: bytes) -> InputError:
  """Returns the error for a file of which nothing is known.

  Args:
    path: the file.
    start: its first bytes.
  """
  with open(path, 'rb') as file:
    searched = file.read(_SEARCHED)
  if not searched.strip(b'\x00'):
    return InputError(
      f'{path} begins with {len(searched)} bytes of zero, as an unfinished '
      'download does; download it again'
    )
  if b'ML\xefR' in searched:
    return InputError(f'{path} is an export in StableHLO, {_EXPORT}')
  text = start.decode('utf-8', errors='ignore')
  if len(text.encode()) > len(start) - 4 and not set(text) & _CONTROL:
    return unknown_text(path)
  return InputError(
    f'{path} is no weights file of a known kind (it begins with '
    f'{start[:8]!r}); {_WEIGHTS}'
  )


_CONTROL = {chr(code) for code in range(32)} - set('\t\n\r\f\x1b')


def _written(load):
  return (
    f"torch.save({load}(PATH).state_dict(), 'weights.pth')"
    if load == 'torch.jit.load'
    else f"torch.save({load}(PATH).state_dict, 'weights.pth')"
  )


def _tar(path):
  try:
    with tarfile.open(path) as archive:
      names = archive.getnames()
  except (tarfile.TarError, OSError, EOFError) as error:
    return f'a damaged tar archive ({messages.short(error)}); download it again'
  inside = [name for name in names if _LIKE_WEIGHTS.search(name)] or names
  return (
    f'a tar archive with {messages.listed(inside)} inside; unpack it: tar -xf '
    f'{path}'
  )
