"""Whole runs of an EfficientNet: statistics, checkpoints, resuming."""

import signal
import time

import child_processes
import efficientnets
import pytest
from killed_runs import assert_same
from student_runs import changed, settings
from training_sets import write_folder

from vit_jax_repro import jobs, weights

FIELDS = efficientnets.tiny(
  num_classes=None, stochastic_depth_rate=0.2, dropout_rate=0.1
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder with forty digits and a weights file."""
  root = tmp_path_factory.mktemp('digits')
  write_folder(root, 40)
  params = efficientnets.params_of(efficientnets.tiny(), seed=1)
  weights.save(root / 'start.npz', params)
  return root


def config(folder):
  return settings(
    folder,
    model=FIELDS,
    pretrained_dir=str(folder / 'start.npz'),
    optim='adamw',
    weight_decay=0.1,
    polyak_decay=0.8,
    accum_steps=2,
    total_steps=12,
    checkpoint_every=4,
    mesh=dict(data=None, fsdp=2, model=1),
  )


@pytest.fixture(scope='module')
def run(folder, tmp_path_factory):
  """The workdir of a finished run."""
  workdir = tmp_path_factory.mktemp('run') / 'whole'
  jobs.train(config(folder), workdir, show=False)
  return workdir


def test_train_changes_parameters_and_no_statistics(folder, run):
  for name, is_changed in changed(folder / 'start.npz', run).items():
    assert is_changed != name.endswith(('/mean', '/var')), name


def train(config, workdir):
  """Trains in a process of its own."""
  jobs.train(config, workdir, show=False)


def test_a_killed_run_ends_bit_for_bit_like_another(folder, run, tmp_path):
  child = child_processes.Child(train, config(folder), tmp_path / 'run')
  while not (tmp_path / 'run' / 'checkpoints' / '4').exists():
    assert child.is_running(), child.stderr
    time.sleep(0.003)
  child.kill()
  assert child.wait() == -signal.SIGKILL
  assert not (tmp_path / 'run' / 'model.npz').exists()
  jobs.train(config(folder), tmp_path / 'run', show=False)
  assert_same(tmp_path / 'run', run)
