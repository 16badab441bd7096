"""Pieces shared by the hybrid stem and BiT: weight-standardised convolutions,
GroupNorm in float32, and the 3x3 stride-2 max-pool with its three paddings.

Shapes: B batch, H W pixels, C channels; kernels are [kh, kw, C_in, C_out].
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from vit_jax_repro.models.choices import Dtype, norm_dtype, pick


def _std_plus_eps(centred, variance, eps):
  return centred / (jnp.sqrt(variance) + eps)


def _sqrt_var_plus_eps(centred, variance, eps):
  return centred / jnp.sqrt(variance + eps)


# Where the epsilon goes. The hybrids' code adds it to the standard deviation
# (vit_jax/models_resnet.py), BiT's to the variance (bit_pytorch/models.py).
WEIGHT_STANDARDIZATIONS = {
  'std_plus_eps': _std_plus_eps,
  'sqrt_var_plus_eps': _sqrt_var_plus_eps,
}


def standardize(kernel: jax.Array, *, eps: float, form: str) -> jax.Array:
  """Gives every output channel zero mean and unit population variance.

  Args:
    kernel: [kh, kw, C_in, C_out] floats.
    eps: the small constant of the chosen form.
    form: a key of `WEIGHT_STANDARDIZATIONS`.

  Raises:
    InputError: unknown form.
  """
  divide = pick('weight standardization', form, WEIGHT_STANDARDIZATIONS)
  kernel = kernel.astype(norm_dtype(kernel.dtype))
  centred = kernel - kernel.mean(axis=(0, 1, 2), keepdims=True)
  variance = jnp.square(centred).mean(axis=(0, 1, 2), keepdims=True)
  return divide(centred, variance, eps)


@jax.custom_jvp
def _in_order(kernel):
  """The same kernel; when differentiated, in memory in the order of its axes.

  cuDNN wants C_out first. Left alone, XLA gives that order to all that leads to
  a convolution and from it, the optimizer's state included: an update of
  BiT-M-R50x1 in bfloat16 compiled for an H100 has 554 float32 transpositions
  and copies, of 923 MiB. With the order fixed here, each kernel is turned once
  and its gradient once, in the dtype of the convolution, and none is left.

  The constraint is absent from the forward pass alone, where it saves little:
  `jax.export` refuses programs that have it.
  """
  return kernel


@_in_order.defjvp
def _in_order_jvp(primals, tangents):
  order = Layout(range(primals[0].ndim))
  (kernel,), (tangent,) = with_layout_constraint((primals, tangents), order)
  return kernel, tangent


class StdConv(nn.Module):
  """A convolution without bias whose kernel is standardised when used."""

  features: int
  kernel_size: tuple[int, int]
  strides: tuple[int, int] = (1, 1)
  padding: str | Sequence[tuple[int, int]] = 'SAME'
  eps: float = 1e-5
  form: str = 'std_plus_eps'
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x):  # [B, H, W, C]
    kernel = self.param(
      'kernel',
      nn.initializers.lecun_normal(),
      (*self.kernel_size, x.shape[-1], self.features),
      self.param_dtype,
    )
    kernel = standardize(kernel, eps=self.eps, form=self.form)
    return self.by_rows({'kernel': kernel}, x)

  def by_rows(self, params, x):  # [B, H, W, C] -> [B, h, w, features]
    """Convolves; on its own for `training.dividing`."""
    return jax.lax.conv_general_dilated(
      x.astype(self.dtype),
      _in_order(params['kernel'].astype(self.dtype)),
      self.strides,
      self.padding,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )


class GroupNorm(nn.Module):
  """Group normalisation over [B, H, W, C], computed in float32 or wider.

  `fast_variance` is E[x^2] - E[x]^2 (linen's default, used by the hybrids);
  without it the mean is subtracted first, as PyTorch and BiT do.
  """

  eps: float
  num_groups: int = 32
  fast_variance: bool = True
  scale_init: nn.initializers.Initializer = nn.initializers.ones
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x):  # [B, H, W, C]
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


def _pool_same(x):
  return nn.max_pool(x, (3, 3), strides=(2, 2), padding='SAME')


def _pool_symmetric(x):
  return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def _pool_zeros(x):
  x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  return nn.max_pool(x, (3, 3), strides=(2, 2), padding='VALID')


# What the border of the 3x3 stride-2 pool is filled with. 'same': -inf, at the
# far side only when the size is even (hybrids, vit_jax/models_vit.py);
# 'symmetric': -inf, one pixel on every side (ports, big_vision's BiT);
# 'zeros': zeros, one pixel on every side (all three official BiT versions).
POOLS = {
  'same': _pool_same,
  'symmetric': _pool_symmetric,
  'zeros': _pool_zeros,
}


def max_pool(x: jax.Array, *, padding: str) -> jax.Array:
  """3x3 stride-2 max-pool of [B, H, W, C]; `padding` is a key of `POOLS`."""
  return pick('pool padding', padding, POOLS)(x)
