"""Scaled dot-product attention, by what is fastest on the platform.

Shapes: B batch, N tokens, M keys, A heads, d head dim.
"""

import jax
import jax.numpy as jnp

from vit_jax_repro.models.choices import Dtype, norm_dtype, pick
from vit_jax_repro.models.layers import dropout

# 'plain' is ours; the others are implementations of
# jax.nn.dot_product_attention, which keep no weights.
IMPLEMENTATIONS = {'auto': None, 'plain': None, 'xla': 'xla', 'cudnn': 'cudnn'}
# Of cuDNN's flash attention as JAX calls it: Ampere, 16-bit numbers, and heads
# that are multiples of 8 and at most so wide.
_CAPABILITY, _WIDEST = 8.0, 128


def attend(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  *,
  implementation: str,
  dtype: Dtype,
  bias: jax.Array | None = None,
  dropout_rate: float = 0.0,
  dropout_key: jax.Array | None = None,
  keep_weights: bool = False,
) -> tuple[jax.Array, jax.Array | None]:
  """softmax(query key^T / sqrt(d) + bias) value.

  The softmax is float32 or wider. What keeps weights, drops some of them or
  has a bias is 'plain', whatever is asked for.

  Args:
    query: [B, N, A, d].
    key, value: [B, M, A, d].
    implementation: a key of `IMPLEMENTATIONS`; 'auto' is `fastest`.
    dtype: of the output.
    bias: added to the scores: [B, A, N, M], where B and A may be 1.
    dropout_key: without one nothing is dropped; else only within a module.

  Returns:
    [B, N, A, d], and the weights [B, A, N, M] before dropout if they are kept.
  """
  pick('attention', implementation, IMPLEMENTATIONS)
  plain = keep_weights or bias is not None
  plain |= dropout_key is not None and dropout_rate > 0
  if implementation == 'auto':
    implementation = fastest(dtype, query.shape[-1])
  if plain or implementation == 'plain':
    return _plain(
      query, key, value, bias, dropout_rate, dropout_key, dtype, keep_weights
    )
  out = jax.nn.dot_product_attention(
    *(x.astype(dtype) for x in (query, key, value)),
    implementation=IMPLEMENTATIONS[implementation],
  )
  return out, None


def fastest(dtype: Dtype, head_dim: int) -> str:
  """'cudnn' where its kernel can be had, else 'plain'.

  Decided by the first device, when a program is traced. XLA makes one fused
  program of 'plain' on TPUs, and at these lengths (197 tokens) the scores are
  small; on CPUs it is the faster of the two as well.
  """
  if jnp.dtype(dtype).itemsize > 2 or jax.default_backend() != 'gpu':
    return 'plain'  # without looking for devices where numbers are wide
  capability = getattr(jax.devices()[0], 'compute_capability', '')
  return 'cudnn' if cudnn_fits(dtype, head_dim, capability) else 'plain'


def cudnn_fits(dtype: Dtype, head_dim: int, capability: str) -> bool:
  """Whether cuDNN's kernel takes such heads on such a card ('9.0')."""
  try:
    version = float(capability)
  except ValueError:  # of AMD's cards it is a name such as 'gfx942'
    return False
  return (
    jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    and head_dim % 8 == 0
    and head_dim <= _WIDEST
    and version >= _CAPABILITY
  )


def _plain(query, key, value, bias, rate, dropout_key, dtype, keep_weights):
  # Heads first, so that both products are plain batches of matrix products.
  query = query / jnp.sqrt(query.shape[-1]).astype(query.dtype)
  query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
  scores = query @ key.swapaxes(-1, -2)  # [B, A, N, M]
  if bias is not None:
    scores = scores + bias
  weights = jax.nn.softmax(scores.astype(norm_dtype(dtype)))
  dropped = dropout(weights, rate, dropout_key).astype(dtype)
  out = (dropped @ value).swapaxes(1, 2)
  return out, weights if keep_weights else None
