"""Scaled dot-product attention, with the fastest kernel of each device.

Shapes: B batch, N tokens, M keys, A heads, d head dim.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_repro.errors import InputError
from vit_jax_repro.models.layers import Dtype, dropout, norm_dtype, pick

Kernel = Literal['xla', 'cudnn'] | None

# 'plain' is implemented below. 'xla' and 'cudnn' are implementations of
# jax.nn.dot_product_attention, which do not return the attention weights.
IMPLEMENTATIONS: dict[str, Kernel] = {
  'auto': None,
  'plain': None,
  'xla': 'xla',
  'cudnn': 'cudnn',
}
# cuDNN's flash attention needs a card from Ampere on, a 16-bit dtype, and a
# head dim that is a multiple of 8 and at most 128.
_CAPABILITY, _WIDEST = 8.0, 128
# Through JAX's interface, its gradient rejects odd numbers of queries or keys
# (jax/_src/cudnn/fused_attention_stablehlo.py, check_is_flash_attention).
PADDED_TO = 2


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
  """Returns softmax(query key^T / sqrt(d) + bias) value.

  The softmax is computed in float32 or wider. Only the 'plain' implementation
  keeps weights, applies dropout to them or adds a bias, so it replaces the
  requested one in these cases.

  Args:
    query: [B, N, A, d].
    key, value: [B, M, A, d].
    implementation: a key of `IMPLEMENTATIONS`. 'auto' means `fastest` for the
      first device of JAX's default backend.
    dtype: dtype of the output.
    bias: [B, A, N, M], added to the scores; B and A may be 1.
    dropout_rate: fraction of the weights that are dropped.
    dropout_key: key of the dropout, which must run inside a module; None for
      no dropout.
    keep_weights: also return the attention weights.

  Returns:
    The output [B, N, A, d], and the weights [B, A, N, M] before dropout, or
    None if they are not kept.

  Raises:
    InputError: the implementation is unknown.
  """
  pick('attention', implementation, IMPLEMENTATIONS)
  plain = keep_weights or bias is not None
  plain |= dropout_key is not None and dropout_rate > 0
  if implementation == 'auto' and not plain:
    implementation = fastest(dtype, query.shape[-1])
  if plain or implementation == 'plain':
    return _plain(
      query, key, value, bias, dropout_rate, dropout_key, dtype, keep_weights
    )
  query, key, value = (x.astype(dtype) for x in (query, key, value))
  if implementation == 'cudnn':
    out = padded(query, key, value, implementation='cudnn')
  else:
    out = jax.nn.dot_product_attention(
      query, key, value, implementation=IMPLEMENTATIONS[implementation]
    )
  return out, None


def padded(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  *,
  implementation: Kernel,
  multiple: int = PADDED_TO,
) -> jax.Array:
  """Returns attention computed with padded queries and keys.

  Padding does not change the values. The kernel gets the true lengths, so no
  query attends to a padded key, and the rows of padded queries are cut off.

  Args:
    query: [B, N, A, d].
    key, value: [B, M, A, d].
    implementation: argument of `jax.nn.dot_product_attention`.
    multiple: N and M are padded to a multiple of this number.

  Returns:
    [B, N, A, d].
  """
  batch, num_queries = query.shape[:2]
  num_keys = key.shape[1]
  if num_queries % multiple == num_keys % multiple == 0:
    return jax.nn.dot_product_attention(
      query, key, value, implementation=implementation
    )

  def pad(x):
    extra = -x.shape[1] % multiple
    return jnp.pad(x, ((0, 0), (0, extra), (0, 0), (0, 0)))

  out = jax.nn.dot_product_attention(
    pad(query),
    pad(key),
    pad(value),
    query_seq_lengths=jnp.full((batch,), num_queries, jnp.int32),
    key_value_seq_lengths=jnp.full((batch,), num_keys, jnp.int32),
    implementation=implementation,
  )
  return out[:, :num_queries]


def fastest(
  dtype: Dtype, head_dim: int, device: jax.Device | None = None
) -> str:
  """Returns 'cudnn' if the device supports its kernel, otherwise 'plain'.

  On TPUs, XLA fuses 'plain' into one program, and the scores are small at these
  lengths (197 tokens). On CPUs, 'plain' is faster than 'xla'.

  Args:
    dtype: dtype of the computation.
    head_dim: d.
    device: device that the program is compiled for, which need not be in this
      machine. The default is the first device of JAX's default backend.
  """
  if jnp.dtype(dtype).itemsize > 2:
    return 'plain'  # before JAX has to look for devices
  device = jax.devices()[0] if device is None else device
  if device.platform not in ('gpu', 'cuda'):
    return 'plain'
  capability = getattr(device, 'compute_capability', '')
  return 'cudnn' if cudnn_fits(dtype, head_dim, capability) else 'plain'


def resolve(model: nn.Module, device: jax.Device | None = None) -> nn.Module:
  """Returns the model with `attention='auto'` replaced by `fastest`.

  Args:
    model: any module. One without attention is returned unchanged.
    device: see `fastest`.

  Raises:
    InputError: the model requires a kernel that the device does not support.
  """
  wanted = getattr(model, 'attention', None)
  if wanted not in ('auto', 'cudnn'):
    return model
  head_dim = model.hidden_size // model.num_heads
  found = fastest(model.dtype, head_dim, device)
  if wanted == 'cudnn' and found != 'cudnn':
    raise InputError(
      f"attention='cudnn' cannot run here with dtype="
      f'{jnp.dtype(model.dtype).name} and heads of width {head_dim}; it needs '
      'bfloat16 or float16, a width that is a multiple of 8 and at most '
      f"{_WIDEST}, and an NVIDIA card from Ampere on; use 'auto'"
    )
  return model.clone(attention=found)


def cudnn_fits(dtype: Dtype, head_dim: int, capability: str) -> bool:
  """Returns whether cuDNN's kernel supports the heads on a card.

  The number of tokens does not matter; see `padded`.

  Args:
    dtype: dtype of the computation.
    head_dim: d.
    capability: compute capability of the card, such as '9.0'.
  """
  try:
    version = float(capability)
  except ValueError:  # AMD cards have a name instead, such as 'gfx942'
    return False
  return (
    jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    and head_dim % 8 == 0
    and head_dim <= _WIDEST
    and version >= _CAPABILITY
  )


def _plain(query, key, value, bias, rate, dropout_key, dtype, keep_weights):
  # With the heads first, both products are batches of matrix products.
  query = query / jnp.sqrt(query.shape[-1]).astype(query.dtype)
  query, key, value = (x.swapaxes(1, 2) for x in (query, key, value))
  scores = query @ key.swapaxes(-1, -2)  # [B, A, N, M]
  if bias is not None:
    scores = scores + bias
  weights = jax.nn.softmax(scores.astype(norm_dtype(dtype)))
  dropped = dropout(weights, rate, dropout_key).astype(dtype)
  out = (dropped @ value).swapaxes(1, 2)
  return out, weights if keep_weights else None
