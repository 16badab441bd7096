"""Model cards: the JSON file `NAME.json` that describes weights `NAME.npz`.

A run writes both files. The JSON file contains

  architecture   mapping of fields for models.create, including num_classes
  class_names    list, one name for each label, or null
  preprocessing  a name for data.preprocess.pick_preprocessing, such as
                 'vit_jax' or 'timm:crop_pct=0.95', or null
  image_size     [height, width] pixels that the weights are made for
  orientation    'exif' if images were turned upright by their EXIF orientation,
                 'none' if not, or null
  loss           'softmax' if an image has one class, 'sigmoid' if each class is
                 decided on its own, 'regression' if the outputs are no classes,
                 or null if it is not known

A published file has no JSON file. Its names and shapes describe the model.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

from vit_jax_repro import models, weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.models import variants
from vit_jax_repro.models.layers import TORCH_GELU
from vit_jax_repro.output import files, waiting
from vit_jax_repro.output.messages import check_class_names, note
from vit_jax_repro.weights import layouts, towers

# Image size for weights if neither the caller nor the file gives one. The
# published ImageNet files of BiT were fine-tuned and evaluated at 480
# (big_transfer's rule for images larger than 96x96 pixels). All other families
# are pre-trained at 224.
DEFAULT_IMAGE_SIZE = {'bit_resnetv2': (480, 480)}
OTHER_DEFAULT_IMAGE_SIZE = (224, 224)
# The preprocessings that the names in a file without a card show. All other
# files get one that reads the same pixels as 'vit_jax'.
TELLING = ('deit', 'big_vision', 'efficientnet')
_ORIENTATIONS = (None, 'exif', 'none')  # data.image_settings.ORIENTATIONS
_LOSSES = (None, 'softmax', 'sigmoid', 'regression')


@dataclasses.dataclass(frozen=True)
class ModelCard:
  """The contents of the JSON file, described at the top of this file."""

  architecture: Mapping[str, Any]
  class_names: tuple[str, ...] | None = None
  preprocessing: str | None = None
  image_size: tuple[int, int] | None = None
  orientation: str | None = None
  loss: str | None = None


@dataclasses.dataclass(frozen=True)
class DescribedWeights:
  """The parameters of a weights file, with what the file and its card say.

  Attributes:
    params: canonical tree, nested and unrolled.
    spec: what names and shapes show, from `weights.describe`.
    card: the card. A file without one gets the architecture and image size of
      `spec`, and the preprocessing only if names show it.
    card_file: path of the card, or of a library's config.json; None if there
      is none.
  """

  params: dict[str, Any]
  spec: dict[str, Any]
  card: ModelCard
  card_file: str | None

  @property
  def has_card(self) -> bool:
    """Returns whether a file describes the model."""
    return self.card_file is not None


class NotACardError(InputError):
  """Raised if a weights file's JSON file does not describe a model."""


def card_path(weights_path: str | os.PathLike) -> str:
  """Returns the path of a weights file's card: 'a/b.npz' -> 'a/b.json'."""
  return os.path.splitext(os.fspath(weights_path))[0] + '.json'


def save_model(
  path: str | os.PathLike,
  params: Mapping[str, Any],
  *,
  architecture: Mapping[str, Any],
  class_names: Iterable[str] | None = None,
  preprocessing: str | None = None,
  image_size: Iterable[int] | None = None,
  orientation: str | None = None,
  loss: str | None = None,
  layout: str = 'official',
) -> None:
  """Writes weights to `path`, and their JSON file.

  Both files are written atomically. The weights are written last, so a weights
  file never exists without its description.

  Args:
    path: ends in '.npz'.
    params: the tree of the model, stacked or not.
    architecture, class_names, preprocessing, image_size, orientation, loss: the
      contents of the JSON file, see the top of this file.
    layout: see `weights.save`.

  Raises:
    InputError: `path` does not end in '.npz', or the card is inconsistent.
    OSError: a file cannot be written.
  """
  if not os.fspath(path).endswith('.npz'):
    raise InputError(f'a model file must end in .npz, not {os.fspath(path)!r}')
  card = {
    'architecture': dict(architecture),
    'class_names': None if class_names is None else list(class_names),
    'preprocessing': preprocessing,
    'image_size': None if image_size is None else list(image_size),
    'orientation': orientation,
    'loss': loss,
  }
  _check(card, card_path(path))
  files.check_writable(path)
  files.write_json(card_path(path), card)
  weights.save(path, params, layout=layout)


def load(
  path: str | os.PathLike, *, both_towers: bool = False
) -> DescribedWeights:
  """Reads a weights file together with its card.

  A JSON file of the card's name that is not a card is ignored, with a note.

  Args:
    path: of the file.
    both_towers: whether to return an image-text model whole. By default its
      image tower is returned, with a note.

  Raises:
    InputError: the file is no weights file, or its card is inconsistent.
    OSError: a file cannot be read.
  """
  path = os.fspath(path)
  card = card_or_note(path)
  with waiting.doing(f'reading {os.fspath(path)}'):
    params = weights.load(path)
  try:
    spec = weights.describe(params)
  except InputError as error:
    raise InputError(f'{path}: {error}') from error
  shown = default_preprocessing(spec.get('image', spec))
  read = DescribedWeights(
    params=params,
    spec=spec,
    card=card
    or ModelCard(
      architecture=spec,
      preprocessing=shown if shown in TELLING else None,
      image_size=spec.get('image_size'),
    ),
    card_file=None if card is None else card_path(path),
  )
  if both_towers or not layouts.has_two_towers(params):
    return read
  towers.note_on_image(path)
  return image_tower(read)


def image_tower(read: DescribedWeights) -> DescribedWeights:
  """Returns the image tower of an image-text model with its card."""
  params = towers.image_of(read.params)
  return dataclasses.replace(
    read,
    params=params,
    spec=weights.describe(params),
    card=of_image(read.card),
  )


def of_image(card: ModelCard) -> ModelCard:
  """Returns the card of the image tower of an image-text model.

  The outputs of its head are features, so its loss is 'regression'.
  """
  architecture = models.image_fields(card.architecture)
  return dataclasses.replace(
    card,
    architecture=architecture,
    loss='regression' if architecture.get('num_classes') else None,
  )


def card_or_note(weights_path: str | os.PathLike) -> ModelCard | None:
  """Returns the card of a weights file, or None.

  A JSON file of the card's name that is not a card is ignored, with a note.

  Raises:
    InputError, OSError: as `read_card` for a card.
  """
  try:
    return read_card(weights_path)
  except NotACardError as error:
    note(f'{error}; the file is ignored')
    return None


def read_card(weights_path: str | os.PathLike) -> ModelCard | None:
  """Reads the card of a weights file; None if it has no JSON file.

  Raises:
    NotACardError: the file is no JSON object with an `architecture`.
    InputError: the file describes a model but is inconsistent.
    OSError: the file cannot be read.
  """
  path = card_path(weights_path)
  if not os.path.isfile(path):
    return None
  try:
    card = files.read_json(path, 'description of a model')
  except InputError as error:
    raise NotACardError(str(error)) from None
  if not isinstance(card.get('architecture'), dict):
    raise NotACardError(
      f"{path} is no description of a model: it has no 'architecture', a "
      'mapping of fields'
    )
  return from_json(card, path)


def from_json(card: Mapping[str, Any], path: str) -> ModelCard:
  """Returns the card with the contents of a JSON file.

  Args:
    card: the contents, with an `architecture`.
    path: of the file, for messages.

  Raises:
    InputError: the card is inconsistent.
  """
  _check(card, path)
  names, size = card.get('class_names'), card.get('image_size')
  return ModelCard(
    architecture=card['architecture'],
    class_names=None if names is None else tuple(names),
    preprocessing=card.get('preprocessing'),
    image_size=None if size is None else tuple(size),
    orientation=card.get('orientation'),
    loss=card.get('loss'),
  )


def _check(card, path):
  names = card.get('class_names')
  if names is not None and not _all(names, list, str):
    raise InputError(f"{path}: 'class_names' must be a list of names or null")
  check_class_names(names or (), path)
  num_classes = card['architecture'].get('num_classes')
  if names is not None and num_classes not in (None, len(names)):
    raise InputError(
      f'{path}: {len(names)} class names for {num_classes} classes'
    )
  size = card.get('image_size')
  if size is not None and not (_all(size, list, int) and len(size) == 2):
    raise InputError(
      f"{path}: 'image_size' must be [height, width] or null, not {size!r}"
    )
  name = card.get('preprocessing')
  if not isinstance(name, str | None):
    raise InputError(f"{path}: 'preprocessing' must be a name, not {name!r}")
  orientation = card.get('orientation')
  if orientation not in _ORIENTATIONS:
    raise InputError(
      f"{path}: 'orientation' must be 'exif', 'none' or null, not "
      f'{orientation!r}'
    )
  loss = card.get('loss')
  if loss not in _LOSSES:
    raise InputError(
      f"{path}: 'loss' must be 'softmax', 'sigmoid', 'regression' or null, not "
      f'{loss!r}'
    )


def _all(value, container, kind):
  return isinstance(value, container) and all(
    isinstance(item, kind) and not isinstance(item, bool) for item in value
  )


def default_image_size(spec: Mapping[str, Any]) -> tuple[int, int]:
  """Returns the (height, width) of a family, or of a size of EfficientNet.

  Args:
    spec: the fields that `weights.describe` returns for the file.
  """
  if spec['model'] == 'efficientnet':
    for size, (_, _, side, _) in variants.EFFICIENTNETS.items():
      named = variants.variant(f'EfficientNet-{size}')
      if all(
        tuple(spec[field]) == named[field]
        for field in ('block_units', 'block_channels')
      ):
        return side, side
  return DEFAULT_IMAGE_SIZE.get(spec['model'], OTHER_DEFAULT_IMAGE_SIZE)


def default_preprocessing(spec: Mapping[str, Any], module: Any = None) -> str:
  """Returns the preprocessing of the code that released a published file.

  Sources: data.preprocess.PREPROCESSINGS. A DeiT is recognised by its exact
  GELU, because the file has a distillation token or the model's name is a
  DeiT's. big_vision is recognised by names that only its files have. Its Mixers
  have no such names, nor have its ViTs that average over patches with learned
  positions. They get the preprocessing of the other families.

  Args:
    spec: the fields that `weights.describe` returns for the file.
    module: the model to which the file is restored; by default that of `spec`.

  Returns:
    A name in data.preprocess.PREPROCESSINGS.
  """
  if spec['model'] == 'bit_resnetv2':
    return 'bit'
  if spec['model'] == 'efficientnet':
    return 'efficientnet'
  gelu = spec.get('gelu') if module is None else getattr(module, 'gelu', None)
  if gelu == TORCH_GELU:
    return 'deit'
  if (
    spec.get('class_token_after_positions')
    or spec.get('position_embedding') == 'sincos2d'
    or spec.get('classifier') == 'map'
  ):
    return 'big_vision'
  return 'vit_jax'
