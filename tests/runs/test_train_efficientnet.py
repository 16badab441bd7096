"""Whole runs of an EfficientNet: statistics, checkpoints, resuming."""

import efficientnets
import pytest
from killed_runs import assert_same_parameters
from student_runs import changed, settings, stopped_copy
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


def test_train_continues_bit_for_bit(folder, run, tmp_path):
  stopped = stopped_copy(run, tmp_path / 'stopped')
  jobs.train(config(folder), stopped, show=False)
  assert_same_parameters(stopped, run)
