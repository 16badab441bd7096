"""Tests that a workdir of an earlier version is read, resumed and evaluated.

`data/stored_run.tar.xz` contains it and `data/stored_run.json` the SHA-256 of
its arrays. Never regenerate them: they show that runs of users survive changes
of the code.
"""

import hashlib
import json
import os
import pathlib
import shutil
import tarfile

import child_processes
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from vit_jax_repro import jobs, weights
from vit_jax_repro.analysis import saved_results
from vit_jax_repro.weights import npz, trees

DATA = pathlib.Path(__file__).parent / 'data'
HALF, END = 120, 240  # steps of the two checkpoints
CONFIG = pathlib.Path(__file__).parent.parent / 'configs' / 'quickstart.py'


@pytest.fixture(scope='module')
def stored(tmp_path_factory):
  folder = tmp_path_factory.mktemp('stored')
  with tarfile.open(DATA / 'stored_run.tar.xz') as archive:
    archive.extractall(folder, filter='data')
  return folder / 'run'


@pytest.fixture(scope='module')
def hashes():
  return json.loads((DATA / 'stored_run.json').read_text())


def state_hashes(workdir, step):
  """Returns the SHA-256 of each array of a checkpoint, by name."""
  with ocp.StandardCheckpointer() as reader:
    state = reader.restore(workdir / 'checkpoints' / str(step) / 'state')
  leaves = jax.tree.leaves_with_path(state)
  return array_hashes(
    {
      jax.tree_util.keystr(path, simple=True, separator='/'): leaf
      for path, leaf in leaves
    }
  )


def array_hashes(arrays):
  return {
    name: hashlib.sha256(
      f'{array.dtype} {array.shape}'.encode() + array.tobytes()
    ).hexdigest()
    for name, value in arrays.items()
    for array in [np.asarray(value)]
  }


def metrics(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return {row['step']: row for row in map(json.loads, lines)}


def settings(workdir):
  """Returns the flags that give `main` the stored configuration."""
  config = json.loads((workdir / 'config.json').read_text())
  names = [
    'total_steps',
    'checkpoint_every',
    'warmup_steps',
    'progress_every',
    'eval_every',
    'mixup_alpha',
    'base_lr',
    'weight_decay',
  ]
  flags = {f'config.{name}': config[name] for name in names}
  transformer = config['model']['transformer']
  for name in ('num_layers', 'mlp_dim', 'num_heads'):
    flags[f'config.model.transformer.{name}'] = transformer[name]
  flags['config.model.hidden_size'] = config['model']['hidden_size']
  flags['config.pp.shift'] = config['pp']['shift']
  return [f'--{name}={value}' for name, value in flags.items()]


def train(stored, workdir):
  flags = [f'--config={CONFIG}', f'--workdir={workdir}', *settings(stored)]
  return child_processes.Child(child_processes.verb, 'main', flags, devices=1)


@pytest.fixture(scope='module')
def resumed(stored, tmp_path_factory):
  """The stored run without its second half, continued by `main`."""
  workdir = tmp_path_factory.mktemp('resumed') / 'run'
  shutil.copytree(stored, workdir)
  shutil.rmtree(workdir / 'checkpoints' / str(END))
  for name in ('result.json', 'model.npz', 'model.json'):
    os.remove(workdir / name)
  child = train(stored, workdir)
  assert child.wait() == 0, child.stderr
  return workdir


@pytest.mark.quick
@pytest.mark.parametrize('step', [HALF, END])
def test_restore_gives_the_stored_bits(stored, hashes, step):
  assert state_hashes(stored, step) == hashes[f'checkpoint {step}']


@pytest.mark.quick
def test_load_gives_the_stored_bits(stored, hashes):
  assert array_hashes(dict(npz.read(stored / 'model.npz'))) == hashes['model']
  params = trees.flatten(weights.load(stored / 'model.npz'))
  with ocp.StandardCheckpointer() as reader:
    state = reader.restore(stored / 'checkpoints' / str(END) / 'state')
  for name, array in trees.flatten(state['params']).items():
    np.testing.assert_array_equal(array, params[name], err_msg=name)


@pytest.mark.quick
def test_evaluate_gives_the_stored_accuracy(stored):
  result = json.loads((stored / 'result.json').read_text())
  found = jobs.evaluate(stored / 'model.npz', 'digits', split='test')
  assert found.num_examples == result['num_examples'] == 360
  assert abs(found.accuracy - result['accuracy']) * 360 < 1.5


@pytest.mark.quick
def test_curves_reads_the_stored_metrics(stored):
  curves = saved_results.curves(stored)
  assert curves.steps.tolist() == list(range(5, END + 1, 5))
  rows = metrics(stored)
  assert curves.losses.tolist() == [row['train_loss'] for row in rows.values()]
  steps, accuracies = curves.evaluated['test']
  assert steps.tolist() == [HALF, END]
  assert accuracies[-1] == rows[END]['accuracy_test']


def test_resume_continues_the_stored_run(stored, resumed):
  """Losses of two machines are close at first and drift apart later."""
  before, after = metrics(stored), metrics(resumed)
  assert list(before) == list(after)
  for step, row in before.items():
    if step <= HALF:
      assert after[step] == row
    elif step <= HALF + 10:
      assert after[step]['lr'] == pytest.approx(row['lr'], rel=1e-6)
      assert after[step]['train_loss'] == pytest.approx(
        row['train_loss'], rel=1e-3
      )
  assert after[END]['accuracy_test'] > 0.85


def test_resume_ends_as_an_uninterrupted_run(stored, resumed, hashes, tmp_path):
  """Bit for bit, if this machine reproduces the first half of the run."""
  workdir = tmp_path / 'run'
  child = train(stored, workdir)
  assert child.wait() == 0, child.stderr
  found, wanted = (state_hashes(x, END) for x in (resumed, workdir))
  assert found.keys() == wanted.keys() == hashes[f'checkpoint {END}'].keys()
  if state_hashes(workdir, HALF) == hashes[f'checkpoint {HALF}']:
    assert found == wanted
  left, right = (metrics(x)[END]['accuracy_test'] for x in (resumed, workdir))
  assert left == pytest.approx(right, abs=0.05)
