"""Models of the Vision Transformer paper and its baselines, by name."""

import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vit_jax_repro.errors import InputError
from vit_jax_repro.models.bit import BiT
from vit_jax_repro.models.layers import TORCH_GELU, pick
from vit_jax_repro.models.mixer import Mixer
from vit_jax_repro.models.variants import canonical_name, names, variant
from vit_jax_repro.models.vit import ViT

__all__ = [
  'BiT',
  'Mixer',
  'ViT',
  'canonical_name',
  'create',
  'names',
  'variant',
]

# Fields that change what a model computes but that no array of its file shows.
# In a mapping, None means the default.
CONSTANTS = (
  'gelu',
  'layer_norm_eps',
  'group_norm_eps',
  'weight_standardization',
  'weight_standardization_eps',
  'pool_padding',
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
      mapping, `model` is 'vit', 'mixer', 'bit_resnetv2', 'deit' or
      'big_vision_vit', and the other keys are fields of the module.
      `transformer` and `resnet` may group fields as in the original configs.
      Bookkeeping keys are ignored.
    **overrides: fields that replace those of `model`.

  Returns:
    A module. `module.apply({'params': params}, images, train=False)` takes
    float images [B, H, W, 3] in [-1, 1] and returns float32 logits [B, K].

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
  kind = pick('kind of model', spec.pop('model', 'vit'), _READERS)
  cls, read = kind
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


def name_of(model: nn.Module) -> str | None:
  """Returns the name of a module's architecture; None if it has no name.

  The fields that no name determines are ignored: number of classes, tanh
  layer, dropout, dtypes and the others of `_NOT_IN_A_NAME`.
  """
  free = {k: getattr(model, k) for k in _NOT_IN_A_NAME if hasattr(model, k)}
  for name in names():
    named = create(name)
    if type(named) is type(model) and named.clone(**free) == model:
      return name
  return None


_NOT_IN_A_NAME = (
  'num_classes',
  'representation_size',
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
    jnp.dtype(value)
  except TypeError:
    raise InputError(
      f"unknown {key} {value!r}; choose 'float32', 'bfloat16' or 'float64'"
    ) from None


def _check_numbers(cls, fields):
  defaults = inspect.signature(cls).parameters
  for key, value in fields.items():
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    wanted = key in defaults and isinstance(defaults[key].default, float)
    # Rates may be traced, and fields that no class has are reported above.
    if wanted and not is_number and isinstance(value, str | bool | Mapping):
      raise InputError(f'{key}={value!r} must be a number')


def _required(cls):
  parameters = inspect.signature(cls).parameters.values()
  return {p.name for p in parameters if p.default is inspect.Parameter.empty}


def _read_vit(spec):
  """Flattens `transformer` and `resnet`, groups of the original configs."""
  fields = dict(spec)
  fields |= fields.pop('transformer', {})
  if 'resnet' in fields:
    stem = fields.pop('resnet') or {'num_layers': None}
    fields |= {f'stem_{key}': value for key, value in stem.items()}
  return fields


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


_READERS = {
  'vit': (ViT, _read_vit),
  'deit': (ViT, _read_deit),
  'big_vision_vit': (ViT, _read_big_vision),
  'mixer': (Mixer, dict),
  'bit_resnetv2': (BiT, dict),
}
