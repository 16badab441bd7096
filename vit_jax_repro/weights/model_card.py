"""A run's model: weights in `NAME.npz` and what they need in `NAME.json`.

The JSON file holds

  architecture   mapping of fields for models.create, num_classes among them
  class_names    list, one name for each label, or null
  preprocessing  a name for data.preprocess.pick_preprocessing, such as
                 'vit_jax' or 'timm:crop_pct=0.95', or null
  image_size     [height, width] pixels that the weights are made for

A published file has no JSON beside it; its names and shapes say the same.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from vit_jax_repro import weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files

# Where neither the caller nor the file says for what size weights are made.
# The published ImageNet files of BiT were fine-tuned and evaluated at 480
# (big_transfer's rule for images larger than 96x96 pixels); 224 is what all
# other families are pre-trained at.
DEFAULT_IMAGE_SIZE = {'bit_resnetv2': (480, 480)}
OTHER_DEFAULT_IMAGE_SIZE = (224, 224)


@dataclasses.dataclass(frozen=True)
class ModelCard:
  """What stands in the JSON file; fields as at the top of this file."""

  architecture: Mapping[str, Any]
  class_names: tuple[str, ...] | None = None
  preprocessing: str | None = None
  image_size: tuple[int, int] | None = None


class NotACardError(InputError):
  """A JSON file beside a weights file describes no model."""


def card_path(weights_path):
  """Where the JSON file of a weights file lies: 'a/b.npz' -> 'a/b.json'."""
  return os.path.splitext(os.fspath(weights_path))[0] + '.json'


def save_model(
  path,
  params,
  *,
  architecture,
  class_names=None,
  preprocessing=None,
  image_size=None,
):
  """Writes `path` (official layout) and the JSON file beside it.

  Each file is whole or not there; the weights come last, so that a weights
  file is never found without its description.

  Args:
    path: ends in '.npz'.
    params: the tree of the model, stacked or not.
    architecture, class_names, preprocessing, image_size: see the top.

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
  }
  _check(card, card_path(path))
  files.check_writable(path)
  files.write_json(card_path(path), card)
  weights.save(path, params, layout='official')


def read_card(weights_path):
  """The ModelCard of a weights file, None if it has no JSON file.

  Raises:
    NotACardError: it is no JSON, or one of something else.
    InputError: it describes a model, but is inconsistent.
    OSError: it cannot be read.
  """
  path = card_path(weights_path)
  if not os.path.isfile(path):
    return None
  try:
    with open(path, encoding='utf-8') as file:
      card = json.load(file)
  except (ValueError, RecursionError) as error:
    raise NotACardError(f'{path} is not valid JSON ({error})') from None
  if not isinstance(card, dict) or not isinstance(
    card.get('architecture'), dict
  ):
    raise NotACardError(
      f"{path} does not describe a model (no 'architecture', a mapping of "
      'fields)'
    )
  _check(card, path)
  names, size = card.get('class_names'), card.get('image_size')
  return ModelCard(
    architecture=card['architecture'],
    class_names=None if names is None else tuple(names),
    preprocessing=card.get('preprocessing'),
    image_size=None if size is None else tuple(size),
  )


def _check(card, path):
  names = card.get('class_names')
  if names is not None and not _all(names, list, str):
    raise InputError(f"{path}: 'class_names' must be a list of names or null")
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


def _all(value, container, kind):
  return isinstance(value, container) and all(
    isinstance(item, kind) for item in value
  )


def default_preprocessing(spec, module):
  """How the code that a published file comes from evaluates it.

  Sources: data.preprocess.PREPROCESSINGS. A DeiT is known by its exact GELU
  (a file has a distillation token or `model` names one), big_vision by
  names that only its files have: not so its Mixers, and its ViTs that average
  over patches with learned positions, which are taken for the others.

  Args:
    spec: what `weights.describe` says of the file.
    module: the model it is restored to.
  """
  if spec['model'] == 'bit_resnetv2':
    return 'bit'
  if getattr(module, 'gelu', None) == 'erf':
    return 'deit'
  if (
    spec.get('class_token_after_positions')
    or spec.get('position_embedding') == 'sincos2d'
    or spec.get('classifier') == 'map'
  ):
    return 'big_vision'
  return 'vit_jax'
