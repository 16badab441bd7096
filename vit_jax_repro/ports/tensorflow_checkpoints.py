"""Reads EfficientNet's released checkpoints, in TensorFlow's own format.

The names are those of the authors' code (tensorflow/tpu, models/official/
efficientnet/efficientnet_model.py), which numbers the layers of a kind in each
unit: `efficientnet-b0/blocks_1/conv2d_1/kernel`. A unit that does not expand
begins with the depthwise convolution. Each variable, also a running statistic,
may have an average, NAME/ExponentialMovingAverage, which the authors evaluate.
"""

import math
import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages, waiting
from vit_jax_repro.output.messages import note
from vit_jax_repro.ports import file_kinds, foreign_files, jax_names
from vit_jax_repro.weights import trees

_AVERAGE = '/ExponentialMovingAverage'
_NORM = 'tpu_batch_normalization'
_ENDS = {
  'stem/conv2d': 'stem/conv',
  f'stem/{_NORM}': 'stem/norm',
  'head/conv2d': 'top/conv',
  f'head/{_NORM}': 'top/norm',
  'head/dense': 'head',
}
_SQUEEZE = {'se/conv2d': 'squeeze/reduce', 'se/conv2d_1': 'squeeze/expand'}
_UNIT = _SQUEEZE | {
  'depthwise_conv2d': 'depthwise/conv',
  _NORM: 'depthwise/norm',
  'conv2d': 'project/conv',
  f'{_NORM}_1': 'project/norm',
}
_EXPANDED_UNIT = _SQUEEZE | {
  'conv2d': 'expand/conv',
  _NORM: 'expand/norm',
  'depthwise_conv2d': 'depthwise/conv',
  f'{_NORM}_1': 'depthwise/norm',
  'conv2d_1': 'project/conv',
  f'{_NORM}_2': 'project/norm',
}
_LEAVES = {
  'kernel': 'kernel',
  'depthwise_kernel': 'kernel',
  'bias': 'bias',
  'gamma': 'scale',
  'beta': 'bias',
  'moving_mean': 'mean',
  'moving_variance': 'var',
}
_MARKER = 'stem/conv2d/kernel'


def read(path: str | os.PathLike, *, ema: bool = False) -> dict[str, Any]:
  """Reads a checkpoint into a canonical tree; averages are preferred.

  Args:
    path: see `file_kinds.tensorflow_prefix`.
    ema: whether it is an error if there are no averages.

  Raises:
    InputError: it is damaged, or of another model, or with `ema` it has no
      averages.
  """
  prefix = file_kinds.tensorflow_prefix(path)
  assert prefix, path  # the caller knows the kind
  tf = tensorflow()
  with waiting.doing(f'reading {prefix}'):
    try:
      reader = tf.train.load_checkpoint(prefix)
      shapes = reader.get_variable_to_shape_map()
      dtypes = reader.get_variable_to_dtype_map()
    except Exception as error:  # damaged bytes make it raise any exception
      raise _damaged(prefix, error) from None
    names = _chosen(shapes, prefix, ema)
    _check_sizes(prefix, names.values(), shapes, dtypes)
    try:
      arrays = {key: reader.get_tensor(name) for key, name in names.items()}
    except Exception as error:
      raise _damaged(prefix, error) from None
  return trees.nest(_canonical(arrays, prefix))


def _damaged(prefix, error):
  return InputError(
    f'{prefix} is a damaged TensorFlow checkpoint ({messages.short(error)}); '
    'download it again'
  )


def _chosen(names: Collection[str], path: str, ema: bool) -> dict[str, str]:
  """Returns {name below the model: name of the variable or its average}."""
  models = [
    name.removesuffix(_MARKER) for name in names if _is_marker(name)
  ]  # ['efficientnet-b0/']
  if len(models) != 1:
    raise InputError(
      f'{path} is a TensorFlow checkpoint of {messages.listed(sorted(names))}, '
      "not of one of the authors' EfficientNets, which alone are read; "
      f'{foreign_files.SAME}'
    )
  (model,) = models
  own = {
    name.removeprefix(model): name
    for name in names
    if name.startswith(model) and name.rpartition('/')[2] in _LEAVES
  }
  averages = {
    key: name + _AVERAGE
    for key, name in own.items()
    if name + _AVERAGE in names
  }
  if averages:
    note(f'{path}: its averaged weights are read, which the authors evaluate')
  elif ema:
    raise InputError(f'{path}: {jax_names.NO_AVERAGE}')
  return own | averages


def _is_marker(name):
  return name == _MARKER or name.endswith(f'/{_MARKER}')


def _check_sizes(prefix, names, shapes, dtypes):
  """Raises an InputError if the arrays are larger than the files of them.

  TensorFlow reserves the memory before it reads.
  """
  _, *files = file_kinds.tensorflow_files(prefix)
  stored = sum(map(os.path.getsize, files))
  number = 0
  for each in names:
    if not dtypes[each].is_floating:
      raise InputError(
        f'{prefix}: {messages.quoted(each)} has dtype {dtypes[each].name}; '
        'weights are floating-point numbers'
      )
    number += math.prod(shapes[each]) * dtypes[each].size
  if number > stored:
    raise InputError(
      f'{prefix} lists arrays of {number:,} bytes and its .data files have '
      f'{stored:,}; download it again'
    )


def _canonical(
  arrays: Mapping[str, np.ndarray], path: str
) -> dict[str, np.ndarray]:
  """Renames {'blocks_0/conv2d/kernel': array} to canonical names.

  A unit whose output is wider or narrower than its input begins a block, as in
  every published size.

  Raises:
    InputError: a variable belongs to no module.
  """
  modules = _ENDS | _modules_of_units(arrays)
  unknown = sorted(n for n in arrays if n.rpartition('/')[0] not in modules)
  if unknown:
    raise InputError(
      f'{path} has {messages.listed(unknown)}, which belong to no layer of an '
      'EfficientNet, or to a unit without its kernels; download it again'
    )
  flat = {}
  for name, array in arrays.items():
    module, _, leaf = name.rpartition('/')
    turned = leaf == 'depthwise_kernel' and array.ndim == 4
    # [kh, kw, C, 1] to [kh, kw, 1, C]
    flat[f'{modules[module]}/{_LEAVES[leaf]}'] = (
      array.swapaxes(2, 3) if turned else array
    )
  return flat


def _modules_of_units(arrays):
  """Returns {'blocks_0/conv2d': 'block1/unit01/project/conv', ...}."""
  found, block, unit, number = {}, 0, 0, 0
  while (first := arrays.get(f'blocks_{number}/conv2d/kernel')) is not None:
    scope, names, last = f'blocks_{number}', _UNIT, first
    if f'{scope}/{_NORM}_2/gamma' in arrays:
      names, last = _EXPANDED_UNIT, arrays.get(f'{scope}/conv2d_1/kernel')
    if last is None:
      break
    if not found or first.shape[-2:-1] != last.shape[-1:]:
      block, unit = block + 1, 0
    unit += 1
    number += 1
    found |= {
      f'{scope}/{name}': f'block{block}/unit{unit:02d}/{ours}'
      for name, ours in names.items()
    }
  return found
