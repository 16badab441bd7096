"""The ResNet stem of the hybrids (R+ViT): post-activation bottlenecks.

The stem differs from BiT's ResNet: the norm follows the convolution, the
shortcut has its own norm, convolutions and pool use 'SAME' padding, and weight
standardisation adds its epsilon to the standard deviation
(vit_jax/models_resnet.py and models_vit.py; ViT paper, section 4.1).

Shapes: B batch, H W pixels, h w after striding, C channels.
"""

import functools

import flax.linen as nn
import jax

from vit_jax_repro.models.convolution import GroupNorm, StdConv, max_pool
from vit_jax_repro.models.layers import Dtype

ROOT_CHANNELS = 64  # times the width factor
GROUPS = 32  # of every norm


class ResidualUnit(nn.Module):
  """Applies a bottleneck: 1x1, 3x3 (strided), 1x1 to 4x features, then ReLU."""

  features: int
  strides: tuple[int, int]
  conv: functools.partial
  norm: functools.partial

  @nn.compact
  def __call__(
    self, x: jax.Array
  ) -> jax.Array:  # [B, H, W, C] -> [B, h, w, 4 * features]
    shortcut = x
    if x.shape[-1] != 4 * self.features or self.strides != (1, 1):
      shortcut = self.conv(
        4 * self.features, (1, 1), self.strides, name='conv_proj'
      )(x)
      shortcut = self.norm(name='gn_proj')(shortcut)
    y = self.conv(self.features, (1, 1), name='conv1')(x)
    y = nn.relu(self.norm(name='gn1')(y))
    y = self.conv(self.features, (3, 3), self.strides, name='conv2')(y)
    y = nn.relu(self.norm(name='gn2')(y))
    y = self.conv(4 * self.features, (1, 1), name='conv3')(y)
    # A zero scale makes a fresh unit the identity (vit_jax/models_resnet.py).
    y = self.norm(name='gn3', scale_init=nn.initializers.zeros)(y)
    return nn.relu(shortcut + y)


class ResNetStage(nn.Module):
  """Applies `num_units` bottlenecks; the first one is strided."""

  num_units: int
  features: int
  strides: tuple[int, int]
  unit: type[nn.Module]
  conv: functools.partial
  norm: functools.partial

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for i in range(self.num_units):
      x = self.unit(
        features=self.features,
        strides=self.strides if i == 0 else (1, 1),
        conv=self.conv,
        norm=self.norm,
        name=f'unit{i + 1}',
      )(x)
    return x


def apply_stem(
  images: jax.Array,
  *,
  num_layers: tuple[int, ...],
  width_factor: float,
  group_norm_eps: float,
  weight_standardization: str,
  weight_standardization_eps: float,
  pool_padding: str,
  remat: bool,
  dtype: Dtype,
  param_dtype: Dtype,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Applies the stem in the scope of the calling module.

  The stem is a function and not a module, because its parameters are at the top
  level of the published files (`conv_root`, `gn_root`, `block1`, ...).

  Args:
    images: [B, H, W, 3].
    num_layers: units per stage; () for only the root convolution and the pool
      (H/4).
    width_factor: multiplies the number of channels.
    group_norm_eps: epsilon of every norm.
    weight_standardization: a key of `convolution.WEIGHT_STANDARDIZATIONS`.
    weight_standardization_eps: its epsilon.
    pool_padding: a key of `convolution.POOLS`.
    remat: recompute each unit in the backward pass.
    dtype: dtype of the computation.
    param_dtype: dtype of fresh parameters.

  Returns:
    Features [B, H/s, W/s, C] with s = 4 * 2**(len(num_layers) - 1), or 4 for
    (), and the named intermediates `conv_root`, `gn_root`, `block1`, ...
  """
  conv = functools.partial(
    StdConv,
    eps=weight_standardization_eps,
    form=weight_standardization,
    dtype=dtype,
    param_dtype=param_dtype,
  )
  norm = functools.partial(
    GroupNorm,
    num_groups=GROUPS,
    eps=group_norm_eps,
    dtype=dtype,
    param_dtype=param_dtype,
  )
  unit = nn.remat(ResidualUnit) if remat else ResidualUnit
  width = int(ROOT_CHANNELS * width_factor)
  named = {}
  x = conv(width, (7, 7), (2, 2), name='conv_root')(images)  # [B, H/2, W/2, C]
  named['conv_root'] = x
  x = norm(name='gn_root')(x)
  named['gn_root'] = x
  x = max_pool(nn.relu(x), padding=pool_padding)  # [B, H/4, W/4, C]
  for i, num_units in enumerate(num_layers):
    x = ResNetStage(
      num_units=num_units,
      features=width * 2**i,
      strides=(1, 1) if i == 0 else (2, 2),
      unit=unit,
      conv=conv,
      norm=norm,
      name=f'block{i + 1}',
    )(x)
    named[f'block{i + 1}'] = x
  return x, named
