"""Position embeddings.

Shapes: B batch, N tokens, D hidden, (h, w) grid of patches.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_repro.models.choices import Dtype, norm_dtype

KINDS = ('learned', 'sincos2d')
SINCOS_TEMPERATURE = 10_000.0  # big_vision/models/vit.py, posemb_sincos_2d


class AddPositionEmbedding(nn.Module):
  """Adds learned [1, N, D] or fixed sine-cosine positions to tokens.

  The learned ones start at normal(0.02) (vit_jax/models_vit.py).
  """

  kind: str
  grid: tuple[int, int]
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x):  # [B, N, D]
    if self.kind == 'learned':
      positions = self.param(
        'pos_embedding',
        nn.initializers.normal(stddev=0.02),
        (1, *x.shape[1:]),
        self.param_dtype,
      )
    else:
      positions = sincos2d(self.grid, x.shape[-1], norm_dtype(x.dtype))
      extra = x.shape[1] - positions.shape[1]  # class tokens have no place
      positions = jnp.pad(positions, ((0, 0), (extra, 0), (0, 0)))
    return x + positions.astype(x.dtype)


def sincos2d(
  grid: tuple[int, int], hidden_size: int, dtype: Dtype = jnp.float32
) -> jax.Array:
  """Fixed 2-D sine-cosine embedding [1, h*w, D]: sin x, cos x, sin y, cos y.

  Source: big_vision/models/vit.py (after MoCo v3).

  Raises:
    ValueError: `hidden_size` is not a multiple of 4, or is 4.
  """
  if hidden_size % 4 or hidden_size <= 4:
    raise ValueError(
      f'{hidden_size=} must be a multiple of 4 above 4 for sincos2d positions'
    )
  quarter = hidden_size // 4
  rates = SINCOS_TEMPERATURE ** -(
    jnp.arange(quarter, dtype=dtype) / (quarter - 1)
  )
  y, x = jnp.mgrid[: grid[0], : grid[1]].astype(dtype)
  x_angles = x.reshape(-1, 1) * rates.reshape(1, -1)  # [N, D/4]
  y_angles = y.reshape(-1, 1) * rates.reshape(1, -1)
  parts = [
    jnp.sin(x_angles),
    jnp.cos(x_angles),
    jnp.sin(y_angles),
    jnp.cos(y_angles),
  ]
  return jnp.concatenate(parts, axis=-1)[None]
