"""Files of PyTorch ports: safetensors, .pth, and folders of save_pretrained.

Only plain tensors are read; PyTorch's `weights_only` reader refuses pickles
that could run code. Arrays keep their dtype, bfloat16 and float16 included.
"""

import argparse
import json
import os
import pathlib
import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, messages
from vit_jax_repro.weights import npz

SAFETENSORS = ('.safetensors',)
PICKLES = ('.pth', '.pt', '.bin')
SUFFIXES = SAFETENSORS + PICKLES
# Names of weights files in a folder, in order of preference, as written by
# transformers and timm (transformers/utils/__init__.py, timm/models/_hub.py).
FILES = (
  'model.safetensors',
  'model.safetensors.index.json',
  'pytorch_model.bin',
  'pytorch_model.bin.index.json',
)
# Keys of the weights in a training checkpoint: facebookresearch/deit saves them
# as `model`, timm's trainer as `state_dict`.
WRAPPERS = ('model', 'state_dict')

_INSTALL = "pip install -e '.[torch]'"
_KNOWN_STARTS = (
  (b'<', 'an HTML or XML page'),
  (b'version https://git-lfs', 'a Git LFS pointer, not the file it points to'),
)


def is_port(path: str | os.PathLike) -> bool:
  """Returns whether a path is a folder or is named like a port's file."""
  path = pathlib.Path(path)
  return path.is_dir() or path.suffix in SUFFIXES or path.name in FILES


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads a state dict: {name: array} in the stored dtypes, even bfloat16.

  Args:
    path: a .safetensors, .pth, .pt or .bin file, the .index.json of a file in
      several parts, or a folder with one of `FILES`. In a training checkpoint,
      only the weights below one of `WRAPPERS` are read.

  Raises:
    FileNotFoundError: the file does not exist.
    InputError: the file is of another kind, is damaged, holds Python objects
      that could run code, or needs a library that is not installed.
    OSError: the file cannot be read.
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
  """Writes a state dict atomically, in the format of the suffix.

  Args:
    path: a .safetensors, .pth, .pt or .bin file; an existing one is replaced.
    state: {name: array}.
    wrapper: key of the state dict in a pickled checkpoint; None for a plain
      state dict.

  Raises:
    InputError: the suffix is unknown, or a library is not installed.
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
    f'{folder} has none of {", ".join(FILES)}; give a folder written by '
    'save_pretrained, or a file'
  )


def _check_start(path):
  with open(path, 'rb') as file:
    start = file.read(64).lstrip()
  if not start:
    raise InputError(f'{path} is empty; download it again')
  for known, kind in _KNOWN_STARTS:
    if start.startswith(known):
      raise InputError(f'{path} is {kind}; download it again')


def _read_parts(path):
  """Returns the arrays of several files, located by their index file."""
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
        f'{path} names the part {messages.quoted(part)}; parts must be weights '
        'files in the same folder'
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
    # AttributeError and TypeError mean a dtype that numpy does not have, such
    # as 8-bit floats.
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
      warnings.simplefilter('ignore')  # about pickles not written by torch
      state = torch.load(path, weights_only=True, map_location='cpu')
  except Exception as error:  # damaged bytes make torch raise any exception
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
  """Raises an InputError on a wrong checksum; torch.load does not check it."""
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
      'code, and is refused; save only model.state_dict()'
    )
  text = str(error).partition('WeightsUnpickler error: ')[2] or str(error)
  reason = messages.short(text.strip().splitlines()[0] if text else repr(error))
  return f'is no PyTorch weights file, or damaged ({reason}); download it again'


def to_numpy(
  torch: Any, path: str | os.PathLike, name: Any, tensor: Any
) -> np.ndarray:
  """Returns a tensor of any device as an array of its dtype, even bfloat16.

  Args:
    torch: the library.
    path: file or module that the tensor belongs to, for the error message.
    name: name of the tensor, for the error message.
    tensor: the tensor.

  Raises:
    InputError: it is not a tensor, or has a dtype that numpy does not have.
  """
  if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
    raise InputError(
      f'{path}: {messages.quoted(name)} is a {type(tensor).__name__}, not a '
      'tensor; save only model.state_dict()'
    )
  tensor = tensor.detach().cpu().contiguous()
  if tensor.dtype == torch.bfloat16:
    # torch cannot convert it: in numpy it exists only through ml_dtypes.
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
    # transformers refuses files without this metadata.
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


def to_torch(torch: Any, array: np.ndarray) -> Any:
  """Returns an array as a tensor, in any dtype that `to_numpy` returns.

  Args:
    torch: the library.
    array: the array.
  """
  array = np.require(array, requirements=['C', 'W'])
  if array.dtype == npz.BFLOAT16:
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
  return torch.from_numpy(array)
