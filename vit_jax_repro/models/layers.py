"""Parts shared by the models: MLP, dropout, stochastic depth, head, dtype rule.

Shapes: B batch, N tokens, D hidden, F mlp, K classes.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_repro.errors import InputError

Dtype = Any

# The original code uses linen's default, the tanh approximation. PyTorch ports
# use the exact form with the error function. The field `gelu` of a model
# selects one; models that were trained in PyTorch get `TORCH_GELU`.
TORCH_GELU = 'erf'
GELUS = {
  'tanh': functools.partial(nn.gelu, approximate=True),
  'erf': functools.partial(nn.gelu, approximate=False),
}

# The collection of named activations, kept if it is mutable.
# `model.apply(..., mutable=[INTERMEDIATES])` returns a flat mapping
# {name: (array,)}, the form of linen's `sow`. Names are the paths of modules in
# the original code, with slashes ('Transformer/encoderblock_0'). In a flat
# mapping, an output and an activation inside its module
# ('Transformer/encoderblock_0/attention_weights') can both have their names,
# also in scanned encoders.
INTERMEDIATES = 'intermediates'


class Mlp(nn.Module):
  """Applies dense, GELU and dense to the last axis: [..., D] -> [..., D]."""

  mlp_dim: int
  gelu: str
  dropout_rate: float = 0.0
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  bias_init: nn.initializers.Initializer = nn.initializers.zeros
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
    dense = functools.partial(
      nn.Dense,
      kernel_init=self.kernel_init,
      bias_init=self.bias_init,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
    )
    inner_key, outer_key = split(key, 2)
    y = dense(self.mlp_dim, name='Dense_0')(x)  # [..., F]
    y = pick('gelu', self.gelu, GELUS)(y)
    y = dropout(y, self.dropout_rate, inner_key)
    y = dense(x.shape[-1], name='Dense_1')(y)  # [..., D]
    return dropout(y, self.dropout_rate, outer_key)


class LayerScale(nn.Module):
  """Multiplies each channel of [..., D] by a learned factor.

  Source: CaiT (arXiv:2103.17239, equation 4).
  """

  initial: float
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    start = nn.initializers.constant(self.initial)
    scale = self.param('scale', start, x.shape[-1:], self.param_dtype)
    return self.by_rows({'scale': scale}, x)

  def by_rows(
    self, params: Mapping[str, jax.Array], x: jax.Array
  ) -> jax.Array:  # [..., D] -> [..., D]
    """Returns the scaled rows; `training.dividing` calls this method."""
    scale = params['scale'].astype(x.dtype)
    return x * scale.reshape((1,) * (x.ndim - 1) + scale.shape)


def classify(
  model: nn.Module, x: jax.Array, name: str = 'head'
) -> jax.Array:  # [..., D] -> [..., K]
  """Applies the head of every model, in the scope of `model`.

  The kernel is initialised to zero and the bias to `head_bias_init`. Logits are
  float32 or wider. Without `num_classes` there is no head, and `x` is returned.
  """
  if not model.num_classes:
    return x
  return nn.Dense(
    model.num_classes,
    kernel_init=nn.initializers.zeros,
    bias_init=nn.initializers.constant(model.head_bias_init),
    dtype=norm_dtype(model.dtype),
    param_dtype=model.param_dtype,
    name=name,
  )(x)


def split(key: jax.Array | None, num: int) -> jax.Array | list[None]:
  """Splits a random key into `num` keys.

  Without a key, as outside training, each of them is None.
  """
  return [None] * num if key is None else jax.random.split(key, num)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
  """Zeroes entries at `rate` and scales the rest; returns `x` without a key.

  Keys are arguments and are not drawn from linen's streams, so that scanned,
  rematerialised and plain encoders drop the same entries.
  """
  if key is None or not rate:
    return x
  return nn.Dropout(rate, deterministic=False)(x, rng=key)


def drop_path(
  branch: jax.Array, rate: float | jax.Array | None, key: jax.Array | None
) -> jax.Array:
  """Drops the residual branch [B, N, D] of whole examples (stochastic depth).

  The other branches are scaled by 1 / (1 - rate). `rate` may be traced. With
  None no branch is dropped.
  """
  if key is None or rate is None:
    return branch
  shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
  keep = jax.random.bernoulli(key, 1 - rate, shape)
  scale = jnp.where(keep, 1 / (1 - rate), 0)
  return branch * scale.astype(branch.dtype)


def depth_rates(rate: float, num_layers: int) -> list[float]:
  """Returns drop rates that rise linearly from 0 to `rate` over the layers.

  Source: AugReg paper (arXiv:2106.10270), section 3.3, and DeiT's models.
  """
  return [rate * i / max(num_layers - 1, 1) for i in range(num_layers)]


def pick(kind: str, name: Any, table: Mapping[str, Any]) -> Any:
  """Returns `table[name]`.

  Args:
    kind: description of the name, for the message.
    name: the chosen key.
    table: {name: value}.

  Raises:
    InputError: the name is unknown; the message has the name and the choices.
  """
  if not isinstance(name, str) or name not in table:
    raise InputError(f'unknown {kind} {name!r}; choose from {sorted(table)}')
  return table[name]


def norm_dtype(dtype: Dtype) -> Dtype:
  """Returns the dtype of norms, softmax and logits: float32 or wider."""
  return jnp.promote_types(dtype, jnp.float32)


def intermediates_requested(module: nn.Module) -> bool:
  """Returns whether the caller requested the named activations."""
  return module.is_mutable_collection(INTERMEDIATES)


def record_intermediates(
  module: nn.Module, named: Mapping[str, jax.Array]
) -> None:
  """Stores the named activations of the top-level module `module`."""
  if intermediates_requested(module):
    for name, value in named.items():
      # `sow` would reject names that submodules have, too ('embedding').
      module.put_variable(INTERMEDIATES, name, (value,))
