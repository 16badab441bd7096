"""A weights file's answers as an archive, for ports in any language.

The .npz (a zip archive of NumPy arrays, uncompressed) holds

  images             [B, H, W, 3] float32, what the model was given
  logits             [B, K] float32
  inter:NAME         float32 activations, NAME as in `models`, for example
                     'inter:Transformer/encoderblock_0' [B, N, D]
  tolerance:NAME     float64 scalar for each of these and 'logits': how far a
                     faithful port may be, in absolute value
  about              JSON text as [n] uint8: `format` (1), `weights` (file
                     name), `model` (fields), `preprocessing`, `files`,
                     `order` (names in the order of computation), `versions`

Images are channels last. A port that takes channels first, [B, 3, H, W], gets
them transposed; its activations are compared after transposing back.
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
    path: ends in '.npz'.
    images: [B, H, W, 3] float32.
    outputs: {name: array}, see `activations.run`.
    tolerances: {name: absolute value}.
    about: what can be written as JSON; `format` and `order` are added.

  Raises:
    InputError: see `check_path`.
    OSError: the file cannot be written.
  """
  check_path(path)
  about = dict(about, format=FORMAT, order=list(outputs))
  text = json.dumps(about, indent=1).encode()
  arrays = {'about': np.frombuffer(text, np.uint8), 'images': images}
  for name, array in outputs.items():
    arrays[name if name == 'logits' else f'inter:{name}'] = array
    arrays[f'tolerance:{name}'] = np.float64(tolerances[name])
  npz.write(path, arrays.items())


def check_path(path: str | os.PathLike) -> None:
  """Refuses a path at which no archive should be written.

  Raises:
    InputError: its name does not end in '.npz', or another file is there, such
      as one of weights. An older archive may be replaced.
  """
  path = os.fspath(path)
  if not path.endswith('.npz'):
    raise InputError(f'{path!r} must end in .npz')
  if os.path.lexists(path) and not _is_export(path):
    raise InputError(
      f'{path!r} is there and is no archive of this verb; give another name, '
      'or remove it'
    )


def _is_export(path):
  try:
    return 'about' in npz.read_names(path)
  except (OSError, ValueError):
    return False
