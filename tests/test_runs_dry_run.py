"""Dry runs, here for eight CPUs; `make accelerators` has the real targets."""

import json
import types

import jax
import pytest
import tiny_models
from test_train import STUDENT

from vit_jax_repro.analysis import dry_run as analysis
from vit_jax_repro.analysis import dry_run_tables
from vit_jax_repro.runs import dry_run

CPUS = types.SimpleNamespace(name='cpu:8', devices=jax.devices)


def config(**keys):
  """Of a data set that is not on this machine."""
  return (
    dict(
      dataset='cifar10',
      model=tiny_models.VIT,
      base_lr=1.0,
      pp=dict(train='train[:98%]', test='test', crop=8),
      batch=16,
      batch_eval=20,
      total_steps=1,
      pretrained_dir='/nowhere',
      mesh=dict(data=1, fsdp=8, model=1),
    )
    | keys
  )


def create(largest_batch=False, **keys):
  lines = []
  found = dry_run.create(
    config(**keys), CPUS, largest_batch=largest_batch, show=lines.append
  )
  assert any('compiling the update' in line for line in lines)
  return found


def test_it_needs_no_data_no_weights_and_no_workdir():
  found = create()
  assert found.num_classes == 10 and found.fits and found.remedy is None
  assert found.limit is None and found.update.bound is None  # a CPU
  assert found.mesh == {'data': 1, 'fsdp': 8, 'model': 1}
  assert {each.axes for each in found.update.exchanges} == {'fsdp'}
  assert found.evaluation.memory.total < found.needed_evaluation
  assert not found.update.gathered + found.update.undivided


def test_what_does_not_fit_gets_a_remedy_that_does(capsys):
  wide = dict(
    model=STUDENT, batch=64, pp=dict(train='train', test='test', crop=32)
  )
  whole = create(**wide).needed / 2**30
  found = create(**wide, memory_limit_gb=0.7 * whole)
  assert not found.fits and '--config.' in found.remedy
  dry_run_tables.show_run(found)
  assert 'It does not fit: with --config.' in capsys.readouterr().out


def test_an_evaluation_that_does_not_fit_is_named():
  whole = create().needed / 2**30
  found = create(memory_limit_gb=1.1 * whole, batch_eval=8000)
  assert 'take less than --config.batch_eval=8000' in found.remedy


def test_the_largest_batch_just_fits():
  limit = create(batch=64).needed / 2**30
  found = create(largest_batch=True, memory_limit_gb=1.01 * limit, prefetch=2)
  assert found.largest_batch == 64
  assert not create(largest_batch=True, memory_limit_gb=1e-6).largest_batch


def test_other_objectives(tmp_path):
  patches = create(
    objective='masked_patches',
    pp=dict(train='train', test='test', crop=8),
  )
  assert patches.num_classes == 512 and patches.fits
  taught = create(
    objective='distillation',
    teacher=str(tmp_path / 'ViT-Ti_16.npz'),
    pp=dict(train='train', test='test', crop=16),
  )
  assert taught.update.memory.arguments > 5 * patches.update.memory.arguments
  with pytest.raises(ValueError, match='no model has the name'):
    create(objective='distillation', teacher='/nowhere/mine.npz')


def test_a_data_set_that_nobody_knows():
  with pytest.raises((ValueError, OSError), match='nothing'):
    create(dataset='nothing')


def test_the_table_and_the_json_have_the_same_figures(capsys):
  found = create()
  dry_run_tables.show_run(found)
  text = capsys.readouterr().out
  assert 'It fits.' in text and 'The batch stays divided' in text
  assert f'{found.needed / 2**30:.2f}' in text
  plain = json.loads(json.dumps(analysis.as_dict(found)))
  assert plain['update']['memory']['total'] == found.update.memory.total
  assert plain['needed'] == found.needed
