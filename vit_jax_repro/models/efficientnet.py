"""EfficientNet (arXiv:1905.11946): inverted bottlenecks, squeeze-excitation.

Structure and constants are those of the authors' code (tensorflow/tpu,
models/official/efficientnet), which Noisy Student (arXiv:1911.04252) uses, too.
Convolutions have TensorFlow's SAME padding.

Statistics of batch normalisation are frozen. They are the leaves `mean` and
`var` of each norm, in the same tree as the parameters. No update changes them,
see `training.selection`.

Shapes: B batch, H W pixels, h w after striding, C channels, K classes.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_repro.models.checks import check_input, check_stages
from vit_jax_repro.models.convolving import convolve
from vit_jax_repro.models.layers import (
  Dtype,
  classify,
  drop_path,
  dropout,
  norm_dtype,
  pick,
  record_intermediates,
  split,
)

STATISTICS = ('mean', 'var')  # names of leaves that no update changes
# Strides and expansions of the seven blocks (paper, table 1).
STRIDES = (1, 2, 2, 2, 1, 2, 1)
EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)
STEM_KERNEL, STEM_STRIDE = 3, 2

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'swish': nn.swish,
  'relu': nn.relu,
}
# 'same': TensorFlow's, which pads the far side more if the total is odd.
# 'symmetric': (k - 1) // 2 pixels on every side, PyTorch's usual padding.
PADDINGS: dict[str, Callable[[int], str | tuple]] = {
  'same': lambda size: 'SAME',
  'symmetric': lambda size: (((size - 1) // 2,) * 2,) * 2,
}


def round_channels(channels: float, width: float) -> int:
  """Returns a scaled number of channels, a multiple of 8.

  It is the nearest multiple, or the next one if that is less than 90 % of the
  scaled number (`round_filters` of efficientnet_model.py).
  """
  wanted = channels * width
  rounded = max(8, int(wanted + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * wanted else rounded


def round_units(units: int, depth: float) -> int:
  """Returns a scaled number of units, rounded up."""
  return math.ceil(units * depth)


class BatchNorm(nn.Module):
  """Normalises the channels of [B, H, W, C] by stored statistics.

  It computes in float32 or wider.
  """

  eps: float
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:  # [B, H, W, C]
    zeros, ones = nn.initializers.zeros, nn.initializers.ones
    starts = dict(scale=ones, bias=zeros, mean=zeros, var=ones)
    params = {
      name: self.param(name, start, x.shape[-1:], self.param_dtype)
      for name, start in starts.items()
    }
    return self.by_rows(params, x)

  def by_rows(
    self, params: Mapping[str, jax.Array], x: jax.Array
  ) -> jax.Array:  # [B, H, W, C] -> [B, H, W, C]
    """Normalises; a method of its own because `training.dividing` calls it."""
    wide = norm_dtype(self.dtype)
    scale, bias, mean, var = (
      params[name].astype(wide)[None, None, None]
      for name in ('scale', 'bias', 'mean', 'var')
    )
    factor = scale * jax.lax.rsqrt(var + self.eps)
    return ((x.astype(wide) - mean) * factor + bias).astype(self.dtype)


class ConvNorm(nn.Module):
  """Applies a convolution without bias, batch normalisation, an activation."""

  features: int
  kernel_size: int
  norm: functools.partial
  padding: str
  activation: str | None = None
  strides: int = 1
  depthwise: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array
  ) -> jax.Array:  # [B, H, W, C] -> [B, h, w, features]
    # The authors count the outputs of a filter, which is 1 of a depthwise one.
    fan = 'fan_in' if self.depthwise else 'fan_out'
    x = nn.Conv(
      self.features,
      (self.kernel_size, self.kernel_size),
      (self.strides, self.strides),
      padding=PADDINGS[self.padding](self.kernel_size),
      feature_group_count=self.features if self.depthwise else 1,
      use_bias=False,
      conv_general_dilated=convolve,
      kernel_init=nn.initializers.variance_scaling(2.0, fan, 'normal'),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name='conv',
    )(x)
    x = self.norm(name='norm')(x)
    return ACTIVATIONS[self.activation](x) if self.activation else x


class SqueezeExcite(nn.Module):
  """Scales each channel by a function of the means of all channels."""

  features: int  # between the two layers
  activation: str
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:  # [B, h, w, C]
    conv = functools.partial(
      nn.Conv,
      kernel_size=(1, 1),
      conv_general_dilated=convolve,
      kernel_init=nn.initializers.variance_scaling(2.0, 'fan_out', 'normal'),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
    )
    wide = x.astype(norm_dtype(self.dtype))
    y = wide.mean(axis=(1, 2), keepdims=True)  # [B, 1, 1, C]
    y = ACTIVATIONS[self.activation](conv(self.features, name='reduce')(y))
    y = conv(x.shape[-1], name='expand')(y)
    return x * nn.sigmoid(y)


class Unit(nn.Module):
  """Applies an inverted bottleneck: 1x1 expansion, depthwise, 1x1 projection.

  Without expansion it begins with the depthwise convolution. Input and output
  are added if they have the same shape.
  """

  features: int
  kernel_size: int
  strides: int
  expansion: int
  squeeze_ratio: float
  conv: functools.partial

  @nn.compact
  def __call__(
    self, x: jax.Array, key: jax.Array | None, drop_path_rate: float
  ) -> jax.Array:  # [B, H, W, C] -> [B, h, w, features]
    activation = self.conv.keywords['activation']
    channels = x.shape[-1]
    y = x
    if self.expansion != 1:
      y = self.conv(self.expansion * channels, 1, name='expand')(y)
    y = self.conv(
      y.shape[-1],
      self.kernel_size,
      strides=self.strides,
      depthwise=True,
      name='depthwise',
    )(y)
    if self.squeeze_ratio:
      dtypes = ('dtype', 'param_dtype')
      y = SqueezeExcite(
        max(1, int(channels * self.squeeze_ratio)),
        activation,
        **{name: self.conv.keywords[name] for name in dtypes},
        name='squeeze',
      )(y)
    y = self.conv(self.features, 1, activation=None, name='project')(y)
    if self.strides != 1 or channels != self.features:
      return y
    return x + drop_path(y, drop_path_rate, key)


class Block(nn.Module):
  """Applies inverted bottlenecks; the first one is strided."""

  features: int
  kernel_size: int
  strides: int
  expansion: int
  squeeze_ratio: float
  conv: functools.partial
  unit: type[nn.Module]

  @nn.compact
  def __call__(
    self, x: jax.Array, drops: Sequence[tuple[jax.Array | None, float]]
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Maps [B, H, W, C] to [B, h, w, features], and {unit: its output}.

    Args:
      x: [B, H, W, C].
      drops: for each unit the key and the rate of its stochastic depth.
    """
    outputs = {}
    for i, (key, rate) in enumerate(drops):
      name = f'unit{i + 1:02d}'
      x = outputs[name] = self.unit(
        features=self.features,
        kernel_size=self.kernel_size,
        strides=self.strides if i == 0 else 1,
        expansion=self.expansion,
        squeeze_ratio=self.squeeze_ratio,
        conv=self.conv,
        name=name,
      )(x, key, rate)
    return x, outputs


class EfficientNet(nn.Module):
  """Maps normalised images [B, H, W, 3] to logits [B, K] float32.

  Without `num_classes` the result is the pooled features [B, top_channels].
  Intermediates: `stem`, `block1/unit01` ..., `top`, `pre_logits`.

  Attributes:
    block_units, block_channels, kernel_sizes, block_strides, expansions: of
      each block its number of units, output channels, kernel size of the
      depthwise convolution, stride of the first unit, and factor of the
      expansion.
    stem_channels, top_channels: outputs of the first and last convolution.
    squeeze_ratio: width of squeeze-excitation divided by the channels at the
      input of a unit; 0 for none.
    stochastic_depth_rate: drop rate of the branches. That of unit i of n is
      multiplied by i / n (`drop_connect_rate` of the authors' code).
  """

  num_classes: int | None
  block_units: tuple[int, ...]
  block_channels: tuple[int, ...]
  kernel_sizes: tuple[int, ...]
  stem_channels: int
  top_channels: int
  block_strides: tuple[int, ...] = STRIDES
  expansions: tuple[int, ...] = EXPANSIONS
  squeeze_ratio: float = 0.25
  activation: str = 'swish'
  padding: str = 'same'
  batch_norm_eps: float = 1e-3
  dropout_rate: float = 0.0
  stochastic_depth_rate: float = 0.0
  head_bias_init: float = 0.0
  remat: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    check_input(self, images)
    check_stages(self)
    pick('activation', self.activation, ACTIVATIONS)
    pick('padding', self.padding, PADDINGS)
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    conv = functools.partial(
      ConvNorm,
      norm=functools.partial(BatchNorm, eps=self.batch_norm_eps, **dtypes),
      padding=self.padding,
      activation=self.activation,
      **dtypes,
    )
    random = train and (self.dropout_rate or self.stochastic_depth_rate)
    key = self.make_rng('dropout') if random else None
    depth_key, top_key = split(key, 2)
    named = {}
    x = conv(self.stem_channels, STEM_KERNEL, strides=STEM_STRIDE, name='stem')(
      images.astype(self.dtype)
    )
    named['stem'] = x
    number = sum(self.block_units)
    keys = iter(split(depth_key, number))
    rates = (self.stochastic_depth_rate * i / number for i in range(number))
    for i, units in enumerate(self.block_units):
      x, outputs = Block(
        features=self.block_channels[i],
        kernel_size=self.kernel_sizes[i],
        strides=self.block_strides[i],
        expansion=self.expansions[i],
        squeeze_ratio=self.squeeze_ratio,
        conv=conv,
        unit=nn.remat(Unit) if self.remat else Unit,
        name=f'block{i + 1}',
      )(x, [(next(keys), next(rates)) for _ in range(units)])
      named |= {f'block{i + 1}/{name}': y for name, y in outputs.items()}
    x = conv(self.top_channels, 1, name='top')(x)
    named['top'] = x
    x = x.astype(norm_dtype(self.dtype)).mean(axis=(1, 2))  # [B, C]
    named['pre_logits'] = x
    record_intermediates(self, named)
    return classify(self, dropout(x, self.dropout_rate, top_key))  # [B, K]
