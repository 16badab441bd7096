"""Models restored from any weights file, ready to be applied.

Notes on the defaults that were used go to standard error, one line each.
"""

import contextlib
import dataclasses
import os
from typing import Any, Self

import numpy as np

from vit_jax_repro import models, weights
from vit_jax_repro.data import datasets, labels, pillow, preprocess
from vit_jax_repro.errors import InputError
from vit_jax_repro.models import patches
from vit_jax_repro.output.messages import by, note
from vit_jax_repro.published import weight_names
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
  # 'exif' or 'none'; None: neither the caller nor the file gives it, and it
  # depends on the kind of data.
  orientation: str | None = None
  # 'softmax', 'sigmoid' or 'regression', see weights.model_card.
  loss: str = 'softmax'

  @property
  def num_classes(self) -> int:
    """Returns the number of classes."""
    return self.model.num_classes

  @property
  def probabilities(self) -> str | None:
    """Returns 'softmax' or 'sigmoid'; None if the outputs are no classes."""
    least = {'softmax': 2, 'sigmoid': 1}.get(self.loss)
    return self.loss if least and (self.num_classes or 0) >= least else None

  def for_data(self, split: datasets.Split) -> Self:
    """Returns the model with an orientation, by default that of the data."""
    orientation = self.orientation or split.orientation
    return dataclasses.replace(self, orientation=orientation)

  def read_image(
    self, path: str | os.PathLike, turned: set[str]
  ) -> np.ndarray:  # [H, W, 3] float32
    """Reads an image file that a person named, a photograph by default.

    Args:
      path: of a file of one of data.pillow.FORMATS.
      turned: gets the path if the image has an EXIF orientation that is not
        applied.

    Raises:
      InputError, OSError: as data.preprocess.read_image.
    """
    orientation = self.orientation or 'exif'
    image = preprocess.read_image(
      path,
      preprocessing=self.preprocessing,
      image_size=self.image_size,
      orientation=orientation,
    )
    if orientation == 'none':
      with open(path, 'rb') as file:
        if pillow.orientation_of(file.read()) != 1:
          turned.add(os.fspath(path))
    return image

  def require_classes(self, path: str | os.PathLike) -> None:
    """Raises if the outputs are no classes that can be compared.

    Args:
      path: path of the weights file, for the message.

    Raises:
      InputError: the model was trained for regression; there is one output,
        and its loss is not sigmoid; or see `require_trained_head`.
    """
    self.require_trained_head(path)
    if self.loss == 'regression':
      raise InputError(
        f'{path} was trained for regression, or is the image tower of an '
        'image-text model, so its outputs are numbers and no classes; give a '
        'model that was trained to classify'
      )
    if self.probabilities is None:
      raise InputError(
        f'{path} has one output, of which softmax always makes 100 %; if it '
        'decides one class, write "loss": "sigmoid" into the JSON file beside '
        'it, else the output is no class'
      )

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
  read: model_card.DescribedWeights | None = None,
  default_image_size: tuple[int, int] | None = None,
  orientation: str | None = None,
) -> Restored:
  """Reads a weights file with its card, and builds its model.

  Args:
    path: a weights file, a folder or a name, see published/weight_names.py.
    model: a name that overrides the architecture of the file.
    image_size: S or (H, W) pixels; position embeddings are resized to it. By
      default the file's.
    preprocessing: a name, see data.preprocess.pick_preprocessing; by default
      that of model.json, else `model_card.default_preprocessing`.
    read: the contents of the file, if the caller has read them.
    default_image_size: (H, W) for files that do not record an image size; by
      default that of the family.
    orientation: 'exif' turns images upright by their EXIF orientation, 'none'
      takes them as they are stored; by default that of model.json.

  Raises:
    InputError: a name is unknown; the file is not a weights file, does not fit
      the model or cannot be adapted to the image size.
    OSError: the file cannot be read.
  """
  path = os.fspath(path)
  if preprocessing is not None:
    preprocess.pick_preprocessing(preprocessing)
  if orientation is not None:
    preprocess.check_orientation(orientation)
  if image_size is not None:
    image_size = preprocess.check_image_size(image_size)
  read = weight_names.load(path) if read is None else read
  params, spec, card = read.params, read.spec, read.card
  family = spec['model']
  if model is not None:
    module = _named(model, spec)
  else:
    with _about(read.card_file or path):
      module = models.create(card.architecture)
  if preprocessing is None:
    preprocessing = _preprocessing_of(read, path, module)
  size = image_size or card.image_size or spec.get('image_size')
  if size is None:
    size = default_image_size or model_card.default_image_size(spec)
    note(f'the file gives no image size; using {by(size)}')
  with _about(path):
    size = preprocess.check_image_size(size)
  fitted = _fit(params, module, size, read, path)
  if not read.has_card and (line := positions.note_on_slot(params, fitted)):
    note(line)
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
    orientation=orientation or card.orientation,
    loss=card.loss or 'softmax',
  )


def _preprocessing_of(read, path, module):
  if read.has_card and read.card.preprocessing is not None:
    with _about(read.card_file):
      preprocess.pick_preprocessing(read.card.preprocessing)
    return read.card.preprocessing
  name = model_card.default_preprocessing(read.spec, module)
  if name in model_card.TELLING:
    note(f'no preprocessing is recorded for the file; using {name!r}')
  return name


@contextlib.contextmanager
def _about(subject):
  """Prefixes the message of an InputError with its subject."""
  try:
    yield
  except InputError as error:
    raise InputError(f'{subject}: {error}') from error


def _named(name, spec):
  """Returns the named model with the classes and the head's input of the file.

  The head's input is a tanh layer, or the class token with the mean of the
  patches.
  """
  module = models.create(
    models.image_fields(name), num_classes=spec['num_classes']
  )
  if hasattr(module, 'representation_size'):
    module = module.clone(representation_size=spec.get('representation_size'))
    if spec.get('classifier') == 'token_and_gap':
      module = module.clone(classifier='token_and_gap')
  return module


def _fit(params, module, size, read, path):
  card = read.card
  names, num_classes = card.class_names, module.num_classes
  if names is not None and len(names) != num_classes:
    raise InputError(
      f'{read.card_file} has {len(names)} class names for {num_classes} classes'
    )
  with _about(f'{path}, image size {by(size)}'):
    return weights.adapt(
      params,
      module,
      image_size=size,
      source_image_size=card.image_size,
      head='keep',
    )
