"""Checksums of leaves: which changes they detect and which they ignore."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_repro.parallel import mesh
from vit_jax_repro.weights import integrity

pytestmark = pytest.mark.quick


def checksum(array):
  """Returns the kind and checksum of an array."""
  return integrity.describe_leaves({'x': array})['x']


def arrays():
  """Returns an array of each dtype that a state may hold."""
  rng = np.random.default_rng(0)
  floats = rng.normal(size=(8, 6)).astype(np.float32)
  return {
    'float32': floats,
    'bfloat16': floats.astype(jnp.bfloat16),
    'int8': floats.astype(np.int8),
    'bool': floats > 0,
  }


def by_hand(array):
  """Computes the checksum in Python integers, word by word."""
  words = array.view(np.uint32).ravel().tolist()
  sums = [0, 0]
  for index, word in enumerate(words):
    first = mixed(index)
    for i, weight in enumerate((first, mixed(first ^ 0x9E3779B9))):
      sums[i] = (sums[i] + word * (weight | 1)) % 2**32
  return f'{sums[0]:08x}{sums[1]:08x}'


def mixed(x):
  """Returns the mixed bits of a 32-bit word."""
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
    x = ((x ^ (x >> shift)) * factor) % 2**32
  return x


def test_describe_leaves_computes_the_documented_checksum():
  array = arrays()['float32'].reshape(2, 4, 6)
  assert checksum(jnp.array(array)) == f'float32[2,4,6] {by_hand(array)}'


@pytest.mark.parametrize('kind', arrays())
def test_describe_leaves_depends_on_every_bit(kind):
  array = arrays()[kind]
  whole = checksum(jnp.array(array))
  kinds, _, sums = whole.partition(' ')
  assert kinds == f'{kind}[8,6]' and len(sums) == 16
  data = array.tobytes()
  bits = [0] if kind == 'bool' else range(8)
  for byte in range(0, len(data), 7):
    for bit in bits:
      changed = bytearray(data)
      changed[byte] ^= 1 << bit
      flipped = np.frombuffer(bytes(changed), array.dtype).reshape(8, 6)
      found = checksum(jnp.array(flipped)).partition(' ')[2]
      assert found[:8] != sums[:8] and found[8:] != sums[8:]


def test_describe_leaves_depends_on_order_shape_and_dtype():
  array = arrays()['float32']
  swapped = array.copy()
  swapped[[0, 5]] = array[[5, 0]]
  forms = [array, swapped, array.T, array.reshape(6, 8), array.view(np.int32)]
  forms += [np.zeros(48, np.float32), np.zeros(48, np.int32)]
  assert len({checksum(jnp.array(form)) for form in forms}) == len(forms)
  assert checksum(jnp.array(-0.0)) != checksum(jnp.array(0.0))


def test_describe_leaves_does_not_depend_on_the_sharding():
  """The array is replicated or divided over one, two or three axes."""
  array = arrays()['float32'].repeat(4, axis=1)
  whole = checksum(jnp.array(array))
  devices = mesh.create_mesh(2, 2, 2)
  for spec in (('data',), (None, 'model'), ('model', ('data', 'fsdp')), ()):
    sharding = jax.NamedSharding(devices, jax.sharding.PartitionSpec(*spec))
    assert checksum(jax.device_put(array, sharding)) == whole, spec


def test_describe_leaves_takes_random_keys_and_scalars():
  key = jax.random.key(7)
  tree = {'rng': key, 'step': jnp.int32(3), 'more': [jnp.zeros((0, 2))]}
  found = integrity.describe_leaves(tree)
  assert list(found) == ['more/0', 'rng', 'step']
  other = integrity.describe_leaves(tree | {'rng': jax.random.key(8)})
  assert [path for path in found if found[path] != other[path]] == ['rng']
  assert integrity.leaf_kinds(tree) == {
    'more/0': 'float32[0,2]',
    'rng': 'key<fry>[]',
    'step': 'int32[]',
  }
  assert all(
    found[path].startswith(kind + ' ')
    for path, kind in integrity.leaf_kinds(tree).items()
  )
