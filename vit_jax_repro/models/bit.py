"""BiT-ResNetV2: pre-activation bottlenecks, GroupNorm, standardised weights.

Source of structure and constants: bit_pytorch/models.py of google-research/
big_transfer, and section 3 of the BiT paper (arXiv:1912.11370). Padding is
explicit and symmetric, and the pool is padded with zeros. Parameters have the
paths of the published files (`block1/unit01/a/...`) and linen's leaf names.

Shapes: B batch, H W pixels, h w after striding, C channels, K classes.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_repro.models.checks import check_input, check_width
from vit_jax_repro.models.convolution import GroupNorm, StdConv, max_pool
from vit_jax_repro.models.layers import (
  Dtype,
  classify,
  norm_dtype,
  record_intermediates,
)


def _conv(conv, features, kernel_size, strides, name):
  pad = (kernel_size - 1) // 2
  return conv(
    features,
    (kernel_size, kernel_size),
    (strides, strides),
    padding=((pad, pad), (pad, pad)),
    name=name,
  )


class Layer(nn.Module):
  """Applies GroupNorm, ReLU and a convolution; `a` also projects."""

  features: int
  kernel_size: int
  strides: int
  conv: functools.partial
  norm: functools.partial
  projection: tuple[int, int] | None = None  # features, strides

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """Maps [B, H, W, C] to [B, h, w, features] and the projected shortcut.

    Without a projection the shortcut is None.
    """
    x = nn.relu(self.norm(name='group_norm')(x))
    y = _conv(self.conv, self.features, self.kernel_size, self.strides, 'conv')(
      x
    )
    if self.projection is None:
      return y, None
    features, strides = self.projection
    return y, _conv(self.conv, features, 1, strides, 'proj')(x)


class Unit(nn.Module):
  """Applies a bottleneck of layers a (1x1), b (3x3, strided), c (1x1 to 4x)."""

  features: int
  strides: int
  project: bool
  conv: functools.partial
  norm: functools.partial

  @nn.compact
  def __call__(
    self, x: jax.Array
  ) -> jax.Array:  # [B, H, W, C] -> [B, h, w, 4 * features]
    layer = functools.partial(Layer, conv=self.conv, norm=self.norm)
    wide = 4 * self.features
    projection = (wide, self.strides) if self.project else None
    y, shortcut = layer(self.features, 1, 1, projection=projection, name='a')(x)
    y, _ = layer(self.features, 3, self.strides, name='b')(y)
    y, _ = layer(wide, 1, 1, name='c')(y)
    return y + (x if shortcut is None else shortcut)


class Block(nn.Module):
  """Applies `num_units` bottlenecks; the first one is strided and projects."""

  num_units: int
  features: int
  strides: int
  unit: type[nn.Module]
  conv: functools.partial
  norm: functools.partial

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for i in range(self.num_units):
      x = self.unit(
        features=self.features,
        strides=self.strides if i == 0 else 1,
        project=i == 0,
        conv=self.conv,
        norm=self.norm,
        name=f'unit{i + 1:02d}',
      )(x)
    return x


class RootBlock(nn.Module):
  """Applies a 7x7 stride-2 convolution, then the 3x3 stride-2 max-pool.

  The root has no activation.
  """

  features: int
  pool_padding: str
  conv: functools.partial

  @nn.compact
  def __call__(
    self, x: jax.Array
  ) -> jax.Array:  # [B, H, W, 3] -> [B, H/4, W/4, features]
    x = _conv(self.conv, self.features, 7, 2, 'conv')(x)
    return max_pool(x, padding=self.pool_padding)


class BiT(nn.Module):
  """Maps images [B, H, W, 3] in [-1, 1] to logits [B, K] float32.

  Without `num_classes` the result is the pooled features
  [B, 2048 * width_factor].
  Intermediates: `root_block`, `block1` ... `block4`, `pre_logits`.
  """

  num_classes: int | None
  block_units: tuple[int, ...]
  width_factor: float = 1
  root_channels: int = 64  # already multiplied by the width factor
  groups: int = 32
  group_norm_eps: float = 1e-5  # torch.nn.GroupNorm's default
  weight_standardization: str = 'sqrt_var_plus_eps'
  weight_standardization_eps: float = 1e-10
  pool_padding: str = 'zeros'
  head_bias_init: float = 0.0
  remat: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    del train  # BiT has neither dropout nor running statistics
    check_input(self, images)
    check_width(
      f'root_channels={self.root_channels}', self.root_channels, self.groups
    )
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    conv = functools.partial(
      StdConv,
      eps=self.weight_standardization_eps,
      form=self.weight_standardization,
      **dtypes,
    )
    # E[x^2] - E[x]^2, the fast variance, loses digits on these weights.
    norm = functools.partial(
      GroupNorm,
      eps=self.group_norm_eps,
      num_groups=self.groups,
      fast_variance=False,
      **dtypes,
    )
    unit = nn.remat(Unit) if self.remat else Unit
    named = {}
    x = RootBlock(
      self.root_channels, self.pool_padding, conv, name='root_block'
    )(images)
    named['root_block'] = x
    for i, num_units in enumerate(self.block_units):
      x = Block(
        num_units=num_units,
        features=self.root_channels * 2**i,
        strides=1 if i == 0 else 2,
        unit=unit,
        conv=conv,
        norm=norm,
        name=f'block{i + 1}',
      )(x)
      named[f'block{i + 1}'] = x
    x = nn.relu(norm(name='group_norm')(x))
    x = x.astype(norm_dtype(self.dtype)).mean(axis=(1, 2))  # [B, C]
    named['pre_logits'] = x
    record_intermediates(self, named)
    return classify(self, x)  # [B, K]
