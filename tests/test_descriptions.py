"""What lies beside a saved state, written and compared."""

import json

import jax.numpy as jnp
import pytest

from vit_jax_repro.training import descriptions

pytestmark = pytest.mark.quick

STATE = {'a': jnp.arange(3.0), 'b': jnp.ones((2, 2), jnp.bfloat16)}


def write(folder, description):
  path = folder / descriptions.FILE
  path.parent.mkdir(exist_ok=True)
  path.write_text(json.dumps(description))


def test_what_is_written_is_read(tmp_path):
  made = descriptions.create(STATE, {'processes': 2}, 0.5)
  write(tmp_path, made)
  found = descriptions.read(tmp_path)
  assert found['meta'] == {'processes': 2} and found['score'] == 0.5
  assert list(found['leaves']) == ['a', 'b']
  descriptions.require_kind(found, STATE, tmp_path)
  descriptions.require_same(found, STATE)


@pytest.mark.parametrize('key', ['meta', 'score', 'leaves', 'digest'])
def test_a_change_of_any_part_is_noticed(tmp_path, key):
  made = descriptions.create(STATE, {'processes': 2}, 0.5)
  write(tmp_path, made | {key: {'a': 'float32[3] 0'}})
  with pytest.raises(descriptions.DamagedError, match='of its description is'):
    descriptions.read(tmp_path)


def test_a_change_of_any_byte_is_noticed(tmp_path):
  """Of any kind: text that is no JSON, or other JSON; none passes as old."""
  write(tmp_path, descriptions.create(STATE, {'processes': 2}, 0.5))
  path = tmp_path / descriptions.FILE
  content = path.read_bytes()
  for position in range(len(content)):
    changed = bytearray(content)
    changed[position] ^= 1
    path.write_bytes(changed)
    with pytest.raises((descriptions.DamagedError, ValueError)):
      descriptions.read(tmp_path)


@pytest.mark.parametrize('content', [[], 3, {}, {'processes': 1, 'score': 2}])
def test_what_is_no_description(tmp_path, content):
  write(tmp_path, content)
  with pytest.raises(descriptions.DamagedError):
    descriptions.read(tmp_path)


def test_before_there_were_checksums(tmp_path):
  write(tmp_path, {'processes': 2})
  found = descriptions.read(tmp_path)
  assert found == {'meta': {'processes': 2}, 'score': None, 'leaves': None}
  descriptions.require_kind(found, {'c': jnp.ones(2)}, tmp_path)
  descriptions.require_same(found, {'c': jnp.ones(2)})


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
def test_another_kind_of_state(tmp_path, change, says):
  made = descriptions.create(STATE, {}, None)
  with pytest.raises(descriptions.OtherStateError, match=says) as caught:
    descriptions.require_kind(made, STATE | change, tmp_path)
  assert '\n' not in str(caught.value)
  with pytest.raises(descriptions.OtherStateError, match='make none; continue'):
    descriptions.require_kind(made, {'a': STATE['a']}, tmp_path)


def test_the_first_other_leaf_is_named():
  made = descriptions.create(STATE, {}, None)
  changed = STATE | {'b': STATE['b'].at[1, 0].set(2)}
  with pytest.raises(descriptions.DamagedError) as caught:
    descriptions.require_same(made, changed)
  assert str(caught.value) == 'the checksum of b is another'
  with pytest.raises(descriptions.DamagedError, match='of a and of 1 more is'):
    descriptions.require_same(made, changed | {'a': STATE['a'] + 1})
