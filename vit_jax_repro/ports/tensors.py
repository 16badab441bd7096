"""Tensors of PyTorch as arrays, and the other way round.

The library is an argument, so that importing this module does not need it.
"""

import os
from typing import Any

import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages
from vit_jax_repro.weights import npz


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
    InputError: it is not a tensor, has no values, or has a dtype that numpy
      does not have.
  """
  if not isinstance(name, str):
    raise InputError(
      f'{path}: {messages.quoted(name)} is no name of a tensor (it is of type '
      f'{type(name).__name__}); save only model.state_dict()'
    )
  if not isinstance(tensor, torch.Tensor):
    raise InputError(
      f'{path}: {messages.quoted(name)} is of type {type(tensor).__name__}, '
      'not a tensor; save only model.state_dict()'
    )
  _check_is_dense(torch, path, name, tensor)
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


def _check_is_dense(torch, path, name, tensor):
  if tensor.is_meta:
    raise InputError(
      f'{path}: {messages.quoted(name)} is a tensor without values (on the '
      'meta device); save the model after its weights were loaded'
    )
  if tensor.is_nested or tensor.layout != torch.strided:
    raise InputError(
      f'{path}: {messages.quoted(name)} is a sparse or nested tensor, and '
      'parameters are dense; save it with .to_dense()'
    )


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
