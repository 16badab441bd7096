"""The most probable classes of image files."""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from vit_jax_repro.data import labels, preprocess
from vit_jax_repro.errors import InputError, line_of
from vit_jax_repro.inference import classify, many_images, zero_shot
from vit_jax_repro.inference.restoring import restore
from vit_jax_repro.output import waiting
from vit_jax_repro.output.messages import note, note_unapplied
from vit_jax_repro.parallel import host_memory

SIGMOID = (
  'the model decides each class on its own (loss sigmoid): the probabilities '
  'of an image do not add up to 100 %, and 50 % or more means yes'
)


@dataclasses.dataclass(frozen=True)
class Prediction:
  """The most probable classes of an image, or why there are none."""

  image: str  # its path
  # (class index, class name, probability), the most probable first
  classes: tuple[tuple[int, str, float], ...]
  error: str | None = None  # one line if the image cannot be read


def predict(
  weights: str | os.PathLike,
  images: Sequence[str | os.PathLike],
  *,
  model: str | None = None,
  top: int = 5,
  image_size: int | tuple[int, ...] | list[int] | None = None,
  preprocessing: str | None = None,
  orientation: str | None = None,
  texts: Sequence[str] | None = None,
) -> list[list[tuple[int, str, float]]]:
  """Returns the most probable classes of image files.

  `predict_each` yields them one by one, and continues after a damaged image.

  Args:
    weights, model, image_size, preprocessing: see `restoring.restore`.
    images: paths of files of data.pillow.FORMATS.
    top: number of classes to return for each image, at least 1.
    orientation: as for `evaluate`; by default that of model.json, else 'exif'.
    texts: the classes, for an image-text model.

  Returns:
    For each image a list of (class index, class name, probability), the most
    probable first: min(top, number of classes) of them. Probabilities are a
    softmax over all classes. If the model was trained with sigmoid, each is
    the probability of one class on its own, and a note reports it.

  Raises:
    InputError: there is no image, a file is not an image or not a weights file,
      the head is all zeros or has one output, or an argument is wrong. The
      message is one line.
    OSError: a file is missing or cannot be read.
  """
  found = []
  for _, classes, error in _each(
    weights,
    images,
    model=model,
    top=top,
    image_size=image_size,
    preprocessing=preprocessing,
    orientation=orientation,
    texts=texts,
  ):
    if error is not None:
      raise error
    found.append(classes)
  return found


def predict_each(
  weights: str | os.PathLike,
  images: Sequence[str | os.PathLike],
  *,
  top: int = 5,
  batch_size: int = many_images.BATCH_SIZE,
  **reading: Any,
) -> Iterator[Prediction]:
  """Returns an iterator of the predictions of image files, in their order.

  Memory does not grow with the number of images. An image that cannot be read
  gives a prediction with an error.

  Args:
    weights, images, top: see `predict`.
    batch_size: images of a step.
    **reading: `model`, `image_size`, `preprocessing`, `orientation` and `texts`
      of `predict`.

  Raises:
    InputError, OSError: as `predict`, but not for a single image.
  """
  found = _each(weights, images, top=top, batch_size=batch_size, **reading)
  return (
    Prediction(path, tuple(classes), error and line_of(error))
    for path, classes, error in found
  )


def _each(
  weights,
  images,
  *,
  top,
  batch_size=many_images.BATCH_SIZE,
  texts=None,
  **reading,
):
  """Returns an iterator of (path, classes, error) of each image."""
  images = [os.fspath(path) for path in images]
  if not images:
    raise InputError('no image to predict; give at least one path')
  if top < 1:
    raise InputError(f'{top=} must be at least 1')
  if texts is not None:
    restored = zero_shot.restore(weights, **reading).classifier(texts)
  else:
    restored = restore(weights, **reading)
    restored.require_classes(weights)
  if restored.loss == 'sigmoid':
    note(SIGMOID)
  with waiting.doing('loading the library that decodes images'):
    preprocess.require_decoder(restored.preprocessing)
  model = restored.model
  classify.require_classifier(
    model,
    restored.params,
    jax.ShapeDtypeStruct((1, *restored.image_size, 3), 'float32'),
  )
  turned: set[str] = set()
  outcomes = many_images.apply(
    functools.partial(_probabilities, model=model, loss=restored.loss),
    restored.params,
    functools.partial(restored.read_image, turned=turned),
    images,
    batch_size=host_memory.rows_at_once(batch_size, restored.image_size),
  )
  return _classes(outcomes, top, restored.class_names, turned)


def _classes(outcomes, top, class_names, turned):
  for path, row, error in outcomes:
    if row is None:
      yield path, [], error
    elif np.isfinite(row).all():
      yield path, _top(row, top, class_names), None
    else:
      yield path, [], InputError(f'{path}: the logits are not finite')
  note_unapplied(turned)


def _probabilities(params, images, *, model, loss):
  logits = classify.logits_of(params, images, model=model)
  if loss == 'sigmoid':
    return jax.nn.sigmoid(logits)  # [B, K]
  return jax.nn.softmax(logits, axis=-1)  # [B, K]


def _top(probabilities, top, class_names):  # [K]
  order = np.argsort(-probabilities, kind='stable')[:top]
  return [
    (int(i), labels.readable(i, class_names), float(probabilities[i]))
    for i in order
  ]
