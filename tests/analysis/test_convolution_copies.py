"""The copies of a CPU's convolutions, against the measured memory."""

import os
import re

import child_processes
import jax
import jax.numpy as jnp
import pytest

from vit_jax_repro.analysis import convolution_copies, memory

MB = 10**6


def program(layers, rows, channels, size):
  """Compiles the gradient of a chain of 3x3 convolutions."""

  def loss(kernels, x):
    for kernel in kernels:
      x = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
      )
      x = jnp.tanh(x)
    return jnp.square(x).sum()

  images = jnp.zeros((rows, size, size, channels))
  kernels = [jnp.zeros((3, 3, channels, channels))] * layers
  compiled = jax.jit(jax.grad(loss)).lower(kernels, images).compile()
  return compiled, (kernels, images)


def taken(layers, rows, channels, size):
  """Prints the bytes that the gradient takes, counted and measured."""
  compiled, arguments = program(layers, rows, channels, size)
  jax.block_until_ready(arguments)
  before = status('VmRSS')
  jax.block_until_ready(compiled(*arguments))
  counted = memory.memory_of(compiled)
  copied = convolution_copies.copied_bytes(compiled.as_text())
  print(counted.outputs + counted.temporaries, copied, status('VmHWM') - before)


def status(name):
  with open('/proc/self/status') as file:
    return int(re.search(rf'{name}:\s+(\d+) kB', file.read())[1]) * 1024


@pytest.mark.parametrize('layers, channels', [(2, 64), (5, 64), (4, 16)])
def test_copied_bytes_explains_what_xla_does_not_count(layers, channels):
  """A run takes what XLA counts and the copies, within a tenth."""
  rows = 4096 // channels
  child = child_processes.Child(taken, layers, rows, channels, 32, devices=1)
  assert child.wait() == 0, child.stderr
  counted, copied, measured = map(int, child.stdout.split()[-3:])
  if os.cpu_count() == 1:  # one convolution at a time
    copied //= 2
  assert 0.9 * measured < counted + copied < 1.1 * measured + 20 * MB


def test_copied_bytes_counts_padding_once_and_strides_not_at_all():
  """The sizes of one convolution are known."""
  images, kernel = jnp.zeros((2, 8, 8, 4)), jnp.zeros((3, 3, 4, 5))
  for strides in ((1, 1), (2, 2)):
    convolved = jax.jit(
      lambda x, w, strides=strides: jax.lax.conv_general_dilated(
        x,
        w,
        strides,
        ((1, 1), (2, 1)),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )
    )
    text = convolved.lower(images, kernel).compile().as_text()
    found = convolution_copies.copied_bytes(text)
    assert found == 4 * (2 * 10 * 11 * 4 + 3 * 3 * 4 * 5)


def test_copied_bytes_is_zero_without_convolutions():
  text = jax.jit(jnp.dot).lower(jnp.eye(4), jnp.eye(4)).compile().as_text()
  assert convolution_copies.copied_bytes(text) == 0
