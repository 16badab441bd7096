"""Checks of every model's input and fields, at its first use."""

import math
import numbers

import flax.linen as nn
import jax

from vit_jax_repro.errors import InputError
from vit_jax_repro.models import positions
from vit_jax_repro.models.convolution import POOLS, WEIGHT_STANDARDIZATIONS
from vit_jax_repro.models.layers import GELUS, pick

# Fields by their allowed values. A model has some of them.
_RATES = ('dropout_rate', 'attention_dropout_rate', 'stochastic_depth_rate')
_POSITIVE = (
  'hidden_size',
  'num_layers',
  'mlp_dim',
  'num_heads',
  'hidden_dim',
  'num_blocks',
  'tokens_mlp_dim',
  'channels_mlp_dim',
  'root_channels',
  'stem_channels',
  'top_channels',
  'groups',
  'representation_size',
)
# Far above every model. Beyond them JAX would trace for minutes.
_MOST, _MOST_LAYERS = 2**24, 1024
_LAYERS = ('num_layers', 'num_blocks')
_OPTIONAL = ('representation_size',)  # may be None
# Of which each is positive.
_STAGES = (
  'block_units',
  'block_channels',
  'kernel_sizes',
  'block_strides',
  'expansions',
)
_SEVERAL = ('patch_size', 'stem_num_layers', *_STAGES)
_NAMES = {
  'gelu': GELUS,
  'pool_padding': POOLS,
  'position_embedding': dict.fromkeys(positions.KINDS),
  'position_embedding_at': dict.fromkeys(positions.PLACES),
  'weight_standardization': WEIGHT_STANDARDIZATIONS,
}


def check_input(model: nn.Module, images: jax.Array) -> None:
  """Checks the fields of a model and the shape of its images.

  Raises:
    InputError: a field or the shape is wrong; the message is on the first one.
  """
  for name in _RATES:
    rate = getattr(model, name, 0)
    if not isinstance(rate, numbers.Real) or not 0 <= rate < 1:
      raise InputError(f'{name}={rate!r} must be at least 0 and below 1')
  for name in _POSITIVE:
    value = getattr(model, name, 1)
    if not _is_count(value) and not (value is None and name in _OPTIONAL):
      raise InputError(f'{name}={value!r} must be an integer of at least 1')
    most = _MOST_LAYERS if name in _LAYERS else _MOST
    if value is not None and value > most:
      raise InputError(f'{name}={value} must be at most {most}')
  for name in _SEVERAL:
    values = getattr(model, name, None)
    if values is not None and not (
      isinstance(values, tuple) and all(map(_is_count, values))
    ):
      raise InputError(f'{name}={values!r} must be integers of at least 1')
  registers = getattr(model, 'num_registers', 0)
  if registers != 0 and not _is_count(registers):
    raise InputError(
      f'num_registers={registers!r} must be an integer of at least 0'
    )
  scale = getattr(model, 'layer_scale_init', None)
  if scale is not None and not _is_finite(scale):
    raise InputError(
      f'layer_scale_init={scale!r} must be a finite number, or None for no '
      'LayerScale'
    )
  for name, table in _NAMES.items():
    if hasattr(model, name):
      pick(name.replace('_', ' '), getattr(model, name), table)
  if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape[1:3]:
    raise InputError(f'images of shape {images.shape} must be [B, H, W, 3]')


def check_stages(model: nn.Module) -> None:
  """Raises an InputError if fields with one number a block differ in length."""
  lengths = {name: len(getattr(model, name)) for name in _STAGES}
  if len({*lengths.values()}) > 1 or not lengths['block_units']:
    raise InputError(
      f'{lengths} must be one number above 0: each has a number for each block'
    )


def check_patches(x: jax.Array, patch_size: tuple[int, int]) -> None:
  """Raises an InputError if [B, H, W, C] is smaller than a patch."""
  if x.shape[1] < patch_size[0] or x.shape[2] < patch_size[1]:
    raise InputError(
      f'an input of {x.shape[1:3]} holds no patch of {patch_size}; use larger '
      'images'
    )


def check_width(name: str, channels: float, groups: int) -> None:
  """Raises an InputError if GroupNorm cannot divide the channels."""
  if channels < groups or channels % groups:
    raise InputError(
      f'{name} gives {channels:g} channels at the root, which must be a '
      f'multiple of the {groups} groups of its norms'
    )


def _is_finite(value):
  is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  return is_number and math.isfinite(value)


def _is_count(value):
  whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
  return whole and value >= 1
