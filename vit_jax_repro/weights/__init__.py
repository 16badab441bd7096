"""Published weights: read, described, fitted to a model, written back."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax_repro.weights import names, npz, stacking
from vit_jax_repro.weights.adapt import adapt, resize_position_embedding
from vit_jax_repro.weights.description import describe

__all__ = ['adapt', 'describe', 'load', 'resize_position_embedding', 'save']


def load(path: str | os.PathLike) -> dict[str, Any]:
  """Reads a published .npz file of any layout into the canonical tree.

  Layouts: `names`. Memory rises by the parameters' size and little more;
  optimizer state in the file is not read.

  Args:
    path: the file; ViT, hybrid, Mixer, BiT or big_vision.

  Returns:
    Nested dict of numpy arrays in their stored dtype: linen's current
    numbering, unrolled blocks.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: one line that says what is wrong with the file.
  """
  try:
    canonical = names.from_file(npz.read_names(path))
    flat = {
      canonical[name]: names.from_file_shape(canonical[name], array)
      for name, array in npz.read(path, wanted=canonical.__contains__)
    }
  except ValueError as error:
    if str(path) in str(error):
      raise
    raise ValueError(f'{path}: {error}') from None
  return stacking.nest(stacking.unstack(flat))


def save(
  path: str | os.PathLike,
  params: Mapping[str, Any],
  *,
  layout: str = 'official',
) -> None:
  """Writes parameters as an .npz file, atomically.

  Args:
    path: file to write; one that is there is replaced when the new one is
      complete, and stays if anything fails.
    params: canonical tree, nested; stacked blocks of scanned models are
      unstacked. bfloat16 is stored as `V2`.
    layout: 'official' (names and shapes of the family's released files),
      'linen' (the flattened tree) or 'big_vision'.

  Raises:
    ValueError: unknown layout, or one that has no such model.
    OSError: the file cannot be written.
  """
  flat = stacking.unstack(stacking.flatten(params))
  renamed = names.to_file(flat, layout)
  npz.write(
    path, ((name, np.asarray(renamed[name])) for name in sorted(renamed))
  )
