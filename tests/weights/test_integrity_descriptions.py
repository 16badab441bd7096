"""Descriptions saved with a state: writing, reading and comparing them."""

import json

import jax.numpy as jnp
import pytest

from vit_jax_repro.weights import integrity

pytestmark = pytest.mark.quick

STATE = {'a': jnp.arange(3.0), 'b': jnp.ones((2, 2), jnp.bfloat16)}


def write(folder, description):
  """Writes a description where Orbax would."""
  path = folder / integrity.FILE
  path.parent.mkdir(exist_ok=True)
  path.write_text(json.dumps(description))


def test_read_description_returns_a_written_description(tmp_path):
  made = integrity.describe(STATE, {'processes': 2}, 0.5)
  write(tmp_path, made)
  found = integrity.read_description(tmp_path)
  assert found['meta'] == {'processes': 2} and found['score'] == 0.5
  assert list(found['leaves']) == ['a', 'b']
  integrity.require_kind(found, STATE, tmp_path)
  integrity.require_same(found, STATE)


@pytest.mark.parametrize('key', ['meta', 'score', 'leaves', 'digest'])
def test_read_description_refuses_a_change_of_any_key(tmp_path, key):
  made = integrity.describe(STATE, {'processes': 2}, 0.5)
  write(tmp_path, made | {key: {'a': 'float32[3] 0'}})
  with pytest.raises(integrity.DamagedError, match='of its description'):
    integrity.read_description(tmp_path)


def test_read_description_refuses_a_change_of_any_byte(tmp_path):
  """The result may be invalid or other JSON; none is taken for an old file."""
  write(tmp_path, integrity.describe(STATE, {'processes': 2}, 0.5))
  path = tmp_path / integrity.FILE
  content = path.read_bytes()
  for position in range(len(content)):
    changed = bytearray(content)
    changed[position] ^= 1
    path.write_bytes(changed)
    with pytest.raises((integrity.DamagedError, ValueError)):
      integrity.read_description(tmp_path)


@pytest.mark.parametrize('content', [[], 3, {}, {'processes': 1, 'score': 2}])
def test_read_description_refuses_other_json(tmp_path, content):
  write(tmp_path, content)
  with pytest.raises(integrity.DamagedError):
    integrity.read_description(tmp_path)


def test_read_description_reads_old_files_without_checksums(tmp_path):
  write(tmp_path, {'processes': 2})
  found = integrity.read_description(tmp_path)
  assert found == {'meta': {'processes': 2}, 'score': None, 'leaves': None}
  integrity.require_kind(found, {'c': jnp.ones(2)}, tmp_path)
  integrity.require_same(found, {'c': jnp.ones(2)})


@pytest.mark.parametrize(
  ('change', 'says'),
  [
    (
      {'a': jnp.arange(4.0)},
      r'a is float32\[3\] and the settings make float32',
    ),
    ({'a': jnp.arange(3)}, r'a is float32\[3\] and the settings make int32\[3'),
    ({'c': jnp.ones(2)}, r'c is not there and the settings make float32\[2\]'),
  ],
)
def test_require_kind_names_the_first_leaf_of_another_kind(
  tmp_path, change, says
):
  made = integrity.describe(STATE, {}, None)
  with pytest.raises(integrity.OtherStateError, match=says) as caught:
    integrity.require_kind(made, STATE | change, tmp_path)
  assert '\n' not in str(caught.value)
  with pytest.raises(integrity.OtherStateError, match='make none; continue'):
    integrity.require_kind(made, {'a': STATE['a']}, tmp_path)


def test_require_same_names_the_first_leaf_with_other_bits():
  made = integrity.describe(STATE, {}, None)
  changed = STATE | {'b': STATE['b'].at[1, 0].set(2)}
  with pytest.raises(integrity.DamagedError) as caught:
    integrity.require_same(made, changed)
  assert str(caught.value) == 'the checksum of b differs'
  with pytest.raises(integrity.DamagedError, match='of a and of 1 more'):
    integrity.require_same(made, changed | {'a': STATE['a'] + 1})
