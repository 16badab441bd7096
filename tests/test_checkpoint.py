"""Checkpoints on disk: what is saved comes back, on any devices."""

import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_repro.training import checkpoint, mesh, optim, steps


def make_state(device_mesh, value=1.0, step=3, classes=4):
  params = {
    'embedding': {'kernel': np.full((2, 2, 3, 8), value, np.float32)},
    'head': {'kernel': np.full((8, classes), value, np.float32)},
  }
  tx = optim.create_optimizer(
    'sgd', lambda _: 0.1, accumulator_dtype='bfloat16', grad_clip_norm=1.0
  )
  state = steps.create_state(params, tx, seed=5)
  state = state.replace(step=jnp.int32(step))
  return mesh.put(state, mesh.parameter_sharding(state, device_mesh))


def leaves(state):
  state = state.replace(rng=jax.random.key_data(state.rng))
  return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def same(left, right):
  return all(
    a.dtype == b.dtype and np.array_equal(a, b)
    for a, b in zip(leaves(left), leaves(right), strict=True)
  )


def devices(count):
  return mesh.create_mesh(count, devices=jax.devices()[:count])


@pytest.mark.parametrize('count', [1, 4])
def test_what_is_saved_comes_back(count, tmp_path):
  state = make_state(devices(8), value=2.5)
  saved = checkpoint.Checkpoints(tmp_path / 'c')
  assert saved.latest_step() is None
  saved.save(state, {'seed': 7})
  saved.close()
  read = checkpoint.Checkpoints(tmp_path / 'c')
  assert read.latest_step() == 3
  target = make_state(devices(count))
  restored, meta = read.restore(target)
  read.close()
  assert same(restored, state) and meta == {'seed': 7}
  assert restored.params['head']['kernel'].sharding == (
    target.params['head']['kernel'].sharding
  )


def test_the_newest_stay(tmp_path):
  saved = checkpoint.Checkpoints(tmp_path)
  for step in range(1, 5):
    saved.save(make_state(devices(1), value=step, step=step), {})
  saved.wait()
  saved.save(make_state(devices(1), value=99, step=4), {})  # it is there
  saved.wait()
  restored, _ = saved.restore(make_state(devices(1)))
  saved.close()
  assert float(restored.params['head']['kernel'][0, 0]) == 4
  kept = sorted(int(p.name) for p in tmp_path.iterdir() if p.name.isdigit())
  assert kept == [3, 4] and len(kept) == checkpoint.KEPT


def test_the_state_may_be_donated_right_after_saving(tmp_path):
  state = make_state(devices(1), value=1.5)
  before = leaves(state)
  saved = checkpoint.Checkpoints(tmp_path)
  saved.save(state, {})
  jax.tree.map(lambda x: x.delete(), state)
  restored, _ = saved.restore(make_state(devices(1)))
  saved.close()
  for a, b in zip(leaves(restored), before, strict=True):
    np.testing.assert_array_equal(a, b)


def failed_restore(folder, target='make_state(devices(1))'):
  """What restoring says, in a process of its own.

  Orbax leaves futures behind that complain when they are collected, which
  would be in the middle of some other test.
  """
  program = f"""
import sys
sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
from test_checkpoint import devices, make_state
from vit_jax_repro.training import checkpoint
try:
  checkpoint.Checkpoints({str(folder)!r}).restore({target})
except ValueError as error:
  print(error)
"""
  child = subprocess.run(
    [sys.executable, '-c', program],
    capture_output=True,
    text=True,
    check=False,
  )
  (line,) = child.stdout.splitlines()
  return line


def test_a_checkpoint_that_cannot_be_read_is_named(tmp_path):
  saved = checkpoint.Checkpoints(tmp_path)
  saved.save(make_state(devices(1)), {})
  saved.close()
  shutil.rmtree(tmp_path / '3' / 'state' / 'd', ignore_errors=True)
  for path in (tmp_path / '3' / 'state').glob('ocdbt*'):
    shutil.rmtree(path)
  line = failed_restore(tmp_path)
  assert line.startswith(f'cannot restore {tmp_path}/3: ')
  assert line.endswith('to continue from the checkpoint before')


def test_another_shape_is_refused(tmp_path):
  saved = checkpoint.Checkpoints(tmp_path)
  saved.save(make_state(devices(1)), {})
  saved.close()
  line = failed_restore(tmp_path, 'make_state(devices(1), classes=5)')
  assert line.startswith(f'cannot restore {tmp_path}/3: Requested shape')
