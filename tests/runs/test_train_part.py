"""Whole runs that train a part of a model."""

import json
import pathlib
import sys

import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_models
from killed_runs import assert_same_parameters
from student_runs import changed, metrics_of, settings, stopped_copy
from training_sets import write_folder

from vit_jax_repro import jobs, main, weights
from vit_jax_repro.weights import trees

LAST = ('Transformer/encoderblock_1/', 'Transformer/encoder_norm/', 'head/')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder with forty digits and a weights file."""
  root = tmp_path_factory.mktemp('digits')
  write_folder(root, 40)
  weights.save(
    root / 'start.npz', tiny_models.params_of(tiny_models.spec(10), seed=1)
  )
  return root


def part(folder, **keys):
  """Returns the configuration of a run that trains the last block."""
  keys = (
    dict(
      model=tiny_models.VIT,
      pretrained_dir=str(folder / 'start.npz'),
      train='last:1',
      layer_decay=0.5,
      optim='adamw',
      weight_decay=0.1,
      polyak_decay=0.8,
      accum_steps=2,
      mesh=dict(data=None, fsdp=2, model=1),
    )
    | keys
  )
  return settings(folder, **keys)


@pytest.fixture(scope='module')
def run(folder, tmp_path_factory):
  """The workdir of a finished run that trained the last block."""
  workdir = tmp_path_factory.mktemp('run') / 'whole'
  jobs.train(part(folder), workdir, show=False)
  return workdir


def test_train_changes_the_trained_parameters_only(folder, run):
  for name, is_changed in changed(folder / 'start.npz', run).items():
    assert is_changed == name.startswith(LAST), name


def test_checkpoint_has_moments_and_averages_of_the_trained_part(run):
  with ocp.StandardCheckpointer() as reader:
    state = reader.restore(pathlib.Path(run) / 'checkpoints' / '4' / 'state')
  average = trees.flatten(state['opt_state']['average'])
  assert all(name.startswith(LAST) for name in average)
  assert len(trees.flatten(state['params'])) > len(average)
  published = trees.flatten(weights.load(run / 'model.npz'))
  for name, value in average.items():
    np.testing.assert_array_equal(value, published[name], err_msg=name)


def test_train_of_a_part_continues_bit_for_bit(folder, run, tmp_path):
  stopped = stopped_copy(run, tmp_path / 'stopped')
  jobs.train(part(folder), stopped, show=False)
  assert_same_parameters(stopped, run)
  assert (
    metrics_of(run)[-1]['train_loss'] == metrics_of(stopped)[-1]['train_loss']
  )


@pytest.mark.parametrize(
  ('keys', 'text'),
  [
    (dict(train='head'), "train was 'last:1' and is 'head'"),
    (dict(train='all'), "train was 'last:1' and is 'all'"),
    (dict(layer_decay=0.7), 'layer_decay was 0.5 and is 0.7'),
  ],
)
def test_train_does_not_continue_with_another_part(folder, run, keys, text):
  with pytest.raises(ValueError, match='holds a run with other settings') as e:
    jobs.train(part(folder, **keys), run, show=False)
  assert text in str(e.value)


def test_manifest_records_what_was_trained(run):
  manifest = json.loads((run / 'manifest.json').read_text())
  sizes = {
    name: np.size(x)
    for name, x in trees.flatten(
      tiny_models.params_of(tiny_models.spec(10))
    ).items()
  }
  assert manifest['trained'] == {
    'train': 'last:1',
    'layer_decay': 0.5,
    'trained_parameters': sum(
      size for name, size in sizes.items() if name.startswith(LAST)
    ),
    'parameters': sum(sizes.values()),
  }


def test_main_describes_the_trained_part(folder, tmp_path, monkeypatch, capfd):
  """Two keys on the command line; the layers are those of the model."""
  arguments = (
    'main',
    '--config=configs/vit.py:Ti_16,digits',
    f'--workdir={tmp_path / "run"}',
    f'--config.dataset={folder}',
    '--config.pp.train=train',
    '--config.pp.test=train',
    '--config.pp.crop=16',
    '--config.total_steps=1',
    '--config.warmup_steps=0',
    '--config.batch=16',
    '--config.accum_steps=1',
    '--config.pretrained_dir=',
    '--config.model.hidden_size=24',
    '--config.model.transformer.num_layers=1',
    '--config.layer_decay=0.75',
  )
  monkeypatch.setattr(sys, 'argv', [*arguments, '--config.train=last:2'])
  with pytest.raises(SystemExit):
    main.main()
  lines = capfd.readouterr().err.splitlines()
  assert lines[-1].startswith("main: config.train='last:2': the model has 1 ")
  monkeypatch.setattr(sys, 'argv', [*arguments, '--config.train=head'])
  main.main()
  lines = capfd.readouterr().err.splitlines()
  assert any('stay random' in line for line in lines)
  [line] = [line for line in lines if line.startswith('trains')]
  assert line.startswith('trains     250 of ')
  assert line.endswith(
    ' parameters: head, learning rates times 0.75 for each layer'
  )
