"""Names and layouts of the Flax models of transformers 4, as those of PyTorch.

`FlaxViTModel` and its like have the modules of their PyTorch models under the
same names. They differ in the last part of a name and in the axes of kernels,
as in transformers 4's own conversion (modeling_flax_pytorch_utils.py).
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np

_BLOCKS = re.compile(r'(.*/)?encoder/layer/0/')
_LAST = {'kernel': 'weight', 'scale': 'weight', 'embedding': 'weight'}


def are_of_transformers(names: Iterable[str]) -> bool:
  """Returns whether names such as 'vit/encoder/layer/0/...' are among these."""
  return any(_BLOCKS.match(name) for name in names)


def state_dict(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the state dict of the PyTorch model with these parameters.

  Args:
    arrays: flat, {'vit/layernorm/scale': array}; the result shares their
      memory.
  """
  return dict(_as_in_torch(name, array) for name, array in arrays.items())


def _as_in_torch(name, array):
  *parents, last = name.split('/')
  if last == 'kernel':
    array = _axes_of_torch(np.asarray(array))
  return '.'.join((*parents, _LAST.get(last, last))), array


def _axes_of_torch(kernel):
  """Returns a kernel with the outputs first: [I, O] or [H, W, I, O] in."""
  if kernel.ndim == 4:
    return kernel.transpose(3, 2, 0, 1)
  return kernel.T
