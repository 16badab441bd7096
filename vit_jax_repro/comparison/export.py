"""Archives of inputs, activations and logits, for ports in any language.

The .npz (a zip archive of NumPy arrays, uncompressed) holds

  images             [B, H, W, 3] float32, the input of the model
  logits             [B, K] float32
  inter:NAME         float32 activations, with the names of `models`, for
                     example 'inter:Transformer/encoderblock_0' [B, N, D]
  tolerance:NAME     float64 scalar for each of these and 'logits': the largest
                     absolute difference of a faithful port
  about              JSON text as [n] uint8: `format` (1), `weights` (file
                     name), `model` (fields), `preprocessing`, `files`,
                     `order` (names in the order of computation), `versions`

Images have their channels last. A port with channels first needs them
transposed to [B, 3, H, W]. Its activations are compared after transposing back.
"""

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.weights import npz

FORMAT = 1


def write(
  path: str | os.PathLike,
  images: np.ndarray,
  outputs: Mapping[str, np.ndarray],
  tolerances: Mapping[str, float],
  about: Mapping[str, Any],
) -> None:
  """Writes the archive, atomically.

  Args:
    path: path of the archive, ending in '.npz'.
    images: [B, H, W, 3] float32.
    outputs: {name: array}, see `activations.run`.
    tolerances: {name: absolute value}.
    about: JSON-serialisable values; `format` and `order` are added.

  Raises:
    InputError: see `check_path`.
    OSError: the file cannot be written.
  """
  check_path(path)
  about = dict(about, format=FORMAT, order=list(outputs))
  text = json.dumps(about, indent=1).encode()
  arrays: dict[str, np.ndarray] = {
    'about': np.frombuffer(text, np.uint8),
    'images': images,
  }
  for name, array in outputs.items():
    arrays[name if name == 'logits' else f'inter:{name}'] = array
    arrays[f'tolerance:{name}'] = np.asarray(tolerances[name], np.float64)
  npz.write(path, arrays.items())


def check_path(path: str | os.PathLike) -> None:
  """Checks that an archive may be written to a path.

  An older archive may be replaced.

  Raises:
    InputError: the name does not end in '.npz', or the path has another file,
      such as weights.
  """
  path = os.fspath(path)
  if not path.endswith('.npz'):
    raise InputError(f'{path!r} must end in .npz')
  if os.path.lexists(path) and not _is_export(path):
    raise InputError(
      f'{path!r} exists and was not written by this command; give another '
      'name, or remove it'
    )


def _is_export(path):
  try:
    return 'about' in npz.read_names(path)
  except (OSError, ValueError):
    return False
