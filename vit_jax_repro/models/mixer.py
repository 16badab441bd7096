"""MLP-Mixer (arXiv:2105.01601), as in vit_jax/models_mixer.py.

Shapes: B batch, H W pixels, h w patches, N tokens, D hidden, K classes.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_repro.models.checks import check_input, check_patches
from vit_jax_repro.models.convolving import convolve
from vit_jax_repro.models.layers import (
  Dtype,
  Mlp,
  classify,
  depth_rates,
  drop_path,
  norm_dtype,
  record_intermediates,
  split,
)


class MixerBlock(nn.Module):
  """Mixes tokens, then channels, each with a pre-norm and a residual."""

  tokens_mlp_dim: int
  channels_mlp_dim: int
  gelu: str
  layer_norm_eps: float
  dtype: Dtype
  param_dtype: Dtype

  @nn.compact
  def __call__(
    self, x: jax.Array, key: jax.Array | None, drop_path_rate: float
  ) -> jax.Array:  # [B, N, D] -> [B, N, D]
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    norm = functools.partial(
      nn.LayerNorm,
      epsilon=self.layer_norm_eps,
      dtype=norm_dtype(self.dtype),
      param_dtype=self.param_dtype,
    )
    mlp = functools.partial(Mlp, gelu=self.gelu, **dtypes)
    tokens_key, channels_key = split(key, 2)
    y = norm(name='LayerNorm_0')(x).swapaxes(1, 2)  # [B, D, N]
    y = mlp(self.tokens_mlp_dim, name='token_mixing')(y).swapaxes(1, 2)
    x = x + drop_path(y, drop_path_rate, tokens_key)
    y = norm(name='LayerNorm_1')(x)
    y = mlp(self.channels_mlp_dim, name='channel_mixing')(y)
    return x + drop_path(y, drop_path_rate, channels_key)


class Mixer(nn.Module):
  """Maps images [B, H, W, 3] in [-1, 1] to logits [B, K] float32.

  The token-mixing weights fix the image size. Without `num_classes` the result
  is the pooled features [B, D]. The original code has the same field names.
  Intermediates: `stem`, `MixerBlock_0`..., `pre_head_layer_norm`, `pre_logits`.
  """

  num_classes: int | None
  patch_size: tuple[int, int]
  num_blocks: int
  hidden_dim: int
  tokens_mlp_dim: int
  channels_mlp_dim: int
  gelu: str = 'tanh'
  layer_norm_eps: float = 1e-6  # linen's default, which the original uses
  stochastic_depth_rate: float = 0.0
  head_bias_init: float = 0.0
  remat: bool = False
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
    check_input(self, images)
    check_patches(images, self.patch_size)
    named = {}
    x = nn.Conv(
      self.hidden_dim,
      self.patch_size,
      strides=self.patch_size,
      padding='VALID',
      conv_general_dilated=convolve,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name='stem',
    )(images.astype(self.dtype))  # [B, h, w, D]
    named['stem'] = x
    x = x.reshape(x.shape[0], -1, self.hidden_dim)  # [B, N, D]
    dropping = train and self.stochastic_depth_rate
    key = self.make_rng('dropout') if dropping else None
    keys = split(key, self.num_blocks)
    rates = depth_rates(self.stochastic_depth_rate, self.num_blocks)
    block = nn.remat(MixerBlock) if self.remat else MixerBlock
    for i, (block_key, rate) in enumerate(zip(keys, rates, strict=True)):
      x = block(
        tokens_mlp_dim=self.tokens_mlp_dim,
        channels_mlp_dim=self.channels_mlp_dim,
        gelu=self.gelu,
        layer_norm_eps=self.layer_norm_eps,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name=f'MixerBlock_{i}',
      )(x, block_key, rate)
      named[f'MixerBlock_{i}'] = x
    x = nn.LayerNorm(
      epsilon=self.layer_norm_eps,
      dtype=norm_dtype(self.dtype),
      param_dtype=self.param_dtype,
      name='pre_head_layer_norm',
    )(x)
    named['pre_head_layer_norm'] = x
    x = x.mean(axis=1)  # [B, D]
    named['pre_logits'] = x
    record_intermediates(self, named)
    return classify(self, x)  # [B, K]
