"""Published weights: loading, describing, adapting to a model, and saving."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages
from vit_jax_repro.weights import layouts, npz, trees
from vit_jax_repro.weights.adapt import adapt
from vit_jax_repro.weights.description import describe
from vit_jax_repro.weights.positions import resize_position_embedding

__all__ = ['adapt', 'describe', 'load', 'resize_position_embedding', 'save']


def load(path: str | os.PathLike) -> dict[str, Any]:
  """Reads a published .npz file of any layout into the canonical tree.

  `layouts` describes the layouts. Memory grows by little more than the size of
  the parameters. Optimizer state and the text tower of an image-text model are
  not read.

  Args:
    path: a file of a ViT, hybrid, Mixer, BiT or big_vision model.

  Returns:
    Nested dict of numpy arrays in their stored dtype, with linen's current
    numbering and unrolled blocks.

  Raises:
    FileNotFoundError: the file does not exist.
    InputError: the file is invalid; one line with the reason.
    OSError: the file cannot be read.
  """
  try:
    canonical = layouts.from_file(npz.read_names(path))
    flat = {
      canonical[name]: layouts.from_file_shape(canonical[name], array)
      for name, array in npz.read(path, wanted=canonical.__contains__)
    }
    return trees.nest(trees.unstack(flat))
  except InputError as error:
    if str(path) in str(error):
      raise
    raise InputError(f'{path}: {error}') from None


def save(
  path: str | os.PathLike,
  params: Mapping[str, Any],
  *,
  layout: str = 'official',
) -> None:
  """Writes parameters as an .npz file, atomically.

  The file contains one model's parameters. It has no optimizer state and no
  text tower, which `load` does not read either.

  Args:
    path: file to write. An existing file is replaced when the new one is
      complete, and is kept if anything fails. A symbolic link stays a link, and
      a replaced file's permissions are kept.
    params: canonical tree, nested. Stacked blocks of scanned models are
      unstacked. bfloat16 is stored as `V2`.
    layout: 'official' (names and shapes of the family's released files),
      'linen' (the flattened tree), 'big_vision', or 'big_vision_scan' (blocks
      stacked on axis 0).

  Raises:
    InputError: the layout is unknown or does not support this model, the tree
      is not a model's, or a leaf is not an array of numbers.
    OSError: the file cannot be written.
  """
  flat = trees.flatten(params)
  _check_is_model(flat)
  flat = trees.unstack(flat)
  renamed = layouts.to_file(flat, layout)
  npz.write(
    path, ((name, np.asarray(renamed[name])) for name in sorted(renamed))
  )


def _check_is_model(flat):
  if not any(name in flat for name in layouts.FAMILY_MARKERS):
    raise InputError(
      f'no parameters of a model: {len(flat)} leaves named '
      f'{messages.listed(flat)}; {layouts.advice(flat)}'
    )
  for name, leaf in flat.items():
    dtype = getattr(leaf, 'dtype', None)
    if dtype != npz.BFLOAT16 and getattr(dtype, 'kind', None) not in set(
      'biuf'
    ):
      what = f'{dtype} array' if dtype else type(leaf).__name__
      raise InputError(
        f'leaf {messages.quoted(name)} is a {messages.short(what)}; parameters '
        'are arrays of numbers'
      )
