"""The convolution whose gradients have their axes in order."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_repro.models.convolving import convolve, in_loop_on_cpu

pytestmark = pytest.mark.quick

CASES = {  # name: pixels, C_in, C_out, kernel, strides, padding, groups
  'patches': ((8, 12), 3, 5, (4, 4), (4, 4), 'VALID', 1),
  'patches that leave pixels': ((9, 11), 3, 5, (4, 3), (4, 3), 'VALID', 1),
  'same': ((6, 7), 4, 5, (3, 3), (1, 1), 'SAME', 1),
  'same, even': ((8, 8), 4, 5, (3, 3), (2, 2), 'SAME', 1),
  'same, odd': ((7, 9), 4, 5, (3, 5), (2, 2), 'SAME', 1),
  'root': ((16, 15), 3, 4, (7, 7), (2, 2), [(3, 3), (3, 3)], 1),
  'one pixel': ((5, 5), 4, 6, (1, 1), (1, 1), 'SAME', 1),
  'one pixel, strides': ((5, 6), 4, 6, (1, 1), (2, 2), 'VALID', 1),
  'uneven pads': ((6, 6), 2, 3, (3, 3), (2, 2), [(0, 1), (1, 0)], 1),
  'depthwise': ((6, 7), 4, 4, (3, 3), (1, 1), 'SAME', 4),
  'depthwise, strides': ((8, 7), 4, 4, (5, 5), (2, 2), 'SAME', 4),
}
IN_ORDER = '[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]'


def usual(x, kernel, strides, padding, feature_group_count):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    strides,
    padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=feature_group_count,
  )


def values_and_gradients(function, case, dtype=jnp.float32):
  """Returns a function of the arguments, and arguments."""
  pixels, channels, features, size, strides, padding, groups = CASES[case]
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (2, *pixels, channels), dtype)
  kernel = jax.random.normal(
    keys[1], (*size, channels // groups, features), dtype
  )

  def conv(x, kernel):
    return function(x, kernel, strides, padding, feature_group_count=groups)

  shape = jax.eval_shape(conv, x, kernel).shape
  gradient = jax.random.normal(keys[2], shape, dtype)

  def run(x, kernel, gradient):
    value, back = jax.vjp(conv, x, kernel)
    return value, *back(gradient)

  return run, (x, kernel, gradient)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('case', CASES)
def test_convolve_equals_that_of_jax(case, dtype):
  run, arguments = values_and_gradients(convolve, case, dtype)
  wanted, _ = values_and_gradients(usual, case, dtype)
  tolerance = {'float32': 1e-5, 'bfloat16': 3e-2}[dtype]
  with in_loop_on_cpu():
    found = jax.jit(run)(*arguments)
  for one, other in zip(found, jax.jit(wanted)(*arguments), strict=True):
    assert one.dtype == other.dtype and one.shape == other.shape
    np.testing.assert_allclose(
      one.astype('float32'),
      other.astype('float32'),
      rtol=tolerance,
      atol=tolerance,
    )


def orders(function, case):
  """Returns the orders of the axes of the convolutions of a program."""
  run, arguments = values_and_gradients(function, case)
  text = jax.jit(run).lower(*arguments).as_text()
  return sorted(re.findall(r'dim_numbers = (\S+ [^{]*?\]->\[[^\]]*\])', text))


@pytest.mark.parametrize('case', CASES)
def test_loops_on_cpus_get_the_order_that_their_library_takes(case):
  with in_loop_on_cpu():
    found = orders(convolve, case)
  assert len(found) == 3
  # JAX's gradient of a depthwise convolution's images is fast as it is.
  assert found.count(IN_ORDER) >= (2 if 'depthwise' in case else 3)


@pytest.mark.parametrize('case', CASES)
def test_other_programs_get_the_convolutions_of_jax(case):
  assert orders(convolve, case) == orders(usual, case)


def test_other_programs_may_differentiate_in_forward_mode():
  _, (x, kernel, _) = values_and_gradients(convolve, 'same')

  def conv(kernel):
    return convolve(x, kernel, (1, 1), 'SAME')

  _, found = jax.jvp(conv, (kernel,), (kernel,))
  np.testing.assert_array_equal(found, conv(kernel))
