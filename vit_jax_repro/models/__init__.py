"""Models of the Vision Transformer paper and its baselines, by name."""

import functools
import inspect
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_repro.errors import InputError
from vit_jax_repro.models import bert
from vit_jax_repro.models.bit import BiT
from vit_jax_repro.models.efficientnet import EfficientNet
from vit_jax_repro.models.layers import TORCH_GELU, pick
from vit_jax_repro.models.mixer import Mixer
from vit_jax_repro.models.text import TextTransformer
from vit_jax_repro.models.two_towers import TwoTowers
from vit_jax_repro.models.variants import (
  LITS,
  canonical_name,
  names,
  variant,
)
from vit_jax_repro.models.vit import ViT

__all__ = [
  'BiT',
  'EfficientNet',
  'Mixer',
  'TwoTowers',
  'ViT',
  'canonical_name',
  'create',
  'image_fields',
  'names',
  'variant',
]

# Fields that change what a model computes, or how its positions are resized,
# and that no array of its file shows.
# In a mapping, None means the default.
CONSTANTS = (
  'gelu',
  'layer_norm_eps',
  'group_norm_eps',
  'weight_standardization',
  'weight_standardization_eps',
  'pool_padding',
  'position_resizing',
  'batch_norm_eps',
  'activation',
  'padding',
)

# Keys that describe a weights file and are not fields of a model.
BOOKKEEPING = frozenset(
  (
    'groupnorm',
    'image_size',
    'image_sizes',
    'key_prefix',
    'model_name',
    'param_names',
    'seed',
  )
)


def create(model: str | Mapping[str, Any], **overrides: Any) -> nn.Module:
  """Creates a linen module from a name or a mapping of fields.

  Args:
    model: a name ('ViT-B_16', 'b16', 'R_Ti_16', 'BiT-M-R50x1', ...; see
      `names`) or a mapping, such as the result of `weights.describe`. In a
      mapping, `model` is 'vit', 'mixer', 'bit_resnetv2', 'efficientnet',
      'deit' or 'big_vision_vit', and the other keys are fields of the module.
      `transformer`, `resnet` and `patches` may group fields as in the original
      configs. Bookkeeping keys are ignored. A mapping with `text_model` ('bert'
      or 'text_transformer') is an image-text model: `image` and `text` are the
      mappings of its towers, `out_dim` the widths of their heads, None for no
      head, and `bert` replaces fields of the size that `text` names.
    **overrides: fields that replace those of `model`.

  Returns:
    A module. `module.apply({'params': params}, images, train=False)` takes
    float images [B, H, W, 3] in [-1, 1] (EfficientNet: with ImageNet's mean
    and deviation removed) and returns float32 logits [B, K]. For an
    image-text model see `two_towers.TwoTowers`.

  Raises:
    InputError: the name, the kind of model, a field or a dtype is unknown, or a
      required field is missing.
  """
  if not isinstance(model, str | Mapping):
    raise InputError(f'a model is a name or a mapping of fields, not {model!r}')
  spec = variant(model) if isinstance(model, str) else dict(model)
  spec = {
    key: value
    for key, value in spec.items()
    if value is not None or key not in CONSTANTS
  }
  if spec.get('text_model') is not None:
    return _two_towers(spec, overrides)
  kind = pick('kind of model', spec.pop('model', 'vit'), _READERS)
  return _create(*kind, spec, overrides)


def _create(cls, read, spec, overrides):
  """Creates a module of a class from fields, which `read` may rename."""
  fields = read({k: v for k, v in spec.items() if k not in BOOKKEEPING})
  fields |= read(overrides)
  fields = {
    k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()
  }
  allowed = set(inspect.signature(cls).parameters) - {'parent', 'name'}
  for key in ('dtype', 'param_dtype'):
    if key in fields:
      _check_dtype(key, fields[key])
  _check_numbers(cls, fields)
  unknown = sorted(fields.keys() - allowed)
  if unknown:
    raise InputError(
      f'unknown fields {unknown} for {cls.__name__}; choose from '
      f'{sorted(allowed)}'
    )
  missing = sorted(_required(cls) - fields.keys())
  if missing:
    raise InputError(f'missing fields {missing} for {cls.__name__}')
  return cls(**fields)


def image_fields(model: str | Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields of a model of images for `create`.

  Args:
    model: a name or a mapping of fields; of an image-text model, the result is
      its image tower.
  """
  fields = variant(model) if isinstance(model, str) else dict(model)
  if fields.get('text_model') is None:
    return fields
  out_dim = fields.get('out_dim') or (None, None)
  return dict(fields['image'], num_classes=out_dim[0])


def _two_towers(spec, overrides):
  """Creates an image-text model from the mapping of its towers."""
  kind = pick('text model', spec['text_model'], _TEXT_READERS)
  spec = {k: v for k, v in spec.items() if k not in _TOWER_BOOKKEEPING}
  text = _group(spec, 'text') | _group(spec, 'bert')
  image = _group(spec, 'image')
  out_dim = spec.pop('out_dim', (None, image.get('hidden_size')))
  if not isinstance(out_dim, list | tuple) or len(out_dim) != 2:
    raise InputError(f'{out_dim=} must be the widths of two heads, or None')
  has_bias = bool(spec.pop('has_bias', False))
  if spec:
    raise InputError(
      f'unknown fields {sorted(spec)} for an image-text model; choose from '
      "['bert', 'has_bias', 'image', 'out_dim', 'text', 'text_model']"
    )
  image, text = (
    dict(tower, num_classes=width)
    for tower, width in zip((image, text), out_dim, strict=True)
  )
  return TwoTowers(
    img=create(image, **overrides),
    txt=_create(*kind, text, overrides),
    has_bias=has_bias,
    param_dtype=overrides.get('param_dtype', jnp.float32),
  )


def name_of(model: nn.Module) -> str | None:
  """Returns the name of a module's architecture; None if it has no name.

  The fields that no name determines are ignored: number of classes, tanh
  layer, dropout, dtypes and the others of `_NOT_IN_A_NAME`.
  """
  free = {k: getattr(model, k) for k in _NOT_IN_A_NAME if hasattr(model, k)}
  for name, named in _named().items():
    if type(named) is type(model) and named.clone(**free) == _alike(
      model, named
    ):
      return name
  return None


@functools.cache
def _named():
  """Returns {name: module} of all names."""
  return {name: create(name) for name in (*names(), *LITS)}


def _alike(model, named):
  """Returns a model with the initial LayerScale, if any, of a named one."""
  inits = [getattr(each, 'layer_scale_init', None) for each in (model, named)]
  return model if None in inits else model.clone(layer_scale_init=inits[1])


_NOT_IN_A_NAME = (
  'num_classes',
  'representation_size',
  'position_resizing',
  'dropout_rate',
  'attention_dropout_rate',
  'stochastic_depth_rate',
  'head_bias_init',
  'scan',
  'remat',
  'remat_policy',
  'attention',
  'dtype',
  'param_dtype',
)


def _check_dtype(key, value):
  try:
    is_float = jnp.issubdtype(jnp.dtype(value), jnp.floating)
  except (TypeError, ValueError):
    is_float = False
  if not is_float:
    raise InputError(
      f"unknown {key} {value!r}; choose 'float32', 'bfloat16' or 'float64'"
    )


def _check_numbers(cls, fields):
  defaults = inspect.signature(cls).parameters
  for key, value in fields.items():
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    wanted = key in defaults and isinstance(defaults[key].default, float)
    # Rates may be traced, and fields that no class has are reported above.
    if wanted and not is_number and isinstance(value, str | bool | Mapping):
      raise InputError(f'{key}={value!r} must be a number')
    if wanted and is_number and not math.isfinite(value):
      raise InputError(f'{key}={value!r} must be a finite number')
    if key in defaults and isinstance(value, Mapping):
      raise InputError(f'{key}={dict(value)!r} must not be a mapping')


def _required(cls):
  parameters = inspect.signature(cls).parameters.values()
  return {p.name for p in parameters if p.default is inspect.Parameter.empty}


def _read_vit(spec):
  """Flattens the groups of the original configs.

  These are `transformer`, `resnet` and `patches`.
  """
  fields = dict(spec)
  fields |= _group(fields, 'transformer')
  fields |= {f'patch_{k}': v for k, v in _group(fields, 'patches').items()}
  if 'resnet' in fields:
    stem = _group(fields, 'resnet') or {'num_layers': None}
    fields |= {f'stem_{key}': value for key, value in stem.items()}
  return fields


def _group(fields, name):
  """Removes and returns a group of fields."""
  group = fields.pop(name, None)
  if group is not None and not isinstance(group, Mapping):
    raise InputError(f'{name}={group!r} must be a mapping of fields')
  return dict(group or {})


def _read_deit(spec):
  return dict({'gelu': TORCH_GELU}, **_read_vit(spec))


def _read_big_vision(spec):
  """Renames the fields of big_vision (big_vision/models/vit.py)."""
  fields = dict(spec)
  renamed = {'width': 'hidden_size', 'depth': 'num_layers'}
  fields = {renamed.get(key, key): value for key, value in fields.items()}
  if 'pool_type' in fields:
    pool = fields.pop('pool_type')
    fields['classifier'] = pick(
      'pool_type', pool, {'tok': 'token', 'gap': 'gap', 'map': 'map'}
    )
    fields['class_token_after_positions'] = pool == 'tok'
  if 'rep_size' in fields:
    size = fields.pop('rep_size')
    fields['representation_size'] = {
      True: fields.get('hidden_size'),
      False: None,
    }.get(size, size)
  if 'posemb' in fields:
    fields['position_embedding'] = pick(
      'posemb',
      fields.pop('posemb'),
      {'learn': 'learned', 'sincos2d': 'sincos2d'},
    )
  return fields


def _read_text(spec):
  """Renames the fields of the original's text Transformer."""
  renamed = {'width': 'hidden_size', 'depth': 'num_layers'}
  return {renamed.get(key, key): value for key, value in spec.items()}


def _read_bert(spec):
  """Renames the fields of flaxformer's BERT; `config` names its size."""
  fields = dict(spec)
  size = fields.pop('config', None)
  if size is not None:
    names = ('hidden_size', 'mlp_dim', 'num_heads', 'num_layers')
    values = pick('size of BERT', size, bert.SIZES)
    fields = dict(zip(names, values, strict=True)) | fields
  renamed = {
    'intermediate_dim': 'mlp_dim',
    'num_attention_heads': 'num_heads',
    'num_hidden_layers': 'num_layers',
  }
  named = {k: v for k, v in fields.items() if k not in renamed}
  return named | {new: fields[k] for k, new in renamed.items() if k in fields}


_TEXT_READERS = {
  'bert': (bert.Bert, _read_bert),
  'text_transformer': (TextTransformer, _read_text),
}
# Keys of an image-text model's mapping that its arrays show.
_TOWER_BOOKKEEPING = BOOKKEEPING | {'max_len', 'model', 'text_model', 'vocab'}
_READERS = {
  'vit': (ViT, _read_vit),
  'deit': (ViT, _read_deit),
  'big_vision_vit': (ViT, _read_big_vision),
  'mixer': (Mixer, dict),
  'bit_resnetv2': (BiT, dict),
  'efficientnet': (EfficientNet, dict),
}
