"""Models restored from any weights file, ready to be applied.

Notes on the defaults that were used go to standard error, one line each.
"""

import contextlib
import dataclasses
import os
from typing import Any

import numpy as np

from vit_jax_repro import models, weights
from vit_jax_repro.data import labels, preprocess
from vit_jax_repro.errors import InputError
from vit_jax_repro.models import patches
from vit_jax_repro.output.messages import by, note
from vit_jax_repro.weights import model_card, positions


@dataclasses.dataclass(frozen=True)
class Restored:
  """A model ready to be applied, with the metadata of its file."""

  model: Any  # linen module
  params: dict[str, Any]  # for `model.apply`
  name: str  # given by the caller, else the published one, else the family
  image_size: tuple[int, int]  # height, width
  class_names: tuple[str, ...] | None
  preprocessing: str

  @property
  def num_classes(self) -> int:
    """Returns the number of classes."""
    return self.model.num_classes

  def require_trained_head(self, path: str | os.PathLike) -> None:
    """Raises if the head is missing or its kernel is all zeros.

    Files under imagenet21k/ are published with such a kernel. The bias does not
    matter.

    Args:
      path: path of the weights file, for the message.

    Raises:
      InputError: there is no head, or its kernel is all zeros.
    """
    heads = [name for name in ('head', 'head_dist') if name in self.params]
    if not heads:
      raise InputError(
        f'{path} has no head, so it cannot classify images; use a fine-tuned '
        'file'
      )
    for name in heads:
      if not np.any(np.asarray(self.params[name]['kernel'])):
        raise InputError(
          f'the kernel of the {name} of {path} is all zeros, as published for '
          'fine-tuning, so all images get the same logits; use a fine-tuned '
          'file (imagenet21k+imagenet2012/, augreg/) or fine-tune this one '
          'first'
        )


def restore(
  path: str | os.PathLike,
  model: str | None = None,
  image_size: int | tuple[int, ...] | list[int] | None = None,
  preprocessing: str | None = None,
  *,
  default_image_size: tuple[int, int] | None = None,
) -> Restored:
  """Reads a weights file and builds its model.

  Args:
    path: a published .npz file, or a run's model.npz next to its model.json.
    model: a name that overrides the architecture of the file.
    image_size: S or (H, W) pixels; position embeddings are resized to it. By
      default the file's.
    preprocessing: a name, see data.preprocess.pick_preprocessing; by default
      that of model.json, else `model_card.default_preprocessing`.
    default_image_size: (H, W) for files that do not record an image size; by
      default that of the family.

  Raises:
    InputError: a name is unknown; the file is not a weights file, does not fit
      the model or cannot be adapted to the image size.
    OSError: the file cannot be read.
  """
  path = os.fspath(path)
  if preprocessing is not None:
    preprocess.pick_preprocessing(preprocessing)
  if image_size is not None:
    image_size = preprocess.check_image_size(image_size)
  card = _card(path)
  params = weights.load(path)
  with _about(path):
    spec = weights.describe(params)
  family = spec['model']
  if model is not None:
    module = _named(model, spec)
  else:
    with _about(model_card.card_path(path) if card else path):
      module = models.create(card.architecture if card else spec)
  bare = card is None
  if preprocessing is None:
    preprocessing = _preprocessing_of(card, path, spec, module)
  card = card or model_card.ModelCard(spec)
  size = image_size or card.image_size or spec.get('image_size')
  if size is None:
    size = default_image_size or model_card.DEFAULT_IMAGE_SIZE.get(
      family, model_card.OTHER_DEFAULT_IMAGE_SIZE
    )
    note(f'the file gives no image size; using {by(size)}')
  with _about(path):
    size = preprocess.check_image_size(size)
  fitted = _fit(params, module, size, card, path)
  if bare:
    _note_token_without_slot(params, fitted)
  uncovered = patches.note_on_uncovered(module, size)
  if uncovered:
    note(uncovered)
  names = card.class_names
  return Restored(
    model=module,
    params=fitted,
    name=model or models.name_of(module) or family,
    image_size=size,
    class_names=names or labels.class_names_of(module.num_classes),
    preprocessing=preprocessing,
  )


def _preprocessing_of(card, path, spec, module):
  if card is not None and card.preprocessing is not None:
    with _about(model_card.card_path(path)):
      preprocess.pick_preprocessing(card.preprocessing)
    return card.preprocessing
  name = model_card.default_preprocessing(spec, module)
  # The other defaults need no note, because they give the same pixels.
  if name in ('deit', 'big_vision'):
    note(f'no preprocessing is recorded for the file; using {name!r}')
  return name


def _card(path):
  """Returns the card of a weights file; None if it has none.

  A JSON file of that name that is not a card is ignored, with a note.
  """
  try:
    return model_card.read_card(path)
  except model_card.NotACardError as error:
    note(f'{error}; the file is ignored')
    return None


@contextlib.contextmanager
def _about(subject):
  """Prefixes the message of an InputError with its subject."""
  try:
    yield
  except InputError as error:
    raise InputError(f'{subject}: {error}') from error


def _named(name, spec):
  """Returns the named model with the classes and the tanh layer of the file."""
  module = models.create(name, num_classes=spec['num_classes'])
  if hasattr(module, 'representation_size'):
    module = module.clone(representation_size=spec.get('representation_size'))
  return module


def _fit(params, module, size, card, path):
  names, num_classes = card.class_names, module.num_classes
  if names is not None and len(names) != num_classes:
    raise InputError(
      f'{model_card.card_path(path)} has {len(names)} class names for '
      f'{num_classes} classes'
    )
  with _about(f'{path}, image size {by(size)}'):
    return weights.adapt(
      params,
      module,
      image_size=size,
      source_image_size=card.image_size,
      head='keep',
    )


def _note_token_without_slot(params, fitted):
  """Notes that the class token gets a position embedding of zeros.

  That the file has none for it is inferred only from the number of positions.
  """
  number, fitted_number = map(positions.count_in, (params, fitted))
  if positions.is_token_without_slot(params) and number != fitted_number:
    note(
      f'{number} position embeddings form a square, so they are taken to be '
      'those of the patches only; the class token gets one of zeros'
    )
