"""Checksums: what they notice, and what they do not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_repro.parallel import mesh
from vit_jax_repro.runs import integrity

pytestmark = pytest.mark.quick


def checksum(array):
  return integrity.describe_leaves({'x': array})['x']


def arrays():
  """One of each kind that a state may hold."""
  rng = np.random.default_rng(0)
  floats = rng.normal(size=(8, 6)).astype(np.float32)
  return {
    'float32': floats,
    'bfloat16': floats.astype(jnp.bfloat16),
    'int8': floats.astype(np.int8),
    'bool': floats > 0,
  }


def by_hand(array):
  """The rule in Python's whole numbers, word by word."""
  words = array.view(np.uint32).ravel().tolist()
  sums = [0, 0]
  for index, word in enumerate(words):
    first = mixed(index)
    for i, weight in enumerate((first, mixed(first ^ 0x9E3779B9))):
      sums[i] = (sums[i] + word * (weight | 1)) % 2**32
  return f'{sums[0]:08x}{sums[1]:08x}'


def mixed(x):
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
    x = ((x ^ (x >> shift)) * factor) % 2**32
  return x


def test_the_rule():
  array = arrays()['float32'].reshape(2, 4, 6)
  assert checksum(jnp.array(array)) == f'float32[2,4,6] {by_hand(array)}'


@pytest.mark.parametrize('kind', arrays())
def test_every_bit_counts(kind):
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


def test_order_and_form_count():
  array = arrays()['float32']
  swapped = array.copy()
  swapped[[0, 5]] = array[[5, 0]]
  forms = [array, swapped, array.T, array.reshape(6, 8), array.view(np.int32)]
  forms += [np.zeros(48, np.float32), np.zeros(48, np.int32)]
  assert len({checksum(jnp.array(form)) for form in forms}) == len(forms)
  assert checksum(jnp.array(-0.0)) != checksum(jnp.array(0.0))


def test_the_sharding_does_not_count():
  """Whole, divided over eight devices, over both axes, over two devices."""
  array = arrays()['float32'].repeat(4, axis=1)
  whole = checksum(jnp.array(array))
  devices = mesh.create_mesh(2, 2, 2)
  for spec in (('data',), (None, 'model'), ('model', ('data', 'fsdp')), ()):
    sharding = jax.NamedSharding(devices, jax.sharding.PartitionSpec(*spec))
    assert checksum(jax.device_put(array, sharding)) == whole, spec


def test_a_tree_with_a_key_and_a_number():
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
