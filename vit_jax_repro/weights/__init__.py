"""Published weights: loading, describing, adapting to a model, and saving."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages
from vit_jax_repro.weights import layouts, npz, trees
from vit_jax_repro.weights.adapt import adapt, check_whole
from vit_jax_repro.weights.description import describe
from vit_jax_repro.weights.positions import resize_position_embedding

__all__ = [
  'adapt',
  'check_whole',
  'describe',
  'load',
  'resize_position_embedding',
  'save',
]


# One of these names is in each tree; an image-text model has its tower's.
_MARKERS = tuple(
  tower + name
  for tower in ('', layouts.IMAGE)
  for name in layouts.FAMILY_MARKERS
)


def load(path: str | os.PathLike) -> dict[str, Any]:
  """Reads a published .npz file of any layout into the canonical tree.

  `layouts` describes the layouts. Memory grows by little more than the size of
  the parameters. Optimizer state is not read. Of an image-text model the result
  has both towers, `img` and `txt`, and `t`; `towers.image_of` is the part that
  classifiers take.

  Args:
    path: a file of a ViT, hybrid, Mixer, BiT, EfficientNet, big_vision or LiT
      model.

  Returns:
    Nested dict of numpy arrays in their stored dtype, with linen's current
    numbering and unrolled blocks.

  Raises:
    FileNotFoundError: the file does not exist.
    InputError: the file is invalid; one line with the reason.
    OSError: the file cannot be read.
  """
  try:
    names = layouts.from_file(npz.read_names(path))
    arrays = npz.read(path, wanted=names.__contains__)
    return from_names({names[name]: array for name, array in arrays})
  except InputError as error:
    if str(path) in str(error):
      raise
    raise InputError(f'{path}: {error}') from None


def from_names(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Returns the canonical tree of arrays with canonical names.

  Trainers on several devices may save a copy of each array for each device.
  Then the first one is taken, with a note.

  Args:
    arrays: {name: array}, of a saved model; names are those of
      `layouts.from_file`, shapes those in files.

  Raises:
    InputError: the arrays are no parameters of a model, or copies differ.
  """
  for name, array in arrays.items():
    _check_is_array(name, array)
  flat = {
    name: layouts.from_file_shape(name, array)
    for name, array in _one_copy(arrays).items()
  }
  return trees.nest(trees.unstack(flat))


def _one_copy(arrays):
  """Returns arrays without the leading axis of copies for devices."""
  markers = [n for n in _MARKERS if n in arrays]
  if not markers or arrays[markers[0]].ndim != 5:  # a convolution's has 4
    return arrays
  number = len(arrays[markers[0]])
  wrong = [
    name
    for name, array in arrays.items()
    if array.shape[:1] != (number,) or not number or not _all_same(array)
  ]
  if wrong:
    raise InputError(
      f'the arrays have an axis of {number} copies for as many devices, and '
      f'the copies differ in {messages.listed(wrong)}; save one of them '
      '(flax.jax_utils.unreplicate)'
    )
  if number > 1:
    messages.note(
      f'each array is saved {number} times, once for each device; the copies '
      'are equal, and the first is used'
    )
  return {name: array[0] for name, array in arrays.items()}


def _all_same(array):
  first = np.ascontiguousarray(array[0]).tobytes()
  return all(np.ascontiguousarray(x).tobytes() == first for x in array[1:])


def save(
  path: str | os.PathLike,
  params: Mapping[str, Any],
  *,
  layout: str = 'official',
) -> None:
  """Writes parameters as an .npz file, atomically.

  The file contains one model's parameters. It has no optimizer state, which
  `load` does not read either.

  Args:
    path: file to write. An existing file is replaced when the new one is
      complete, and is kept if anything fails. A symbolic link stays a link, and
      a replaced file's permissions are kept.
    params: canonical tree, nested. Stacked blocks of scanned models are
      unstacked. bfloat16 is stored as float32, with a note.
    layout: 'official' (names and shapes of the family's released files),
      'linen' (the flattened tree), 'big_vision', or 'big_vision_scan' (blocks
      stacked on axis 0).

  Raises:
    InputError: the layout is unknown or does not support this model, the tree
      is not a model's, or a leaf is not an array of floats.
    OSError: the file cannot be written.
  """
  flat = trees.flatten(params)
  _check_is_model(flat)
  flat = trees.unstack(flat)
  is_narrow = any(leaf.dtype == npz.BFLOAT16 for leaf in flat.values())
  flat = {name: npz.widened(np.asarray(leaf)) for name, leaf in flat.items()}
  renamed = layouts.to_file(flat, layout)
  npz.write(path, ((name, renamed[name]) for name in sorted(renamed)))
  if is_narrow:
    messages.note(
      'bfloat16 parameters are written as float32, which has all their values: '
      'other programs cannot read bfloat16 in .npz files'
    )


def _check_is_model(flat):
  if not any(name in flat for name in _MARKERS):
    raise InputError(
      f'no parameters of a model: {len(flat)} leaves named '
      f'{messages.listed(flat)}; {layouts.advice(flat)}'
    )
  for name, leaf in flat.items():
    _check_is_array(name, leaf)


def _check_is_array(name, leaf):
  dtype = getattr(leaf, 'dtype', None)
  if dtype != npz.BFLOAT16 and getattr(dtype, 'kind', None) != 'f':
    what = f'{dtype} array' if dtype else type(leaf).__name__
    raise InputError(
      f'leaf {messages.quoted(name)} is a {messages.short(what)}; parameters '
      'are arrays of floats (quantised weights cannot be read: give the floats '
      'that they were made from)'
    )
