"""Weights of any library, and what is known of their model.

What a port's config.json says (its GELU, its epsilons, its heads) is kept, so
that the converted model computes what the port does.
"""

import dataclasses
import os
from collections.abc import Collection

import numpy as np

from vit_jax_repro import models, ports, weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.output.messages import note
from vit_jax_repro.ports import configs, state_dicts
from vit_jax_repro.weights import layouts, model_card, trees

_UNSAID = (
  'nothing says which GELU these weights were trained with; they are taken '
  "for the authors' (tanh). Of a DeiT, say --model=DeiT-..."
)


@dataclasses.dataclass(frozen=True)
class WeightSource:
  """Parameters and what is known of their model."""

  params: dict  # canonical, nested, unrolled
  card: model_card.ModelCard
  said: bool  # whether a file or the caller told what the card says

  @property
  def flat(self):
    return trees.flatten(self.params)


def config_folder(source: str) -> str | None:
  """The folder whose config.json belongs to a file or folder, if any."""
  if os.path.isdir(source):
    return source
  if os.path.basename(source) in state_dicts.FILES:
    return os.path.dirname(source) or '.'
  return None


def read(
  source: str, *, num_heads: int | None = None, model: str | None = None
) -> WeightSource:
  """Reads any weights file or folder of ours or of a port.

  Args:
    source: an .npz file with or without a card, or what `state_dicts.read`
      takes, with or without a config.json in its folder.
    num_heads: of a port's attention; by default as `model` or config.json
      says, else the published one of that width.
    model: a name whose architecture the weights have, whatever the files say.

  Raises:
    InputError: one line on what is wrong with the files or arguments.
    OSError: a file cannot be read.
  """
  if state_dicts.is_port(source):
    params, card = _read_port(source, num_heads, model)
  elif num_heads is not None:
    raise InputError(
      f'--num_heads={num_heads} is for files of ports; {source} tells it'
    )
  else:
    params, card = weights.load(source), _card_of(source)
  spec = weights.describe(params)
  image_size = spec.pop('image_size')
  said = card is not None or model is not None
  card = card or model_card.ModelCard(spec)
  if model is not None:
    card = dataclasses.replace(card, architecture=_named(model, params, spec))
  if card.class_names and len(card.class_names) != spec['num_classes']:
    raise InputError(
      f'{source}: {len(card.class_names)} class names for '
      f'{spec["num_classes"]} classes'
    )
  card = dataclasses.replace(card, image_size=card.image_size or image_size)
  return WeightSource(params, card, said)


def _card_of(source):
  try:
    return model_card.read_card(source)
  except model_card.NotACardError as error:
    note(f'{error} and is ignored')
    return None


def _read_port(source, num_heads, name):
  """(params, ModelCard or None) of a port's file or folder."""
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
      note(_UNSAID)
    return params, None
  del spec['image_size']
  if name is None:
    _say_constants(spec, config.fields)
  return params, model_card.ModelCard(
    architecture=spec | config.fields,
    class_names=config.class_names if spec['num_classes'] else None,
    preprocessing=config.preprocessing,
    image_size=config.image_size,
  )


def _say_constants(spec, fields):
  """Notes what a port computes with, where the authors' models differ."""
  original = models.create(spec)
  own = {k: v for k, v in fields.items() if v != getattr(original, k, None)}
  if own:
    own = ', '.join(f'{key}={value}' for key, value in own.items())
    note(
      f"config.json says {own}, not the authors' constants; it is kept, and "
      '--model=NAME takes theirs'
    )


def _named(name, params, spec):
  """The fields of a named model, if the parameters fit it."""
  fields = models.variant(name) | {'num_classes': spec['num_classes']}
  if 'representation_size' in fields:
    fields['representation_size'] = spec.get('representation_size')
  weights.adapt(params, models.create(fields), head='keep')
  return fields


def without(read: WeightSource, drop: Collection[str]) -> WeightSource:
  """The source without some of `ports.PARTS`, and its card to match.

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
    card = dataclasses.replace(card, class_names=None)
  elif 'pre_logits' in drop and 'pre_logits' in read.params:
    note(
      'the head was trained on pre_logits and now gets other features; what it '
      'says of images means nothing'
    )
  if 'pre_logits' in drop and 'representation_size' in architecture:
    architecture['representation_size'] = None
  card = dataclasses.replace(card, architecture=architecture)
  return WeightSource(trees.nest(flat), card, read.said)


def with_token_slot(read: WeightSource) -> WeightSource:
  """The same function with a position of zeros for the class token.

  So the authors' own code reads what big_vision's files hold; sources without
  such positions stay as they are. Positions are added to [cls, patches] (ViT
  paper, equation 1) instead of to the patches alone.
  """
  flat = read.flat
  if 'cls' not in flat or layouts.POSITIONS_BEFORE_CLS not in flat:
    return read
  if 'dist' in flat:  # no layout of the authors has it
    return read
  positions = flat.pop(layouts.POSITIONS_BEFORE_CLS)
  slot = np.zeros_like(positions[:, :1])
  flat[layouts.POSITIONS] = np.concatenate([slot, positions], axis=1)
  architecture = dict(read.card.architecture)
  architecture.pop('class_token_after_positions', None)
  return WeightSource(
    trees.nest(flat),
    dataclasses.replace(read.card, architecture=architecture),
    read.said,
  )
