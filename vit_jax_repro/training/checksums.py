"""Checksums of arrays: the same on every mesh, device count and platform.

They are computed on the devices, where the arrays lie, in exact integer
arithmetic: the bits of an array are a row of 32-bit words, each is multiplied
with an odd number that depends on its position, and the products are summed
modulo 2 ** 32; twice, with other factors, for 64 bits. As odd numbers have an
inverse modulo 2 ** 32, a change of any one word always changes both sums. No
defence against whoever forges a checksum.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# The finalizer of MurmurHash3 (Austin Appleby, public domain): (shift, factor).
_ROUNDS = ((16, 0x85EBCA6B), (13, 0xC2B2AE35))


def of_tree(tree: Any) -> dict[str, str]:
  """Describes every leaf: kind, shape and checksum.

  All processes must call it together with the same arrays, which may be
  divided over them.

  Args:
    tree: jax.Arrays of 8, 16, 32 or 64 bits, bools, or typed keys.

  Returns:
    {'params/head/bias': 'float32[10] 0123456789abcdef'}, the paths sorted as
    the tree is.
  """
  kinds = of_shapes(tree)
  # One at a time: of many programs under way, each waiting for all devices,
  # XLA's CPU devices may start different ones first, and wait for ever.
  sums = [jax.device_get(_sums(_data(leaf))) for leaf in jax.tree.leaves(tree)]
  return {
    path: f'{kind} {first:08x}{second:08x}'
    for (path, kind), (first, second) in zip(kinds.items(), sums, strict=True)
  }


def of_shapes(tree: Any) -> dict[str, str]:
  """The same without checksums: {'params/head/bias': 'float32[10]'}.

  Args:
    tree: arrays or shapes.
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): (
      f'{leaf.dtype}[{",".join(map(str, leaf.shape))}]'
    )
    for path, leaf in leaves
  }


def _data(leaf):
  """Typed keys as what they consist of."""
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jax.random.key_data(leaf)
  return leaf


@jax.jit  # compiled for each shape, not for each tree
def _sums(leaf):
  """Two sums, [2] uint32."""
  words = _words(leaf)
  index = _index(words.shape)
  once = _mixed(index)
  weights = once, _mixed(once ^ np.uint32(0x9E3779B9))  # the golden ratio's
  return jnp.stack([jnp.sum(words * (weight | 1)) for weight in weights])


def _words(leaf):
  """The bits of an array as uint32, one or, of 64 bits, two an element."""
  if leaf.dtype == bool:
    return leaf.astype(jnp.uint32)
  bits = leaf.dtype.itemsize * 8
  if bits >= 32:
    return jax.lax.bitcast_convert_type(leaf, jnp.uint32)
  words = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f'uint{bits}'))
  return words.astype(jnp.uint32)


def _index(shape):
  """The position of each element in the row of all, modulo 2 ** 32."""
  index = jnp.zeros(shape, jnp.uint32)
  for axis in range(len(shape)):
    stride = np.uint32(math.prod(shape[axis + 1 :]) % 2**32)
    index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
  return index


def _mixed(x):
  for shift, factor in _ROUNDS:
    x = (x ^ (x >> shift)) * np.uint32(factor)
  return x ^ (x >> 16)
