"""A model ready to be applied, from any weights file.

Remarks on what was decided for the caller go to standard error, one line each.
"""

import contextlib
import dataclasses
import os

import numpy as np

from vit_jax_repro import models, weights
from vit_jax_repro.data import labels, preprocess
from vit_jax_repro.errors import InputError
from vit_jax_repro.output.messages import by, note
from vit_jax_repro.weights import model_card, positions


@dataclasses.dataclass(frozen=True)
class Restored:
  """A model ready to be applied, with the metadata of its file."""

  model: object  # linen module
  params: dict  # in the form that `model` takes
  name: str  # as the caller gave it, the published one, or the family
  image_size: tuple[int, int]  # height, width
  class_names: tuple[str, ...] | None
  preprocessing: str

  @property
  def num_classes(self):
    return self.model.num_classes

  def require_trained_head(self, path):
    """Refuses heads as published under imagenet21k/: kernels of zeros.

    Raises:
      InputError: such a head (whatever its bias), or none.
    """
    heads = [name for name in ('head', 'head_dist') if name in self.params]
    if not heads:
      raise InputError(f'{path} has no head; it cannot tell classes apart')
    for name in heads:
      if not np.any(np.asarray(self.params[name]['kernel'])):
        raise InputError(
          f'the kernel of the {name} of {path} is all zeros, as published for '
          'fine-tuning: it says the same of every image; use a fine-tuned file '
          '(imagenet21k+imagenet2012/, augreg/) or fine-tune this one first'
        )


def restore(
  path,
  model=None,
  image_size=None,
  preprocessing=None,
  *,
  default_image_size=None,
):
  """Reads a weights file and builds the model that it belongs to.

  Args:
    path: a published .npz file, or a run's model.npz next to its model.json.
    model: a name that overrides the architecture of the file.
    image_size: S or (H, W) pixels; position embeddings are resized to it.
    preprocessing: a name, see data.preprocess.pick_preprocessing; by default
      that of model.json, else `model_card.default_preprocessing`.
    default_image_size: (H, W) of files that do not have their image size; by
      default that of the family.

  Returns:
    Restored.

  Raises:
    InputError: the file is no weights file, does not fit the model or cannot
      be brought to the image size; an unknown name.
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
  if name in ('deit', 'big_vision'):  # the others give the same pixels
    note(f'nothing says how images are to be read; using {name!r}')
  return name


def _card(path):
  """Returns the card of a weights file; None for no card or other JSON."""
  try:
    return model_card.read_card(path)
  except model_card.NotACardError as error:
    note(f'{error} and is ignored')
    return None


@contextlib.contextmanager
def _about(subject):
  """Puts the subject in front of the message of an InputError."""
  try:
    yield
  except InputError as error:
    raise InputError(f'{subject}: {error}') from error


def _named(name, spec):
  """Returns the named model with the file's head: classes and tanh layer."""
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
  """Notes that a class token got a position, inferred from counts alone."""
  number, fitted_number = map(positions.count_in, (params, fitted))
  if positions.is_token_without_slot(params) and number != fitted_number:
    note(
      f'{number} position embeddings are a square, so they are taken for those '
      'of the patches alone; the class token gets one of zeros'
    )
