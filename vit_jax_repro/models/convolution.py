"""Layers shared by the hybrid stem and BiT.

They are the weight-standardised convolution, GroupNorm in float32, and the 3x3
stride-2 max-pool with its three paddings.

Shapes: B batch, H W pixels, C channels; kernels are [kh, kw, C_in, C_out].
"""

from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from vit_jax_repro.models.convolving import convolve
from vit_jax_repro.models.layers import Dtype, norm_dtype, pick


def _std_plus_eps(centred, variance, eps):
  return centred / (jnp.sqrt(variance) + eps)


def _sqrt_var_plus_eps(centred, variance, eps):
  return centred / jnp.sqrt(variance + eps)


# The hybrids' code adds the epsilon to the standard deviation
# (vit_jax/models_resnet.py). BiT's code adds it to the variance
# (bit_pytorch/models.py).
WEIGHT_STANDARDIZATIONS: dict[str, Callable[..., jax.Array]] = {
  'std_plus_eps': _std_plus_eps,
  'sqrt_var_plus_eps': _sqrt_var_plus_eps,
}


def standardize(kernel: jax.Array, *, eps: float, form: str) -> jax.Array:
  """Returns the kernel with zero mean and unit variance in each output channel.

  The variance is the population variance. The result is float32 or wider.

  Args:
    kernel: [kh, kw, C_in, C_out] floats.
    eps: the small constant of the chosen form.
    form: a key of `WEIGHT_STANDARDIZATIONS`.

  Raises:
    InputError: the form is unknown.
  """
  divide = pick('weight standardization', form, WEIGHT_STANDARDIZATIONS)
  kernel = kernel.astype(norm_dtype(kernel.dtype))
  centred = kernel - kernel.mean(axis=(0, 1, 2), keepdims=True)
  variance = jnp.square(centred).mean(axis=(0, 1, 2), keepdims=True)
  return divide(centred, variance, eps)


@jax.custom_jvp
def _in_order(kernel):
  """Returns the kernel; fixes its memory layout when it is differentiated.

  The layout is the order of the kernel's axes. cuDNN needs C_out first. Without
  this constraint, XLA propagates cuDNN's layout from a convolution to all its
  inputs and outputs, the optimiser's state included: an update of BiT-M-R50x1
  in bfloat16 compiled for an H100 has 554 float32 transpositions and copies, of
  923 MiB. With it, each kernel and each gradient is transposed once, in the
  dtype of the convolution, and none of the 554 remains.

  A forward pass that is not differentiated has no constraint. It would save
  little there, and `jax.export` rejects programs that contain it.
  """
  return kernel


@_in_order.defjvp
def _in_order_jvp(primals, tangents):
  order = Layout(tuple(range(primals[0].ndim)))
  (kernel,), (tangent,) = with_layout_constraint((primals, tangents), order)
  return kernel, tangent


class StdConv(nn.Module):
  """Applies a convolution without bias, with a standardised kernel.

  The parameter `kernel` is stored as it is before standardisation.
  """

  features: int
  kernel_size: tuple[int, int]
  strides: tuple[int, int] = (1, 1)
  padding: str | Sequence[tuple[int, int]] = 'SAME'
  eps: float = 1e-5
  form: str = 'std_plus_eps'
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array
  ) -> jax.Array:  # [B, H, W, C] -> [B, h, w, features]
    kernel = self.param(
      'kernel',
      nn.initializers.lecun_normal(),
      (*self.kernel_size, x.shape[-1], self.features),
      self.param_dtype,
    )
    kernel = standardize(kernel, eps=self.eps, form=self.form)
    return self.by_rows({'kernel': kernel}, x)

  def by_rows(
    self, params: Mapping[str, jax.Array], x: jax.Array
  ) -> jax.Array:  # [B, H, W, C] -> [B, h, w, features]
    """Convolves; a method of its own because `training.dividing` calls it."""
    return convolve(
      x.astype(self.dtype),
      _in_order(params['kernel'].astype(self.dtype)),
      self.strides,
      self.padding,
    )


class GroupNorm(nn.Module):
  """Applies group normalisation to [B, H, W, C], in float32 or wider.

  With `fast_variance` the variance is E[x^2] - E[x]^2 (linen's default, which
  the hybrids use). Without it the mean is subtracted first, as PyTorch and BiT
  do.
  """

  eps: float
  num_groups: int = 32
  fast_variance: bool = True
  scale_init: nn.initializers.Initializer = nn.initializers.ones
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:  # [B, H, W, C]
    norm = nn.GroupNorm(
      num_groups=self.num_groups,
      epsilon=self.eps,
      use_fast_variance=self.fast_variance,
      scale_init=self.scale_init,
      dtype=norm_dtype(self.dtype),
      param_dtype=self.param_dtype,
    )
    nn.share_scope(self, norm)
    return norm(x).astype(self.dtype)


# jax2onnx replaces `nn.max_pool` by a function that takes keywords only.
_POOL = dict(window_shape=(3, 3), strides=(2, 2))


def _pool_same(x):
  return nn.max_pool(x, padding='SAME', **_POOL)


def _pool_symmetric(x):
  return nn.max_pool(x, padding=((1, 1), (1, 1)), **_POOL)


def _pool_zeros(x):
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  return nn.max_pool(x, padding='VALID', **_POOL)


# Paddings of the 3x3 stride-2 pool. 'same': -inf, only at the far side if the
# size is even (hybrids, vit_jax/models_vit.py); 'symmetric': -inf, one pixel on
# every side (ports, big_vision's BiT); 'zeros': zeros, one pixel on every side
# (all three official BiT versions).
POOLS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'same': _pool_same,
  'symmetric': _pool_symmetric,
  'zeros': _pool_zeros,
}


def max_pool(x: jax.Array, *, padding: str) -> jax.Array:
  """Returns the 3x3 stride-2 max-pool of [B, H, W, C].

  Args:
    x: [B, H, W, C].
    padding: a key of `POOLS`.

  Raises:
    InputError: the padding is unknown.
  """
  return pick('pool padding', padding, POOLS)(x)
