"""The most probable classes of image files."""

import os
from collections.abc import Sequence

import jax
import numpy as np

from vit_jax_repro.data import labels
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference import classify
from vit_jax_repro.inference.restoring import restore
from vit_jax_repro.output import waiting
from vit_jax_repro.output.messages import note_unapplied

_PREDICT_BATCH_SIZE = 16


def predict(
  weights: str | os.PathLike,
  images: Sequence[str | os.PathLike],
  *,
  model: str | None = None,
  top: int = 5,
  image_size: int | tuple[int, ...] | list[int] | None = None,
  preprocessing: str | None = None,
  orientation: str | None = None,
) -> list[list[tuple[int, str, float]]]:
  """Returns the most probable classes of image files.

  Args:
    weights, model, image_size, preprocessing: see `restoring.restore`.
    images: paths of files of data.pillow.FORMATS.
    top: number of classes to return for each image, at least 1.
    orientation: as for `evaluate`; by default that of model.json, else 'exif'.

  Returns:
    For each image a list of (class index, class name, probability), the most
    probable first: min(top, number of classes) of them. Probabilities are a
    softmax over all classes.

  Raises:
    InputError: there is no image, a file is not an image or not a weights file,
      the head is all zeros, or an argument is wrong. The message is one line.
    OSError: a file is missing or cannot be read.
  """
  images = [os.fspath(path) for path in images]
  if not images:
    raise InputError('no image to predict; give at least one path')
  if top < 1:
    raise InputError(f'{top=} must be at least 1')
  for path in images:
    if not os.path.exists(path):
      raise FileNotFoundError(f'no such image: {path}')
    if os.path.isdir(path):
      raise IsADirectoryError(f'{path} is a folder; give the image files in it')
  restored = restore(
    weights, model, image_size, preprocessing, orientation=orientation
  )
  restored.require_trained_head(weights)
  params = jax.device_put(restored.params)
  results, turned = [], set()
  for start in range(0, len(images), _PREDICT_BATCH_SIZE):
    with waiting.doing(f'predicting: {start} of {len(images)} images done'):
      chunk = np.stack(
        [
          restored.read_image(path, turned)
          for path in images[start : start + _PREDICT_BATCH_SIZE]
        ]
      )
      probabilities = classify.probabilities(restored.model, params, chunk)
    results += [_top(row, top, restored.class_names) for row in probabilities]
  note_unapplied(turned)
  return results


def _top(probabilities, top, class_names):  # [K]
  order = np.argsort(-probabilities, kind='stable')[:top]
  return [
    (int(i), labels.readable(i, class_names), float(probabilities[i]))
    for i in order
  ]
