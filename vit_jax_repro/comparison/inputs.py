"""Arguments and input of a cross-check, checked and read."""

import importlib.metadata
import os
import platform
from collections.abc import Sequence

import numpy as np

from vit_jax_repro.comparison import activations
from vit_jax_repro.data import preprocess, tf_host
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference.restoring import Restored

MAX_IMAGES = 8  # limited because the activations of all images are kept


def check(
  images: Sequence[str | os.PathLike],
  dtype: str,
) -> None:
  """Checks arguments of `crosscheck` before a model is loaded.

  Raises:
    InputError: there are too many images, or the dtype is unknown.
    FileNotFoundError: an image does not exist.
  """
  if len(images) > MAX_IMAGES:
    raise InputError(
      f'{len(images)} images are more than the {MAX_IMAGES} whose activations '
      'are kept; give fewer'
    )
  for path in images:
    if not os.path.isfile(path):
      raise FileNotFoundError(f'no such image: {os.fspath(path)}')
  if dtype not in activations.DTYPES:
    raise InputError(f'{dtype=} must be one of {", ".join(activations.DTYPES)}')


def require_tensorflow() -> None:
  """Checks that a port's preprocessing can be compared.

  Raises:
    InputError: TensorFlow is not installed.
  """
  try:
    tf_host.tensorflow()
  except InputError as error:
    raise InputError(
      f"cannot compare the port's preprocessing: {error}. Or leave --images "
      'out to compare the models on random images'
    ) from None


def versions() -> dict[str, str]:
  """Returns the versions of Python and of the installed libraries."""
  found = {'python': platform.python_version()}
  for name in ('jax', 'flax', 'torch', 'transformers', 'timm'):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def read(
  images: Sequence[str | os.PathLike], restored: Restored
) -> np.ndarray:  # [B, H, W, 3] float32
  """Returns images as the reference reads them, or else random images."""
  if not images:
    return activations.random_images(restored.image_size)
  return np.stack(
    [
      preprocess.read_image(
        path,
        preprocessing=restored.preprocessing,
        image_size=restored.image_size,
        orientation='none',  # as torchvision and timm read them
      )
      for path in images
    ]
  )
