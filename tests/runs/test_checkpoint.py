"""Checkpoints on disk: saving, restoring, damage and full disks."""

import contextlib
import json
import logging
import re
import resource
import shutil
import signal

import child_processes
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_states import devices, largest, make_state, steps_in

from vit_jax_repro.parallel import mesh
from vit_jax_repro.runs import checkpoint


def leaves(state):
  """Returns the leaves of a state as arrays, with the data of its key."""
  state = state.replace(rng=jax.random.key_data(state.rng))
  return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def same(left, right):
  """Returns whether two states have the same dtypes and values."""
  return all(
    a.dtype == b.dtype and np.array_equal(a, b)
    for a, b in zip(leaves(left), leaves(right), strict=True)
  )


def divided(count):
  """Returns a mesh whose devices each hold a part of the parameters."""
  return mesh.create_mesh(1, count, devices=jax.devices()[:count])


@pytest.mark.parametrize('count', [1, 2, 4])
def test_restore_on_other_devices_gives_the_same_state(count, tmp_path):
  state = make_state(divided(8), value=2.5)
  block = state.params['block']['kernel']
  assert block.addressable_shards[0].data.size == block.size / 8
  saved = checkpoint.Checkpoints(tmp_path / 'c')
  assert saved.latest_step() is None
  saved.save(state, {'seed': 7})
  saved.close()
  read = checkpoint.Checkpoints(tmp_path / 'c')
  assert read.latest_step() == 3
  target = make_state(divided(count))
  restored, meta = read.restore(target)
  read.close()
  assert same(restored, state) and meta == {'seed': 7}
  assert restored.params['head']['kernel'].sharding == (
    target.params['head']['kernel'].sharding
  )


@pytest.mark.parametrize('keep', [1, 3])
def test_save_keeps_the_newest_checkpoints(keep, tmp_path):
  saved = checkpoint.Checkpoints(tmp_path, keep=keep)
  for step in range(1, 5):
    saved.save(make_state(devices(1), value=step, step=step), {})
  saved.wait()
  saved.save(make_state(devices(1), value=99, step=4), {})  # already saved
  restored, _ = saved.restore(make_state(devices(1)))
  saved.close()
  assert float(restored.params['head']['kernel'][0, 0]) == 4
  assert steps_in(tmp_path) == [1, 2, 3, 4][-keep:]


def test_save_keeps_the_best_checkpoint(tmp_path):
  """A second process keeps it, too; a step without a score is never best."""
  scores = {1: 0.2, 2: 0.5, 3: 0.5, 4: None, 5: 0.4, 6: 0.1}
  for part in ((1, 2, 3), (4, 5, 6)):
    saved = checkpoint.Checkpoints(tmp_path, keep=1, keep_best=True)
    for step in part:
      state = make_state(devices(1), value=step, step=step)
      saved.save(state, {}, scores[step])
    saved.wait()
    kept = sorted({3, part[-1]})
    assert steps_in(tmp_path) == kept
    assert saved.best_score() == 0.5
    best, score = saved.restore_best(make_state(devices(1)))
    newest, _ = saved.restore(make_state(devices(1)))
    saved.close()
    assert (int(best.step), score) == (3, 0.5)
    assert int(newest.step) == part[-1]


def test_save_copies_the_state_before_it_returns(tmp_path):
  state = make_state(devices(1), value=1.5)
  before = leaves(state)
  saved = checkpoint.Checkpoints(tmp_path)
  saved.save(state, {})
  jax.tree.map(lambda x: x.delete(), state)
  restored, _ = saved.restore(make_state(devices(1)))
  saved.close()
  for a, b in zip(leaves(restored), before, strict=True):
    np.testing.assert_array_equal(a, b)


# Damages the files of checkpoint 6. Its largest file has the data.
def flip(part):
  """Returns a function that flips a bit at this part of the data."""

  def damage(folder):
    data = largest(folder)
    content = bytearray(data.read_bytes())
    content[int(part * (len(content) - 1))] ^= 4
    data.write_bytes(content)

  return damage


def truncate(folder):
  data = largest(folder)
  data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])


def change_description(folder):
  path = folder / 'meta' / 'metadata'
  text = path.read_text()
  assert '"seed": 6' in text
  path.write_text(text.replace('"seed": 6', '"seed": 5'))


def empty(folder):
  for path in folder.iterdir():
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def zeros(name):
  """Returns a function that overwrites a file with zeros."""

  def damage(folder):
    size = (folder / name).stat().st_size
    (folder / name).write_bytes(bytes(size))

  return damage


DAMAGE = {
  **{f'flipped at {x}': flip(x) for x in (0, 0.2, 0.4, 0.6, 0.8, 1)},
  'truncated': truncate,
  'data deleted': lambda folder: largest(folder).unlink(),
  'manifest deleted': lambda x: (x / 'state' / 'manifest.ocdbt').unlink(),
  'description deleted': lambda x: (x / 'meta' / 'metadata').unlink(),
  'description zeroed': zeros('meta/metadata'),
  'description changed': change_description,
  'tree zeroed': zeros('state/_METADATA'),
  'empty': empty,
}


def restore_each(root):
  """Prints the result of restoring after each damage, as JSON lines.

  It needs its own process: Orbax leaves futures behind that print errors when
  they are collected, which would be in the middle of another test.
  """
  logging.getLogger('absl').setLevel(logging.ERROR)
  for name, damage in DAMAGE.items():
    folder = root / name / 'checkpoints'
    shutil.copytree(root / 'whole', folder)
    damage(folder / '6')
    notes = []
    saved = checkpoint.Checkpoints(folder, note=notes.append)
    restored, meta = saved.restore(make_state(devices(1)))
    used = 3 if notes else 6  # no array depends on some bytes
    right = same(restored, make_state(devices(1), value=used, step=used))
    saved.save(make_state(devices(1), value=6, step=6), {'seed': 6})
    again, _ = saved.restore(make_state(devices(1)))
    saved.close()
    right = right and int(again.step) == 6 and meta == {'seed': used}
    print(json.dumps([name, right, notes]))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A folder with undamaged checkpoints of steps 3 and 6."""
  root = tmp_path_factory.mktemp('damage')
  saved = checkpoint.Checkpoints(root / 'whole')
  for step in (3, 6):
    saved.save(make_state(devices(1), value=step, step=step), {'seed': step})
  saved.close()
  return root


def output_of(function, *arguments):
  """Returns the lines that a function prints in its own process."""
  child = child_processes.Child(function, *arguments, devices=1)
  assert child.wait() == 0 and not child.stderr, child.stderr
  return child.stdout.splitlines()


def test_restore_uses_the_checkpoint_before_a_damaged_one(whole):
  """Restoring names and keeps the damaged one; its step can be saved again."""
  lines = [json.loads(line) for line in output_of(restore_each, whole)]
  assert [name for name, _, _ in lines] == list(DAMAGE)
  said = {}
  for name, right, notes in lines:
    folder = whole / name
    assert right, name
    if not notes and name.startswith('flipped'):
      continue
    (note,) = notes
    said[name] = note.partition(' is damaged ')[2]
    assert note.startswith(f'checkpoint {folder}/checkpoints/6 is damaged (')
    assert note.endswith(
      f'); using that of step 3 and moving it to {folder}/damaged/6'
    )
    assert steps_in(folder / 'damaged') == [6]
    assert steps_in(folder / 'checkpoints') == [3, 6]
  flipped = [said.get(name, '') for name in said if name.startswith('flip')]
  leaf = 'the checksum of params/block/kernel differs'
  assert len(flipped) > 3 and any(leaf in text for text in flipped)
  for name, says in {
    'truncated': 'params/block/kernel cannot be read',
    'manifest deleted': 'cannot be read',
    'description changed': 'the checksum of its description differs',
    'empty': 'meta/metadata',
  }.items():
    assert says in said[name], said[name]


def restore_all_damaged(root, target):
  """Prints the error and the notes if no checkpoint can be restored."""
  logging.getLogger('absl').setLevel(logging.ERROR)
  notes = []
  saved = checkpoint.Checkpoints(root, note=notes.append)
  try:
    saved.restore(target())
  except ValueError as error:
    print(error)
  print(notes)


def test_restore_names_and_keeps_all_checkpoints_if_all_are_damaged(
  whole, tmp_path
):
  folder = tmp_path / 'checkpoints'
  shutil.copytree(whole / 'whole', folder)
  truncate(folder / '3')
  empty(folder / '6')
  line, notes = output_of(restore_all_damaged, folder, one_device)
  assert line.startswith(f'no checkpoint in {folder} can be used (step 6: ')
  assert '; step 3: ' in line and line.endswith(
    'move that folder away to start from scratch'
  )
  assert notes == '[]' and steps_in(folder) == [3, 6]
  assert not (tmp_path / 'damaged').exists()


def one_device():
  return make_state(devices(1))


def other_tree():
  state = one_device()
  params = state.params | {'more': jax.numpy.zeros(2)}
  return state.replace(params=params)


def other_dtype():
  state = one_device()
  return state.replace(params=jax.tree.map(jnp.bfloat16, state.params))


def test_restore_does_not_take_other_settings_for_damage(whole):
  folder = whole / 'whole'
  path = 'holds another kind of state: params/'
  for target, says in (
    (other_tree, f'{path}more is not there and the settings make float32[2];'),
    (
      other_dtype,
      f'{path}block/kernel is float32[64,64] and the settings make '
      'bfloat16[64,64];',
    ),
  ):
    saved = checkpoint.Checkpoints(folder, note=pytest.fail)
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
      saved.restore(target())
    saved.close()
    assert str(caught.value).startswith(f'{folder}/6 ')
    assert '\n' not in str(caught.value)
  assert steps_in(folder) == [3, 6] and not (whole / 'damaged').exists()


def test_restore_reads_old_checkpoints_without_checksums(whole, tmp_path):
  folder = tmp_path / 'checkpoints'
  shutil.copytree(whole / 'whole', folder)
  (folder / '6' / 'meta' / 'metadata').write_text('{"processes": 6}')
  notes = []
  saved = checkpoint.Checkpoints(folder, note=notes.append)
  restored, meta = saved.restore(one_device())
  saved.close()
  assert same(restored, make_state(devices(1), value=6, step=6))
  assert meta == {'processes': 6}
  assert notes == [f'{folder}/6 is old and has no checksums: it is not checked']


def test_restore_keeps_two_damaged_checkpoints_of_one_step(whole, tmp_path):
  folder = tmp_path / 'checkpoints'
  for number in range(2):
    shutil.copytree(whole / 'whole', folder, dirs_exist_ok=True)
    change_description(folder / '6')
    saved = checkpoint.Checkpoints(folder)
    restored, _ = saved.restore(one_device())
    saved.close()
    assert int(restored.step) == 3
    names = sorted(p.name for p in (tmp_path / 'damaged').iterdir())
    assert names == ['6', '6.1'][: number + 1]


def fill_the_disk(folder):
  """Limits files to 2000 bytes; prints the error of saving a larger one."""
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  logging.getLogger('absl').setLevel(logging.ERROR)
  saved = checkpoint.Checkpoints(folder)
  saved.save(make_state(devices(1), step=8, classes=5000), {})
  saved.wait()
  resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
  try:
    saved.save(make_state(devices(1), step=9, classes=5000), {})
    saved.wait()
  except OSError as error:
    print(error)
  with contextlib.suppress(OSError):
    saved.close()


def test_save_on_a_full_disk_keeps_the_earlier_checkpoints(whole, tmp_path):
  folder = tmp_path / 'checkpoints'
  shutil.copytree(whole / 'whole', folder)
  child = child_processes.Child(fill_the_disk, folder, devices=1)
  assert child.wait() == 0 and not child.stderr, child.stderr
  (line,) = child.stdout.splitlines()
  assert line.startswith(f'cannot write a checkpoint in {folder}: ')
  assert line.endswith('; the earlier ones are as they were')
  assert steps_in(folder) == [6, 8]
  saved = checkpoint.Checkpoints(folder, note=pytest.fail)
  restored, _ = saved.restore(make_state(devices(1), classes=5000))
  saved.close()
  assert same(restored, make_state(devices(1), step=8, classes=5000))
