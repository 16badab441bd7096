"""The memory layout of kernels, which does not change results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from vit_jax_repro.models import convolution

IMAGES = np.random.default_rng(0).normal(size=(2, 7, 6, 3)).astype('f4')


def created(dtype):
  conv = convolution.StdConv(5, (3, 3), (2, 2), dtype=dtype)
  return conv, conv.init(jax.random.key(0), IMAGES)['params']['kernel']


def loss(conv, kernel):
  y = conv.apply({'params': {'kernel': kernel}}, IMAGES)
  return jnp.sin(y.astype(jnp.float32)).sum()


def direct_loss(conv, kernel):
  kernel = convolution.standardize(kernel, eps=conv.eps, form=conv.form)
  y = jax.lax.conv_general_dilated(
    IMAGES.astype(conv.dtype),
    kernel.astype(conv.dtype),
    conv.strides,
    conv.padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  return jnp.sin(y.astype(jnp.float32)).sum()


# In bfloat16, XLA omits the rounding of the gradient of the direct form.
@pytest.mark.parametrize(
  'dtype, tolerance', [(jnp.float32, 1e-6), (jnp.bfloat16, 4e-3)]
)
def test_std_conv_equals_the_direct_convolution(dtype, tolerance):
  conv, kernel = created(dtype)
  value, gradient = jax.jit(jax.value_and_grad(loss, 1), static_argnums=0)(
    conv, kernel
  )
  wanted, wanted_gradient = jax.jit(
    jax.value_and_grad(direct_loss, 1), static_argnums=0
  )(conv, kernel)
  assert gradient.dtype == jnp.float32
  np.testing.assert_allclose(value, wanted, rtol=1e-6)
  np.testing.assert_allclose(
    gradient,
    wanted_gradient,
    rtol=0,
    atol=tolerance * np.abs(wanted_gradient).max(),
  )


@pytest.mark.quick
def test_std_conv_fixes_the_layout_of_kernel_and_gradient():
  conv, kernel = created(jnp.bfloat16)
  gradient = jax.jit(jax.grad(loss, 1), static_argnums=0)
  text = gradient.lower(conv, kernel).as_text()
  lines = [line for line in text.splitlines() if 'LayoutConstraint' in line]
  assert len(lines) == 2  # the kernel and its gradient
  for line in lines:
    assert 'dense<[3, 2, 1, 0]>' in line
    assert line.endswith('-> tensor<3x3x3x5xbf16>')


@pytest.mark.quick
def test_std_conv_can_be_exported():
  conv, kernel = created(jnp.float32)
  variables = {'params': {'kernel': kernel}}
  exported = export.export(jax.jit(conv.apply))(variables, IMAGES)
  read = export.deserialize(exported.serialize())
  np.testing.assert_allclose(
    read.call(variables, IMAGES), conv.apply(variables, IMAGES), rtol=1e-5
  )
