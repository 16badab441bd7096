"""Files of PyTorch ports: safetensors, .pth, and folders of save_pretrained.

Only plain tensors are read: PyTorch's reader for weights refuses pickles that
could run code. Every dtype, bfloat16 and float16 too, stays what it is.
"""

import argparse
import json
import os
import pathlib
import re
import warnings
import zipfile
from collections.abc import Mapping

import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, messages
from vit_jax_repro.weights import npz

SAFETENSORS = ('.safetensors',)
PICKLES = ('.pth', '.pt', '.bin')
SUFFIXES = SAFETENSORS + PICKLES
# What stands in a folder, the best first: the names that transformers and timm
# write (transformers/utils/__init__.py, timm/models/_hub.py).
FILES = (
  'model.safetensors',
  'model.safetensors.index.json',
  'pytorch_model.bin',
  'pytorch_model.bin.index.json',
)
# Under which a training checkpoint has the weights: facebookresearch/deit
# saves `model`, timm's trainer `state_dict`.
WRAPPERS = ('model', 'state_dict')

_INSTALL = "pip install -e '.[torch]'"
_KNOWN_STARTS = (
  (b'<', 'an HTML or XML page'),
  (b'version https://git-lfs', 'a Git LFS pointer, not the file it points to'),
)


def is_port(path: str | os.PathLike) -> bool:
  """Whether a path is a folder or is named like a file of a port."""
  path = pathlib.Path(path)
  return path.is_dir() or path.suffix in SUFFIXES or path.name in FILES


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads a state dict: {name: array} in stored dtypes (bfloat16 too).

  Args:
    path: a .safetensors, .pth, .pt or .bin file, the .index.json of one that
      is in several parts, or a folder with one of `FILES`. Of a training
      checkpoint the weights below one of `WRAPPERS` are taken.

  Raises:
    FileNotFoundError: there is no such file.
    InputError: one line: it is no such file, is damaged, holds Python objects
      that could run code, or needs a library that is not installed.
    OSError: it cannot be read.
  """
  path = pathlib.Path(path)
  if path.is_dir():
    path = _file_in(path)
  if not path.exists():
    raise FileNotFoundError(f'no such file: {path}')
  if path.name.endswith('.index.json'):
    return _read_parts(path)
  if path.suffix not in SUFFIXES:
    raise InputError(
      f'{path} is not named like a PyTorch weights file; known are '
      f'{", ".join(SUFFIXES)} and folders with {FILES[0]}'
    )
  _check_start(path)
  if path.suffix in SAFETENSORS:
    return _read_safetensors(path)
  return _read_pickle(path)


def write(
  path: str | os.PathLike,
  state: Mapping[str, np.ndarray],
  *,
  wrapper: str | None = None,
) -> None:
  """Writes a state dict, atomically, as the suffix says.

  Args:
    path: .safetensors, .pth, .pt or .bin; what is there is replaced.
    state: {name: array}.
    wrapper: a name to put a pickled state dict under.

  Raises:
    InputError: another suffix, or a library that is not installed.
    OSError: the file cannot be written.
  """
  path = pathlib.Path(path)
  if path.suffix not in SUFFIXES:
    raise InputError(
      f'{path} is not named like a PyTorch weights file; choose from '
      f'{", ".join(SUFFIXES)}'
    )
  with files.replacing(path) as temporary:
    if path.suffix in SAFETENSORS:
      _write_safetensors(path, temporary, state)
    else:
      _write_pickle(path, temporary, state, wrapper)


def _file_in(folder):
  for name in FILES:
    if (folder / name).exists():
      return folder / name
  raise FileNotFoundError(
    f'{folder} has none of {", ".join(FILES)}; give a folder as '
    'save_pretrained writes it, or a file'
  )


def _check_start(path):
  with open(path, 'rb') as file:
    start = file.read(64).lstrip()
  if not start:
    raise InputError(f'{path} is empty; download it again')
  for known, what in _KNOWN_STARTS:
    if start.startswith(known):
      raise InputError(f'{path} is {what}; download it again')


def _read_parts(path):
  """The arrays of several files, by the index that tells which is where."""
  try:
    parts = json.loads(path.read_text(encoding='utf-8'))['weight_map']
    names = {name: str(part) for name, part in parts.items()}
  except (ValueError, TypeError, LookupError, AttributeError) as error:
    raise InputError(
      f'{path} is no index of a weights file ({messages.short(repr(error))})'
    ) from None
  state = {}
  for part in sorted(set(names.values())):
    if pathlib.PurePath(part).name != part or part in FILES:
      raise InputError(
        f'{path} names the part {messages.quoted(part)}; parts are files '
        'beside it'
      )
    state |= read(path.parent / part)
  if state.keys() != names.keys():
    raise InputError(
      f'{path} and its parts differ in {messages.listed(state.keys() ^ names)}'
    )
  return state


def _read_safetensors(path):
  safetensors = _safetensors(path)
  try:
    return safetensors.numpy.load_file(path)
  except (safetensors.SafetensorError, AttributeError, TypeError) as error:
    # The last two: a dtype that numpy has not, such as 8-bit floats.
    raise InputError(
      f'{path} cannot be read ({messages.short(error)}); download it again, or '
      'save it in float32, float16 or bfloat16'
    ) from None


def _read_pickle(path):
  torch = _torch(path)
  try:
    _check_archive(path)
    with (
      warnings.catch_warnings(),
      torch.serialization.safe_globals([argparse.Namespace]),
    ):
      warnings.simplefilter('ignore')  # of pickles that torch did not write
      state = torch.load(path, weights_only=True, map_location='cpu')
  except Exception as error:  # bytes make torch raise anything, OSError too
    raise InputError(f'{path} {_why_unreadable(error)}') from None
  for wrapper in WRAPPERS:
    if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
      state = state[wrapper]
  if not isinstance(state, dict) or not state:
    raise InputError(
      f'{path} holds no state dict but a {type(state).__name__}; save '
      'model.state_dict()'
    )
  return {name: to_numpy(torch, path, name, t) for name, t in state.items()}


def _torch(path):
  try:
    import torch
  except ImportError as error:
    raise InputError(_missing(path, error)) from None
  return torch


def _safetensors(path):
  try:
    import safetensors
    import safetensors.numpy
  except ImportError as error:
    raise InputError(_missing(path, error)) from None
  return safetensors


def _missing(path, error):
  return (
    f'{path}: reading and writing {path.suffix} files needs {error.name}; '
    f'install it with: {_INSTALL}'
  )


def _check_archive(path):
  """torch.load does not look at the checksums in a file."""
  if zipfile.is_zipfile(path):
    with zipfile.ZipFile(path) as archive:
      damaged = archive.testzip()
    if damaged is not None:
      raise InputError(f'wrong checksum of {damaged}')


def _why_unreadable(error):
  found = re.search(r'GLOBAL (\S+)', str(error))
  if found:
    return (
      f'holds Python objects ({messages.short(found[1])}), which could run any '
      'code, and is refused; save model.state_dict() alone'
    )
  text = str(error).partition('WeightsUnpickler error: ')[2] or str(error)
  reason = messages.short(text.strip().splitlines()[0] if text else repr(error))
  return f'is no PyTorch weights file, or damaged ({reason}); download it again'


def to_numpy(torch, path, name, tensor):
  """A tensor of any device as an array of its own dtype, bfloat16 too.

  Args:
    torch: the library.
    path, name: whose tensor it is and how it is called, for the error.
    tensor: what shall be a tensor.

  Raises:
    InputError: it is none, or of a dtype that numpy has not.
  """
  if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
    raise InputError(
      f'{path}: {messages.quoted(name)} is a {type(tensor).__name__}, not a '
      'tensor; save model.state_dict() alone'
    )
  tensor = tensor.detach().cpu().contiguous()
  if tensor.dtype == torch.bfloat16:  # numpy has it from ml_dtypes alone
    return tensor.view(torch.int16).numpy().view(npz.BFLOAT16)
  try:
    return tensor.numpy()
  except TypeError:
    raise InputError(
      f'{path}: {messages.quoted(name)} is of {tensor.dtype}; save it in '
      'float32, float16 or bfloat16'
    ) from None


def _write_safetensors(path, temporary, state):
  safetensors = _safetensors(path)
  arrays = {name: np.ascontiguousarray(array) for name, array in state.items()}
  try:
    # transformers refuses files that do not say so.
    safetensors.numpy.save_file(arrays, temporary, metadata={'format': 'pt'})
  except safetensors.SafetensorError as error:
    raise OSError(f'cannot write {path}: {messages.short(error)}') from None


def _write_pickle(path, temporary, state, wrapper):
  torch = _torch(path)
  tensors = {name: to_torch(torch, array) for name, array in state.items()}
  try:
    torch.save({wrapper: tensors} if wrapper else tensors, temporary)
  except RuntimeError as error:
    raise OSError(f'cannot write {path}: {messages.short(error)}') from None


def to_torch(torch, array):
  """An array of any dtype of `to_numpy` as a tensor."""
  array = np.require(array, requirements=['C', 'W'])
  if array.dtype == npz.BFLOAT16:
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
  return torch.from_numpy(array)
