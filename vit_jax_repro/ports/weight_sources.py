"""Weights of any library, with a description of their model.

The constants in a port's config.json (GELU, epsilons, number of heads) are
kept, so that the converted model computes the same as the port.
"""

import dataclasses
import os
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from vit_jax_repro import models, ports, weights
from vit_jax_repro.data import preprocess
from vit_jax_repro.errors import InputError
from vit_jax_repro.output.messages import by, note
from vit_jax_repro.ports import configs, state_dicts
from vit_jax_repro.weights import layouts, model_card, trees

_UNKNOWN_GELU = (
  'the files do not name the GELU that these weights were trained with; the '
  "authors' form (tanh) is used. For a DeiT, give --model=DeiT-..."
)


@dataclasses.dataclass(frozen=True)
class WeightSource:
  """Parameters with the description of their model.

  Attributes:
    params: canonical tree, nested and unrolled.
    card: the description.
    is_described: whether the card comes from a file or the caller. Otherwise
      it is derived from the parameters.
  """

  params: dict[str, Any]
  card: model_card.ModelCard
  is_described: bool

  @property
  def flat(self) -> dict[str, Any]:
    """The parameters as {path: array}."""
    return trees.flatten(self.params)


def config_folder(source: str) -> str | None:
  """Returns the folder whose config.json describes a source, or None."""
  if os.path.isdir(source):
    return source
  if os.path.basename(source) in state_dicts.FILES:
    return os.path.dirname(source) or '.'
  return None


def read(
  source: str, *, num_heads: int | None = None, model: str | None = None
) -> WeightSource:
  """Reads any weights file or folder, of this package or of a port.

  Args:
    source: an .npz file with or without a card, or a file or folder that
      `state_dicts.read` accepts, with or without a config.json in its folder.
    num_heads: number of attention heads of a port; by default that of `model`
      or config.json, else that of the published model of this width.
    model: name of the model; its architecture overrides that of the files.

  Raises:
    InputError: a file or argument is wrong.
    OSError: a file cannot be read.
  """
  if state_dicts.is_port(source):
    params, card = _read_port(source, num_heads, model)
  elif num_heads is not None:
    raise InputError(
      f'--num_heads={num_heads} is only for files of ports; the shapes in '
      f'{source} show the number of heads; leave it out'
    )
  else:
    loaded = model_card.load(source)
    params, card = loaded.params, loaded.card if loaded.has_card else None
  spec = weights.describe(params)
  image_size = spec.pop('image_size')
  is_described = card is not None or model is not None
  card = card or model_card.ModelCard(spec)
  if model is not None:
    card = dataclasses.replace(card, architecture=_named(model, params, spec))
  if card.class_names and len(card.class_names) != spec['num_classes']:
    raise InputError(
      f'{source}: {len(card.class_names)} class names for '
      f'{spec["num_classes"]} classes'
    )
  card = dataclasses.replace(card, image_size=card.image_size or image_size)
  return WeightSource(params, card, is_described)


def _read_port(source, num_heads, name):
  """Reads (params, ModelCard or None) of a port's file or folder."""
  state = state_dicts.read(source)
  folder = config_folder(source)
  config = None if folder is None else configs.read(folder)
  if num_heads is None and name is not None:
    num_heads = getattr(models.create(name), 'num_heads', None)
  if num_heads is None and config is not None:
    num_heads = config.num_heads
  try:
    params = ports.from_state_dict(
      state,
      num_heads=num_heads,
      token_slots=None if config is None else config.token_slots,
    )
    spec = weights.describe(params)
  except InputError as error:
    raise InputError(f'{source}: {error}') from None
  if config is None:
    if (
      name is None
      and spec.get('classifier') == 'token'
      and 'dist' not in params
    ):
      note(_UNKNOWN_GELU)
    return params, None
  del spec['image_size']
  if name is None:
    _note_constants(spec, config.fields)
  return params, model_card.ModelCard(
    architecture=spec | config.fields,
    class_names=config.class_names if spec['num_classes'] else None,
    preprocessing=config.preprocessing,
    image_size=config.image_size,
    loss=config.loss if spec['num_classes'] else None,
  )


def _note_constants(spec, fields):
  """Prints a note on the port's constants that differ from the authors'."""
  original = models.create(spec)
  own = {k: v for k, v in fields.items() if v != getattr(original, k, None)}
  if own:
    own = ', '.join(f'{key}={value}' for key, value in own.items())
    note(
      f"config.json has {own}, which differs from the authors' constants and "
      'is kept; use --model=NAME for theirs'
    )


def _named(name, params, spec):
  """Returns the fields of a named model; raises if the weights do not fit."""
  fields = models.variant(name) | {'num_classes': spec['num_classes']}
  if 'representation_size' in fields:
    fields['representation_size'] = spec.get('representation_size')
  weights.adapt(params, models.create(fields), head='keep')
  return fields


def described(
  read: WeightSource,
  *,
  image_size: tuple[int, int] | None = None,
  preprocessing: str | None = None,
  class_names: Sequence[str] | None = None,
) -> WeightSource:
  """Returns the source with what the caller knows of it in its card.

  Args:
    read: the source.
    image_size: (height, width) in pixels that the weights are made for.
    preprocessing: a name for `preprocess.pick_preprocessing`.
    class_names: a name for each class, in the order of the labels.

  Raises:
    InputError: a value does not fit the weights.
  """
  changes: dict[str, Any] = {}
  if image_size is not None:
    module = models.create(read.card.architecture)
    try:
      weights.adapt(
        read.params,
        module,
        image_size=image_size,
        source_image_size=image_size,
        head='keep',
      )
    except InputError as error:
      raise InputError(f'image size {by(image_size)}: {error}') from None
    changes['image_size'] = image_size
  if preprocessing is not None:
    preprocess.pick_preprocessing(preprocessing)
    changes['preprocessing'] = preprocessing
  if class_names is not None:
    number = read.card.architecture.get('num_classes')
    if len(class_names) != number or not all(class_names):
      raise InputError(
        f'{len(class_names)} class names for {number} classes; give one name '
        'for each, on a line of its own'
      )
    changes['class_names'] = tuple(class_names)
  if not changes:
    return read
  card = dataclasses.replace(read.card, **changes)
  return WeightSource(read.params, card, is_described=True)


def without(read: WeightSource, drop: Collection[str]) -> WeightSource:
  """Returns the source without some of `ports.PARTS`, with a matching card.

  Raises:
    InputError: see `ports.without`.
  """
  flat = ports.without(read.flat, drop)
  if not drop:
    return read
  architecture = dict(read.card.architecture)
  card = read.card
  if 'head' in drop:
    architecture['num_classes'] = None
    card = dataclasses.replace(card, class_names=None, loss=None)
  elif 'pre_logits' in drop and 'pre_logits' in read.params:
    note(
      'the head was trained on pre_logits and now receives other features; its '
      'predictions are meaningless'
    )
  if 'pre_logits' in drop and 'representation_size' in architecture:
    architecture['representation_size'] = None
  card = dataclasses.replace(card, architecture=architecture)
  return WeightSource(trees.nest(flat), card, read.is_described)


def with_token_slot(read: WeightSource) -> WeightSource:
  """Returns the source with a position of zeros for the class token.

  The model computes the same function. The authors' own code can then read
  weights from big_vision's files: positions are added to [cls, patches] (ViT
  paper, equation 1) instead of to the patches alone. Sources without such
  positions are returned unchanged.
  """
  flat = read.flat
  if 'cls' not in flat or layouts.POSITIONS_BEFORE_CLS not in flat:
    return read
  if 'dist' in flat:  # the authors have no layout with a distillation token
    return read
  positions = flat.pop(layouts.POSITIONS_BEFORE_CLS)
  slot = np.zeros_like(positions[:, :1])
  flat[layouts.POSITIONS] = np.concatenate([slot, positions], axis=1)
  architecture = dict(read.card.architecture)
  architecture.pop('class_token_after_positions', None)
  return WeightSource(
    trees.nest(flat),
    dataclasses.replace(read.card, architecture=architecture),
    read.is_described,
  )
