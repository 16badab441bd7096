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
    ValueError: see `check_name`.
    OSError: the file cannot be written.
  """
  check_name(path)
  about = dict(about, format=FORMAT, order=list(outputs))
  text = json.dumps(about, indent=1).encode()
  arrays = {'about': np.frombuffer(text, np.uint8), 'images': images}
  for name, array in outputs.items():
    arrays[name if name == 'logits' else f'inter:{name}'] = array
    arrays[f'tolerance:{name}'] = np.float64(tolerances[name])
  npz.write(path, arrays.items())


def check_name(path: str | os.PathLike) -> None:
  """Raises a ValueError if an archive's name does not end in '.npz'."""
  if not os.fspath(path).endswith('.npz'):
    raise ValueError(f'{os.fspath(path)!r} must end in .npz')
