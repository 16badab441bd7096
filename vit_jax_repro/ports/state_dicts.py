"""Files of PyTorch ports: safetensors, .pth, and folders of save_pretrained.

Only plain tensors are read; PyTorch's `weights_only` reader refuses pickles
that could run code. Arrays keep their dtype, bfloat16 and float16 included.
"""

import os
import pathlib
from collections.abc import Mapping

import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, messages
from vit_jax_repro.ports import (
  checkpoint_contents,
  file_kinds,
  torch_pickles,
)
from vit_jax_repro.ports.tensors import to_numpy, to_torch
from vit_jax_repro.weights import part_index

SAFETENSORS = ('.safetensors',)
PICKLES = ('.pth', '.pt', '.bin')
SUFFIXES = SAFETENSORS + PICKLES

_INSTALL = "pip install -e '.[torch]'"


def read(
  path: str | os.PathLike, *, ema: bool = False
) -> dict[str, np.ndarray]:
  """Reads a state dict: {name: array} in the stored dtypes, even bfloat16.

  Args:
    path: a safetensors or PyTorch file of any name, the index of a file in
      several parts, or a folder with one of `file_kinds.FILES`. Of a training
      checkpoint, only the weights are read, see `checkpoint_contents`.
    ema: whether to read the averaged weights of a training checkpoint.

  Raises:
    FileNotFoundError: the file does not exist.
    InputError: the file is of another kind, is damaged, holds Python objects
      that could run code, or needs a library that is not installed.
    OSError: the file cannot be read.
  """
  path = pathlib.Path(path)
  kind = file_kinds.kind_of(path)
  if kind == 'folder':
    path = pathlib.Path(file_kinds.weights_in(path) or path)
    kind = file_kinds.kind_of(path)
  if kind not in _READERS:
    raise InputError(
      f'{path} is {file_kinds.NAMES[kind]}, no state dict of PyTorch'
    )
  return _READERS[kind](path, ema)


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


def _read_parts(path, ema):
  """Returns the arrays of several files, located by their index file."""
  state = part_index.read(path, arrays)
  return checkpoint_contents.weights_of(state, path, ema=ema)


def arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns all arrays of a file, which need not be those of a model.

  Raises:
    InputError, OSError: see `read`.
  """
  if file_kinds.kind_of(path) == 'safetensors':
    return _load_safetensors(path)
  torch = _torch(path)
  found = torch_pickles.load(torch, path)
  if not isinstance(found, Mapping):
    raise InputError(f'{path} is no part of a state dict')
  return {name: to_numpy(torch, path, name, t) for name, t in found.items()}


def _read_safetensors(path, ema):
  arrays = _load_safetensors(path)
  return checkpoint_contents.weights_of(arrays, path, ema=ema)


def _load_safetensors(path):
  safetensors = _safetensors(path)
  try:
    return safetensors.numpy.load_file(path)
  # numpy takes fewer dimensions and smaller ones than the format.
  except (safetensors.SafetensorError, ValueError, OverflowError) as error:
    raise InputError(
      f'{path} is a damaged safetensors file ({messages.short(error)}); '
      'download it again'
    ) from None
  except (AttributeError, TypeError, LookupError) as error:
    # numpy does not have the dtype, such as an 8-bit float.
    raise InputError(
      f'{path} has arrays of a dtype that numpy does not have '
      f'({messages.short(error)}), as quantised weights have; give the weights '
      'in float32, float16 or bfloat16 that they were made from'
    ) from None


def _read_pickle(path, ema):
  torch = _torch(path)
  contents = torch_pickles.load(torch, path)
  found = checkpoint_contents.weights_of(contents, path, ema=ema)
  return {name: to_numpy(torch, path, name, t) for name, t in found.items()}


_READERS = {
  'index': _read_parts,
  'safetensors': _read_safetensors,
  'torch': _read_pickle,
}


def _torch(path):
  try:
    import torch
  except ImportError as error:
    raise InputError(_missing(path, 'PyTorch', error)) from None
  return torch


def _safetensors(path):
  try:
    import safetensors
    import safetensors.numpy
  except ImportError as error:
    raise InputError(_missing(path, 'safetensors', error)) from None
  return safetensors


def _missing(path, kind, error):
  return (
    f'{path}: reading and writing {kind} files needs {error.name}; '
    f'install it with: {_INSTALL}'
  )


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
