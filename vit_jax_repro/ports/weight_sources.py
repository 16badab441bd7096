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
from vit_jax_repro.output.messages import by, check_class_names, note
from vit_jax_repro.ports import (
  code_constants,
  configs,
  file_kinds,
  jax_checkpoints,
  peft_adapters,
  state_dicts,
  tensorflow_checkpoints,
)
from vit_jax_repro.weights import layouts, model_card, towers, trees

_ONE_PART = (
  '; the file is one part of a model: give its folder, or the .index.json there'
)
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
  if os.path.basename(source) in (*file_kinds.FILES, *file_kinds.FLAX):
    return os.path.dirname(source) or '.'
  return None


def read(
  source: str,
  *,
  num_heads: int | None = None,
  model: str | None = None,
  ema: bool = False,
  base: str | None = None,
  both_towers: bool = False,
) -> WeightSource:
  """Reads any weights file or folder, of this package or of a port.

  Args:
    source: a file or folder of any name and of a kind in `file_kinds.NAMES`;
      an .npz archive with or without a card, a port's file or folder with or
      without a config.json in its folder.
    num_heads: number of attention heads of a port; by default that of `model`
      or config.json, else that of the published model of this width.
    model: name of the model; its architecture overrides that of the files.
    ema: whether to read the averaged weights of a checkpoint.
    base: path of the model that a PEFT adapter changes; by default that in the
      adapter's configuration.
    both_towers: whether to return an image-text model whole. By default its
      image tower is returned, with a note.

  Raises:
    InputError: a file or argument is wrong.
    OSError: a file cannot be read.
  """
  kind = file_kinds.kind_of(source)
  if base is not None and kind != 'peft':
    raise InputError(
      f'{source} is {file_kinds.NAMES[kind]}, and only a PEFT adapter has a '
      'base; leave out --base'
    )
  with_ema = (*file_kinds.PORTS, *jax_checkpoints.KINDS, 'peft', 'tensorflow')
  if ema and kind not in with_ema:
    raise InputError(
      f'{source} is {file_kinds.NAMES[kind]}, and --ema takes the '
      'averaged weights of checkpoints of PyTorch, Flax, Orbax and TensorFlow; '
      'leave it out'
    )
  if kind in file_kinds.PORTS:
    state = state_dicts.read(source, ema=ema)
    params, card = _from_port(source, state, num_heads, model)
  elif kind in jax_checkpoints.KINDS:
    params, card = _read_checkpoint(source, num_heads, model, ema)
  elif kind == 'peft':
    path = peft_adapters.find_base(source, base)
    found = read(path, num_heads=num_heads, model=model, ema=ema)
    params, card = _merged(source, found)
  elif kind == 'tensorflow':
    _refuse_num_heads(source, num_heads)
    params, card = tensorflow_checkpoints.read(source, ema=ema), None
  else:  # 'npz'
    _refuse_num_heads(source, num_heads)
    loaded = model_card.load(source, both_towers=True)
    params, card = loaded.params, loaded.card if loaded.has_card else None
  if layouts.has_two_towers(params) and not both_towers:
    towers.note_on_image(source)
    params, card = towers.image_of(params), card and model_card.of_image(card)
  spec = weights.describe(params)
  image_size = spec.pop('image_size')
  is_described = card is not None or model is not None
  card = card or model_card.ModelCard(spec)
  if model is not None:
    card = dataclasses.replace(card, architecture=_named(model, params, spec))
  num_classes = spec.get('num_classes') or 0  # an image-text model has none
  if card.class_names and len(card.class_names) != num_classes:
    raise InputError(
      f'{source}: {len(card.class_names)} class names for {num_classes} classes'
    )
  card = dataclasses.replace(card, image_size=card.image_size or image_size)
  return WeightSource(params, card, is_described)


def _refuse_num_heads(source, num_heads):
  if num_heads is not None:
    raise InputError(
      f'--num_heads={num_heads} is only for files of ports; the shapes in '
      f'{source} show the number of heads; leave it out'
    )


def _read_checkpoint(source, num_heads, name, ema):
  """Reads (params, ModelCard or None) of a checkpoint of a JAX program."""
  read = jax_checkpoints.read(source, ema=ema)
  if read.state is not None:
    return _from_port(source, read.state, num_heads, name)
  _refuse_num_heads(source, num_heads)
  return read.params, read.card


def _merged(adapter, base):
  """Returns (params, ModelCard or None) of a base with a PEFT adapter."""
  card = base.card
  heads = getattr(models.create(card.architecture), 'num_heads', None)
  params, has_head = peft_adapters.merge(adapter, base.params, heads)
  if has_head:
    new = weights.describe(params)
    fields = {k: new.get(k) for k in ('num_classes', 'representation_size')}
    fields = {k: v for k, v in fields.items() if k in card.architecture}
    card = dataclasses.replace(
      card,
      architecture=card.architecture | fields,
      class_names=None,
      loss=None,
    )
    if base.card.class_names:
      note(
        f'{adapter} has a head of its own, for which the class names of its '
        'base may be wrong; they are left out, and convert --class_names takes '
        'others'
      )
  return params, card if base.is_described else None


def _from_port(source, state, num_heads, name):
  """Returns (params, ModelCard or None) of a port's state dict."""
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
    part = _ONE_PART if file_kinds.is_part(source) else ''
    raise InputError(f'{source}: {error}{part}') from None
  facts = configs.CONFIG
  if config is None:
    library = ports.library_of(state)
    config = code_constants.config(library, spec['image_size'])
    facts = f"{library}'s code"
  if config is None:
    if (
      name is None
      and spec['model'] == 'vit'
      and spec.get('classifier') == 'token'
      and 'gelu' not in spec
    ):
      note(_UNKNOWN_GELU)
    return params, _card_of_code(library, spec, name)
  del spec['image_size']
  spec |= _pooling(spec, params, config.pool)
  if name is None:
    _note_constants(spec, config.fields, facts)
  return params, model_card.ModelCard(
    architecture=spec | config.fields,
    class_names=config.class_names if spec['num_classes'] else None,
    preprocessing=config.preprocessing,
    image_size=config.image_size,
    loss=config.loss if spec['num_classes'] else None,
  )


def _card_of_code(library, spec, name):
  """Returns the card of arrays whose library has its own rule of resizing.

  It is None for others, of which only the arrays are known.
  """
  rule = code_constants.resizing(library, spec)
  if rule is None:
    return None
  image_size = spec.pop('image_size')
  fields = {'position_resizing': rule}
  if name is None:
    _note_constants(spec, fields, f"{library}'s code")
  return model_card.ModelCard(spec | fields, image_size=image_size)


def _pooling(spec, params, pool):
  """Returns the fields of a classifier that the arrays do not show."""
  if 'cls' not in params or pool not in ('avg', 'token'):
    return {}
  if pool == 'avg':
    return {'classifier': 'gap', 'class_token': True}
  return (
    {'classifier': 'token', 'class_token': None} if 'fc_norm' in spec else {}
  )


def _note_constants(spec, fields, where):
  """Prints notes on the port's constants that differ from the authors'."""
  original = models.create(spec)
  own = {
    k: v
    for k, v in fields.items()
    if v != getattr(original, k, None) and k != 'layer_scale_init'  # of fresh
  }
  if rule := own.pop('position_resizing', None):
    note(
      f'{where} resizes positions to other image sizes by '
      f'position_resizing={rule}, which is kept'
    )
  if own:
    own = ', '.join(f'{key}={value}' for key, value in own.items())
    note(
      f"{where} has {own}, which differs from the authors' constants and is "
      'kept; use --model=NAME for theirs'
    )


def _named(name, params, spec):
  """Returns the fields of a named model; raises if the weights do not fit."""
  fields = models.variant(name)
  if not layouts.has_two_towers(params):
    fields = models.image_fields(fields) | {'num_classes': spec['num_classes']}
  elif 'text_model' not in fields:
    raise InputError(
      f'--model={name} has no text tower, and these weights have one; leave '
      'the text tower out (--drop=txt), or give another model, one of '
      f'{sorted(models.variants.LITS)}'
    )
  if 'representation_size' in fields:
    fields['representation_size'] = spec.get('representation_size')
  if 'layer_scale_init' in fields:  # names do not say what DINOv2's head takes
    fields['classifier'] = spec['classifier']
    fields['corruptible'] = spec.get('corruptible', False)
  weights.adapt(params, models.create(fields), head='keep')
  return fields


def described(
  read: WeightSource,
  *,
  image_size: int | tuple[int, int] | None = None,
  preprocessing: str | None = None,
  class_names: Sequence[str] | None = None,
) -> WeightSource:
  """Returns the source with what the caller knows of it in its card.

  Args:
    read: the source.
    image_size: S or (height, width) in pixels that the weights are made for.
    preprocessing: a name for `preprocess.pick_preprocessing`.
    class_names: a name for each class, in the order of the labels.

  Raises:
    InputError: a value does not fit the weights.
  """
  changes: dict[str, Any] = {}
  if image_size is not None:
    image_size = preprocess.check_image_size(image_size)
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
        f'{len(class_names)} class names for {number or 0} classes; give one '
        'name for each, on a line of its own'
      )
    check_class_names(class_names, '--class_names')
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
  if 'mask' in drop:
    architecture.pop('corruptible', None)
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
  if layouts.unreleased(flat):  # the authors have no layout for such a model
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
