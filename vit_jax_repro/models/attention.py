"""Scaled dot-product attention, by the kernel that is fastest on a device.

Shapes: B batch, N tokens, M keys, A heads, d head dim.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_repro.errors import InputError
from vit_jax_repro.models.choices import Dtype, norm_dtype, pick
from vit_jax_repro.models.layers import dropout

# 'plain' is ours; the others are implementations of
# jax.nn.dot_product_attention, which keep no weights.
IMPLEMENTATIONS = {'auto': None, 'plain': None, 'xla': 'xla', 'cudnn': 'cudnn'}
# What cuDNN's flash attention takes: cards from Ampere on, 16-bit numbers,
# heads whose width is a multiple of 8 and at most 128.
_CAPABILITY, _WIDEST = 8.0, 128
# Its gradient takes no odd number of queries or keys through JAX's interface
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
  """softmax(query key^T / sqrt(d) + bias) value.

  The softmax is float32 or wider. What keeps weights, drops some of them or
  has a bias is 'plain', whatever is asked for.

  Args:
    query: [B, N, A, d].
    key, value: [B, M, A, d].
    implementation: a key of `IMPLEMENTATIONS`; 'auto' is `fastest` for the
      first device of JAX's default backend.
    dtype: of the output.
    bias: added to the scores: [B, A, N, M], where B and A may be 1.
    dropout_key: without one nothing is dropped; else only within a module.

  Returns:
    [B, N, A, d], and the weights [B, A, N, M] before dropout if they are kept.
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
  implementation: str,
  multiple: int = PADDED_TO,
) -> jax.Array:
  """Attends with queries and keys padded to a multiple; values are unchanged.

  The kernel is told the true lengths, so that no query sees a padded key, and
  the rows of padded queries are cut off again.

  Args:
    query: [B, N, A, d].
    key, value: [B, M, A, d].
    implementation: of `jax.nn.dot_product_attention`.
    multiple: the numbers of queries and of keys become multiples of it.

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
  """Returns 'cudnn' where a device has its kernel, else 'plain'.

  On TPUs XLA fuses 'plain' into one program, and at these lengths (197 tokens)
  the scores are small; on CPUs 'plain' is the faster of the two as well.

  Args:
    dtype: of the computation.
    head_dim: d.
    device: that the program is compiled for, which need not be in this
      machine; by default the first one of JAX's default backend.
  """
  if jnp.dtype(dtype).itemsize > 2:
    return 'plain'  # without asking JAX for devices
  device = jax.devices()[0] if device is None else device
  if device.platform not in ('gpu', 'cuda'):
    return 'plain'
  capability = getattr(device, 'compute_capability', '')
  return 'cudnn' if cudnn_fits(dtype, head_dim, capability) else 'plain'


def resolve(model: nn.Module, device: jax.Device | None = None) -> nn.Module:
  """Replaces a model's `attention='auto'` by `fastest` for a device.

  Args:
    model: any module; one without attention is returned as it is.
    device: see `fastest`.

  Raises:
    InputError: the model asks for a kernel that the device does not have.
  """
  wanted = getattr(model, 'attention', None)
  if wanted not in ('auto', 'cudnn'):
    return model
  head_dim = model.hidden_size // model.num_heads
  found = fastest(model.dtype, head_dim, device)
  if wanted == 'cudnn' and found != 'cudnn':
    raise InputError(
      f"attention='cudnn' does not take dtype={jnp.dtype(model.dtype).name}, "
      f'heads of {head_dim} and this device; it needs bfloat16 or float16, '
      f'heads of a multiple of 8 up to {_WIDEST}, and an NVIDIA card from '
      "Ampere on; use 'auto'"
    )
  return model.clone(attention=found)


def cudnn_fits(dtype: Dtype, head_dim: int, capability: str) -> bool:
  """Tells whether cuDNN's kernel takes heads on a card of a capability ('9.0').

  Numbers of tokens do not matter: see `padded`.
  """
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
