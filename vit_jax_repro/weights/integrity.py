"""Integrity of checkpoints: descriptions of states, with checksums of arrays.

A description is saved with a state and compared with it when it is restored. It
has the kind, the shape and the checksum of every array.

Checksums are the same on every mesh, device count and platform. The devices
compute them, in exact integer arithmetic: the bits of an array are a sequence
of 32-bit words. Each word is multiplied by an odd number that depends on its
position, and the products are summed modulo 2 ** 32. This is done twice, with
other factors, for 64 bits. Odd numbers have an inverse modulo 2 ** 32, so a
change of any one word changes both sums. Checksums do not protect against
forgery.
"""

import hashlib
import json
import math
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files

# The finalizer of MurmurHash3 (Austin Appleby, public domain): (shift, factor).
_ROUNDS = ((16, 0x85EBCA6B), (13, 0xC2B2AE35))
FILE = os.path.join('meta', 'metadata')  # written by Orbax's JsonSave
_KEYS = {'meta', 'score', 'leaves'}
_OLD = {'processes'}  # keys of old descriptions, which have no checksums


class DamagedError(Exception):
  """A checkpoint is not what was saved; the message names the damage."""


class OtherStateError(InputError):
  """A checkpoint was saved with other settings."""


def describe_leaves(tree: Any) -> dict[str, str]:
  """Describes every leaf: dtype, shape and checksum.

  All processes must call this together with the same arrays, which may be
  sharded over them.

  Args:
    tree: jax.Arrays of 8, 16, 32 or 64 bits, bools, or typed keys.

  Returns:
    {'params/head/bias': 'float32[10] 0123456789abcdef'}, in the order of the
    tree.
  """
  kinds = leaf_kinds(tree)
  # One at a time: each program waits for all devices. With many programs in
  # flight, XLA's CPU devices may start different ones first and deadlock.
  sums = [jax.device_get(_sums(_data(leaf))) for leaf in jax.tree.leaves(tree)]
  return {
    path: f'{kind} {first:08x}{second:08x}'
    for (path, kind), (first, second) in zip(kinds.items(), sums, strict=True)
  }


def leaf_kinds(tree: Any) -> dict[str, str]:
  """Returns dtypes and shapes: {'params/head/bias': 'float32[10]'}.

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


def describe(state: Any, meta: dict, score: float | None) -> dict:
  """Describes a state; all processes must call this together."""
  description = {
    'meta': meta,
    'score': score,
    'leaves': describe_leaves(state),
  }
  return description | {'digest': _digest(description)}


def read_description(folder: pathlib.Path) -> dict:
  """Reads the description in a checkpoint's folder.

  Raises:
    DamagedError: it is not as it was written.
    OSError, ValueError: it cannot be read, or is not valid JSON.
  """
  content = files.read_any_json(folder / FILE)
  if not isinstance(content, dict):
    raise DamagedError('its description is no JSON object')
  if content.keys() == _OLD:
    return {'meta': content, 'score': None, 'leaves': None}
  digest = content.pop('digest', None)
  if content.keys() != _KEYS or digest != _digest(content):
    raise DamagedError('the checksum of its description differs')
  return content


def require_kind(description: dict, shapes: Any, folder: pathlib.Path) -> None:
  """Compares paths, dtypes and shapes with those of the settings.

  Args:
    description: a checkpoint's.
    shapes: the tree of the settings, as arrays or shapes.
    folder: the checkpoint's, for the message.

  Raises:
    OtherStateError: they differ; one line names the first difference.
  """
  if description['leaves'] is None:
    return
  leaves = description['leaves'].items()
  saved = {path: kind.split()[0] for path, kind in leaves}
  wanted = leaf_kinds(shapes)
  for path in sorted(saved.keys() | wanted.keys()):
    if saved.get(path) != wanted.get(path):
      raise OtherStateError(
        f'{folder} holds another kind of state: {path} is '
        f'{saved.get(path, "not there")} and the settings make '
        f'{wanted.get(path, "none")}; continue with the settings and the '
        'version that the run began with'
      )


def require_same(description: dict, state: Any) -> None:
  """Compares the checksums of a state; all processes must call this together.

  Raises:
    DamagedError: a leaf differs; the message names the first.
  """
  leaves = description['leaves']
  if leaves is None:
    return
  found = describe_leaves(state)
  wrong = [path for path in found if found[path] != leaves[path]]
  if wrong:
    more = f' and of {len(wrong) - 1} more' if len(wrong) > 1 else ''
    raise DamagedError(f'the checksum of {wrong[0]}{more} differs')


def _digest(description):
  text = json.dumps(description, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _data(leaf):
  """Returns typed keys as integers, other leaves unchanged."""
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return jax.random.key_data(leaf)
  return leaf


@jax.jit  # compiled for each shape, not for each tree
def _sums(leaf):
  """Returns the checksum of an array as two sums, [2] uint32."""
  words = _words(leaf)
  index = _index(words.shape)
  once = _mixed(index)
  weights = once, _mixed(once ^ np.uint32(0x9E3779B9))  # the golden ratio's
  return jnp.stack([jnp.sum(words * (weight | 1)) for weight in weights])


def _words(leaf):
  """Returns the bits of an array as uint32, two for an element of 64 bits."""
  if leaf.dtype == bool:
    return leaf.astype(jnp.uint32)
  bits = leaf.dtype.itemsize * 8
  if bits >= 32:
    return jax.lax.bitcast_convert_type(leaf, jnp.uint32)
  words = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f'uint{bits}'))
  return words.astype(jnp.uint32)


def _index(shape):
  """Returns the index of each element in the flat array, modulo 2 ** 32."""
  index = jnp.zeros(shape, jnp.uint32)
  for axis in range(len(shape)):
    stride = np.uint32(math.prod(shape[axis + 1 :]) % 2**32)
    index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * stride
  return index


def _mixed(x):
  for shift, factor in _ROUNDS:
    x = (x ^ (x >> shift)) * np.uint32(factor)
  return x ^ (x >> 16)
