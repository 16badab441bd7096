"""Settings of a model that are in a port's config.json but not in its arrays.

transformers' save_pretrained and timm's save_for_hf write config.json into the
folder of the weights. If a transformers file leaves a value out, it is the
default of the configuration class (transformers 5.23, configuration_*.py in
models/{vit,deit,bit,dinov2,dinov2_with_registers}).
"""

import dataclasses
import os
import re
from typing import Any

from vit_jax_repro.data import preprocess
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, messages
from vit_jax_repro.output.messages import note

CONFIG = 'config.json'
PREPROCESSOR = 'preprocessor_config.json'

# The libraries' names of the two forms of GELU (transformers/activations.py;
# timm, layers/create_act.py). gelu_new is the tanh form, written out.
TRANSFORMERS_GELUS = {
  'gelu': 'erf',
  'gelu_pytorch_tanh': 'tanh',
  'gelu_new': 'tanh',
}
TIMM_GELUS = {'gelu': 'erf', 'gelu_tanh': 'tanh'}

# transformers' names of the losses (PreTrainedConfig.problem_type). A file
# without one leaves the loss open.
PROBLEM_TYPES = {
  'softmax': 'single_label_classification',
  'sigmoid': 'multi_label_classification',
  'regression': 'regression',
}

# Constants of both libraries' convolutions, which configurations do not have:
# transformers, models/bit/modeling_bit.py (`eps=1e-8` at every convolution);
# timm, models/resnetv2.py (_create_resnetv2_bit), vision_transformer_hybrid.py
# (_resnetv2) and layers/norm_act.py (GroupNormAct).
BIT_FIELDS = {'weight_standardization_eps': 1e-8}
HYBRID_FIELDS = {
  'group_norm_eps': 1e-5,
  'weight_standardization': 'sqrt_var_plus_eps',
  'weight_standardization_eps': 1e-8,
}
# Of timm's own EfficientNets; those from TensorFlow have the authors' constants
# (timm, models/efficientnet.py).
EFFICIENTNET_FIELDS = {'padding': 'symmetric', 'batch_norm_eps': 1e-5}

# Settings with which a BiT is the authors' model.
_BIT_SETTINGS = {
  'layer_type': 'preactivation',
  'global_padding': None,
  'embedding_dynamic_padding': False,
  'hidden_act': 'relu',
  'output_stride': 32,
}
# How transformers resizes position embeddings to images of another size
# (interpolate_pos_encoding of each model), and timm (layers/pos_embed.py).
_RESIZINGS = {
  'vit': 'bicubic',
  'deit': 'bicubic',
  'dinov2': 'bicubic',
  'dinov2_with_registers': 'bicubic_antialias',
}
_TIMM_RESIZING = 'bicubic_antialias'
# timm's architectures with the tanh form of GELU, and those without a slot for
# the class token, which no_embed_class would otherwise say (timm 1.0.31,
# models/vision_transformer.py and deit.py).
_TIMM_TANH = re.compile(
  r'vit_(so400m_patch16|giantopt|base_patch32|large_patch16)_siglip.*'
)
_TIMM_NO_SLOTS = re.compile(r'deit3_|.*_reg[0-9]')
# What timm takes where a file has no value (timm, models/_pretrained.py:
# PretrainedCfg), whatever the architecture.
_TIMM_IMAGES = {
  'mean': [mean / 255 for mean in preprocess.IMAGENET_MEAN],
  'std': [std / 255 for std in preprocess.IMAGENET_STD],
  'crop_pct': 0.875,
  'crop_mode': 'center',
  'interpolation': 'bicubic',
}
_POOLS = ('token', 'avg', 'map')
_BICUBIC = 3  # PIL.Image.Resampling


@dataclasses.dataclass(frozen=True)
class PortConfig:
  """The settings of a model from a folder; None if the folder has none.

  Attributes:
    fields: fields for `models.create`.
    num_heads: number of attention heads.
    class_names: a name for each label.
    image_size: (H, W) pixels.
    preprocessing: a name of data.preprocess.
    token_slots: whether position embeddings have slots for class tokens.
    pool: 'token', 'avg' or 'map', what the head of a timm model takes.
    loss: see weights.model_card.
  """

  fields: dict[str, Any]
  num_heads: int | None = None
  class_names: tuple[str, ...] | None = None
  image_size: tuple[int, int] | None = None
  preprocessing: str | None = None
  token_slots: bool | None = None
  pool: str | None = None
  loss: str | None = None


def read(folder: str | os.PathLike) -> PortConfig | None:
  """Reads the config.json of a folder; returns None if there is none.

  Raises:
    InputError: the file is damaged, or describes a model that this package
      does not have.
    OSError: the file cannot be read.
  """
  path = os.path.join(folder, CONFIG)
  if not os.path.exists(path):
    return None
  config = files.read_json(path, 'configuration of a model')
  if 'model_type' in config:
    kind, read_fields = config['model_type'], _transformers
  elif 'architecture' in config:
    kind, read_fields = config['architecture'], _timm
  else:
    raise InputError(
      f"{path} is of neither transformers ('model_type') nor timm "
      "('architecture'); give only the weights file"
    )
  try:
    found = read_fields(str(kind), config, folder)
    messages.check_class_names(found.class_names or (), 'it')
    return dataclasses.replace(found, loss=_loss(config.get('problem_type')))
  except ValueError as error:
    raise InputError(f'{path}: {error}') from None
  except (TypeError, KeyError, AttributeError, ArithmeticError) as error:
    raise InputError(
      f'{path} has a value of the wrong type '
      f'({messages.short(repr(error))}); give only the weights file'
    ) from None


def _transformers(kind, config, folder):
  images = _processor(kind, folder)
  names = _class_names(config.get('id2label'))
  if kind == 'bit':
    for key, wanted in _BIT_SETTINGS.items():
      _require(key, config.get(key, wanted), wanted)
    fields = dict(BIT_FIELDS, groups=config.get('num_groups', 32))
    return PortConfig(fields, class_names=names, preprocessing=images)
  if kind not in _RESIZINGS:
    raise InputError(
      f'unknown model_type {kind!r}; choose from '
      f'{", ".join(map(repr, (*_RESIZINGS, "bit")))}'
    )
  is_dinov2 = kind.startswith('dinov2')
  if is_dinov2:
    _require('use_swiglu_ffn', config.get('use_swiglu_ffn', False), False)
  _require('qkv_bias', config.get('qkv_bias', True), True)
  _require('pooler_act', config.get('pooler_act', 'tanh'), 'tanh')
  eps = config.get('layer_norm_eps', 1e-6 if is_dinov2 else 1e-12)
  fields: dict[str, Any] = {
    'gelu': _gelu(config.get('hidden_act', 'gelu'), TRANSFORMERS_GELUS),
    'layer_norm_eps': float(eps),
    'position_resizing': _RESIZINGS[kind],
  }
  if is_dinov2:
    fields['layer_scale_init'] = float(config.get('layerscale_value', 1.0))
  return PortConfig(
    fields=fields,
    num_heads=int(config.get('num_attention_heads', 12)),
    class_names=names,
    image_size=_pair(config.get('image_size', 224)),
    preprocessing=images,
    token_slots=True,
  )


def _timm(kind, config, folder):
  del folder
  family = re.match(
    r'vit|deit|mixer|resnetv2|(tf_)?efficientnet_(b\d|l2)', kind
  )
  if family is None:
    raise InputError(
      f"unknown architecture {kind!r}; choose from 'vit_*', 'deit_*', "
      "'mixer_*', 'resnetv2_*_bit', '[tf_]efficientnet_*'"
    )
  arguments = config.get('model_args') or {}
  cfg = config.get('pretrained_cfg') or config  # older files are not nested
  fields = {}
  if family[0] == 'resnetv2':
    fields |= BIT_FIELDS
  elif 'efficientnet' in kind:
    fields |= {} if kind.startswith('tf_') else EFFICIENTNET_FIELDS
  else:
    default = 'gelu_tanh' if _TIMM_TANH.match(kind) else 'gelu'
    fields['gelu'] = _gelu(arguments.get('act_layer') or default, TIMM_GELUS)
  if re.search(r'_r\d*_s\d+', kind):
    fields |= HYBRID_FIELDS
  pool = None
  if family[0] in ('vit', 'deit'):
    fields['position_resizing'] = _TIMM_RESIZING
    if arguments.get('init_values'):
      fields['layer_scale_init'] = float(arguments['init_values'])
    pool = arguments.get('global_pool') or config.get('global_pool')
    if pool is not None and pool not in _POOLS:
      raise InputError(
        f'unknown global_pool {pool!r}; choose from '
        f'{", ".join(map(repr, _POOLS))}'
      )
  _require('norm_layer', arguments.get('norm_layer'), None)
  includes = bool(arguments.get('pool_include_prefix'))
  _require('pool_include_prefix', includes, False)
  size = arguments.get('img_size') or cfg.get('input_size', (None,))[-2:]
  names = config.get('label_names') or cfg.get('label_names')
  return PortConfig(
    fields,
    num_heads=arguments.get('num_heads'),
    class_names=None if names is None else tuple(map(str, names)),
    image_size=None if size == (None,) else _pair(size),
    preprocessing=_timm_preprocessing(cfg),
    token_slots=not arguments.get(
      'no_embed_class', _TIMM_NO_SLOTS.match(kind) is not None
    ),
    pool=pool,
  )


def _timm_preprocessing(cfg):
  """Returns the name of a timm model's preprocessing, None if it is unknown."""
  given = {key: cfg[key] for key in _TIMM_IMAGES if cfg.get(key) is not None}
  images = _TIMM_IMAGES | given
  squashes = images['crop_mode'] == 'squash'
  name = _preprocessing(
    images['mean'],
    images['std'],
    crop_pct=None if squashes else images['crop_pct'],
    bicubic=images['interpolation'] == 'bicubic',
  )
  if name is not None and not {'mean', 'std'} <= given.keys():
    note(
      f'{CONFIG} does not say how images are read; {name!r} is taken, as timm '
      'does; `convert --preprocessing` writes another'
    )
  return name


def _loss(problem_type):
  if problem_type is None:
    return None
  for loss, name in PROBLEM_TYPES.items():
    if problem_type == name:
      return loss
  raise InputError(
    f'unknown problem_type {problem_type!r}; choose from '
    f'{", ".join(PROBLEM_TYPES.values())}'
  )


def _require(key, value, wanted):
  if value != wanted:
    raise InputError(
      f'{key} is {value!r}; only models with {wanted!r} are supported'
    )


def _gelu(name, known):
  if name not in known:
    raise InputError(
      f'unknown activation {name!r}; choose from {sorted(known)}'
    )
  return known[name]


def _pair(size):
  height, width = size if isinstance(size, list | tuple) else (size, size)
  return int(height), int(width)


def _class_names(id2label):
  """Returns names in the order of the labels; None if they are only numbers."""
  if not id2label:
    return None
  names = {int(label): str(name) for label, name in id2label.items()}
  if sorted(names) != list(range(len(names))):
    raise InputError(f'id2label must name the labels 0 to {len(names) - 1}')
  if all(name == f'LABEL_{label}' for label, name in names.items()):
    return None
  return tuple(names[label] for label in range(len(names)))


def _processor(kind, folder):
  """Returns the name of the preprocessing in preprocessor_config.json.

  Without that file, it is the default of the classes for this kind of model.
  """
  path = os.path.join(folder, PREPROCESSOR)
  if not os.path.exists(path):
    dinov2 = 'deit:crop_pct=0.875' if kind.startswith('dinov2') else None
    return {'vit': 'vit_jax', 'deit': 'deit'}.get(kind, dinov2)
  config = files.read_json(path, 'configuration of a preprocessing')
  crop_pct = None
  if config.get('do_center_crop'):
    size, crop = _short_side(config['size']), _short_side(config['crop_size'])
    crop_pct = crop / size
  return _preprocessing(
    config.get('image_mean'),
    config.get('image_std'),
    crop_pct=crop_pct,
    bicubic=config.get('resample') == _BICUBIC,
  )


def _short_side(size):
  if isinstance(size, dict):
    size = size.get('shortest_edge') or min(size['height'], size['width'])
  return float(size)


def _preprocessing(mean, std, *, crop_pct, bicubic):
  """Returns the nearest name of data.preprocess; None if mean or std differ."""
  known = {
    _thousandths(preprocess.HALF, preprocess.HALF): ('timm', 'vit_jax'),
    _thousandths(preprocess.IMAGENET_MEAN, preprocess.IMAGENET_STD): (
      'deit',
      'deit',
    ),
  }
  if mean is None or std is None:
    return None
  found = known.get(_thousandths(mean, std, unit=1))
  if found is None:
    note(
      f'no preprocessing here has the mean {messages.short(mean)} and the '
      f'deviation {messages.short(std)} of these models: images are read '
      'otherwise than there, unless you give --preprocessing'
    )
    return None
  if crop_pct is None or not bicubic or not 0 < crop_pct <= 1:
    return found[1]
  return f'{found[0]}:crop_pct={crop_pct:.6g}'


def _thousandths(*triples, unit=255):
  return tuple(round(1000 * v / unit) for triple in triples for v in triple)
