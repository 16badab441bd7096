"""The MAP head of big_vision's ViTs: pooling by attention.

Shapes: B batch, N tokens, D hidden.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_repro.models.layers import Dtype, Mlp, norm_dtype
from vit_jax_repro.models.transformer import Attention


class MapHead(nn.Module):
  """Pools [B, N, D] to [B, D] by attention, as big_vision's `map`.

  A learned probe attends over the tokens. An MLP with a residual follows
  (big_vision/models/vit.py, MAPHead).
  """

  num_heads: int
  mlp_dim: int
  gelu: str
  layer_norm_eps: float
  attention: str
  dtype: Dtype
  param_dtype: Dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    probe = self.param(
      'probe',
      nn.initializers.xavier_uniform(),
      (1, 1, x.shape[-1]),
      self.param_dtype,
    )
    probe = jnp.broadcast_to(probe, (x.shape[0], 1, x.shape[-1]))
    x, _ = Attention(
      num_heads=self.num_heads,
      implementation=self.attention,
      **dtypes,
      name='MultiHeadDotProductAttention_0',
    )(probe.astype(x.dtype), x)
    y = nn.LayerNorm(
      epsilon=self.layer_norm_eps,
      dtype=norm_dtype(self.dtype),
      param_dtype=self.param_dtype,
      name='LayerNorm_0',
    )(x)
    y = Mlp(
      mlp_dim=self.mlp_dim,
      gelu=self.gelu,
      kernel_init=nn.initializers.xavier_uniform(),
      bias_init=nn.initializers.normal(stddev=1e-6),
      **dtypes,
      name='MlpBlock_0',
    )(y)
    return (x + y)[:, 0]
