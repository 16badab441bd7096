"""Reads PyTorch's pickled files without running any code of theirs.

PyTorch's `weights_only` reader does it. It is allowed its own classes and a
few more that only hold values, such as those of argparse and NumPy. The classes
of OmegaConf, in which trainers keep settings, are replaced by an empty one.
"""

import argparse
import collections
import datetime
import mmap
import pathlib
import re
import types
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages

# Keys of the weights in a training checkpoint: facebookresearch/deit saves them
# as `model`, timm's trainer and Lightning as `state_dict`.
WRAPPERS = ('model', 'state_dict', 'model_state_dict')

# Modules of classes that hold settings; none of their code is needed.
_SETTINGS = ('omegaconf.', 'typing.', 'enum.')
_REFUSED = re.compile(r'GLOBAL (\S+)')
# The one class that PyTorch permits and that fills memory by a number alone.
_FILLING = re.compile(rb'c(__builtin__|builtins)\nbytearray\n')
# Tied weights are views of one storage, so a file may have fewer bytes than its
# tensors. A view that repeats one number may claim any.
_MOST_SHARING = 4
_ALWAYS_ALLOWED_BYTES = 2**20
_MOST_NAMES = 100  # of refused classes, before the reader gives up


class _Settings:
  """Replaces an object with settings, which is not read."""

  def __new__(cls, *args: Any):
    del args
    return object.__new__(cls)

  def __setstate__(self, state: Any):
    del state


def load(torch: Any, path: pathlib.Path) -> Any:
  """Returns the object of a file, with tensors on the CPU.

  Args:
    torch: the library.
    path: the file.

  Raises:
    InputError: it is damaged, or holds classes whose code would run; the
      message names them.
  """
  try:
    _check_archive(path)
    _check_pickle(path)
    return _loaded(torch, path, _value_classes())
  except Exception as error:  # damaged bytes make torch raise any exception
    found = _REFUSED.search(str(error))
    if found is None:
      raise InputError(f'{path} {_why_unreadable(error)}') from None
  contents, names = _without_classes(torch, path, found[1])
  if contents is not None and all(n.startswith(_SETTINGS) for n in names):
    return contents
  raise InputError(
    f'{path} holds Python objects ({messages.listed(names)}), which could run '
    'any code, and is refused; where you trust it, write its weights alone: '
    f'{_advice(path, contents)}'
  )


def _loaded(torch, path, allowed):
  with (
    warnings.catch_warnings(),
    torch.serialization.safe_globals(allowed),
    open(path, 'rb') as file,  # by its name, torch would take another reader
  ):
    warnings.simplefilter('ignore')  # about pickles not written by torch
    found = torch.load(file, weights_only=True, map_location='cpu')
  _check_sizes(torch, path, found)
  return found


def _value_classes() -> Sequence[Any]:
  """Returns classes and functions that only make values, by pickled name."""
  numpy_functions = {
    'scalar': np.float32(0).__reduce__()[0],
    '_reconstruct': np.zeros(0).__reduce__()[0],
  }
  allowed = [
    argparse.Namespace,
    types.SimpleNamespace,
    collections.defaultdict,
    collections.deque,
    datetime.datetime,
    datetime.timedelta,
    np.ndarray,
    np.dtype,
    *(type(np.dtype(code)) for code in 'bBhHiIlLqQefd?US'),
  ]
  # NumPy 2 has another module than NumPy 1, and Python 3.13 than 3.12.
  for name, function in numpy_functions.items():
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
      allowed.append((function, f'{module}.{name}'))
  for name in ('PosixPath', 'PurePosixPath', 'WindowsPath', 'PureWindowsPath'):
    for module in ('pathlib', 'pathlib._local'):
      allowed.append((_Settings, f'{module}.{name}'))
  for kind in (dict, list, int, float, str, bool, tuple):
    allowed.append((_Settings, f'builtins.{kind.__name__}'))
  return allowed


def _without_classes(torch, path, first):
  """Returns a file's object with a `_Settings` in place of each refused one.

  Args:
    torch: the library.
    path: the file.
    first: the name of the class that was refused first.

  Returns:
    The object, or None if it cannot be read so; and the names of the classes.
  """
  names = _refused(torch, path) or [first]
  while True:
    try:
      empty = [(_Settings, name) for name in names]
      return _loaded(torch, path, [*_value_classes(), *empty]), names
    except Exception as error:
      found = _REFUSED.search(str(error))
      # PyTorch never reads those of some modules, such as `os`.
      if found is None or found[1] in names or len(names) > _MOST_NAMES:
        return None, names
      names = sorted([*names, found[1]])


def _refused(torch, path):
  """Returns the names of all classes of a file that may not be unpickled."""
  try:
    with (
      torch.serialization.safe_globals(_value_classes()),
      open(path, 'rb') as file,
    ):
      return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
  except Exception:  # older versions of torch, or an older format
    return []


def _check_archive(path):
  """Raises an InputError on a wrong checksum; torch.load does not check it."""
  if zipfile.is_zipfile(path):
    with zipfile.ZipFile(path) as archive:
      damaged = archive.testzip()
    if damaged is not None:
      raise InputError(f'wrong checksum of {damaged}')


def _check_pickle(path):
  """Raises an InputError if a file makes a bytearray, of any size."""
  if zipfile.is_zipfile(path):
    with zipfile.ZipFile(path) as archive:
      pickles = [n for n in archive.namelist() if n.endswith('/data.pkl')]
      filling = any(_FILLING.search(archive.read(name)) for name in pickles)
  else:
    with (
      open(path, 'rb') as file,
      mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
      filling = _FILLING.search(content)
  if filling:
    raise InputError('it makes a bytearray, which no weights file needs')


def _check_sizes(torch, path, found):
  """Raises an InputError if tensors have far more bytes than their file."""
  pending, seen, total = [found], set(), 0
  while pending:
    node = pending.pop()
    if isinstance(node, dict | list | tuple):
      if id(node) not in seen:
        seen.add(id(node))
        pending += node.values() if isinstance(node, dict) else node
    elif isinstance(node, torch.Tensor) and node.layout == torch.strided:
      total += node.numel() * node.element_size()
  size = path.stat().st_size
  if total > max(_ALWAYS_ALLOWED_BYTES, _MOST_SHARING * size):
    raise InputError(
      f'its tensors claim {total:,} bytes, but the file has {size:,}'
    )


def _advice(path, contents):
  """Returns the line of Python that writes the weights of a file alone.

  Args:
    path: the file.
    contents: its object, see `_without_classes`.
  """
  if contents is None:
    return (
      f'torch.load({path.name!r}, weights_only=False), then torch.save of the '
      'state dict in it'
    )
  part = '.state_dict()'
  if isinstance(contents, Mapping):
    keys = [key for key in (*WRAPPERS, *contents) if key in contents]
    dicts = [key for key in keys if _has_tensors(contents[key])]
    objects = [key for key in keys if isinstance(contents[key], _Settings)]
    if dicts:
      part = f'[{dicts[0]!r}]'
    elif objects:
      part = f'[{objects[0]!r}].state_dict()'
  return (
    f'torch.save(torch.load({path.name!r}, weights_only=False){part}, '
    "'weights.pth')"
  )


def _has_tensors(value):
  return isinstance(value, Mapping) and any(
    hasattr(each, 'dtype') for each in value.values()
  )


def _why_unreadable(error):
  text = str(error).partition('WeightsUnpickler error: ')[2] or str(error)
  reason = messages.short(text.strip().splitlines()[0] if text else repr(error))
  return f'is no PyTorch weights file, or damaged ({reason}); download it again'
