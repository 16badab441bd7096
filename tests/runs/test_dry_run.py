"""Dry runs, here for eight CPUs; `make accelerators` has the real targets."""

import json
import types

import jax
import pytest
import tiny_models
from jax.experimental.compilation_cache import compilation_cache
from student_runs import STUDENT

from vit_jax_repro.analysis import dry_run as analysis
from vit_jax_repro.analysis import dry_run_tables
from vit_jax_repro.runs import dry_run
from vit_jax_repro.weights import model_card

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
  line, _, batch = found.remedy.removesuffix(' or less').rpartition(' to ')
  assert line.endswith('lower --config.batch_eval=8000')
  fitting = create(memory_limit_gb=1.1 * whole, batch_eval=int(batch))
  assert fitting.fits and fitting.batch_eval < 8000


def test_the_largest_batch_just_fits():
  limit = create(batch=64).needed / 2**30
  found = create(largest_batch=True, memory_limit_gb=1.01 * limit, prefetch=2)
  assert found.largest_batch == 64
  assert not create(largest_batch=True, memory_limit_gb=1e-6).largest_batch


def test_the_largest_batch_is_a_multiple_of_devices_and_parts():
  small = create(batch=16, accum_steps=2).needed / 2**30
  found = create(
    largest_batch=True, batch=80, accum_steps=2, memory_limit_gb=1.1 * small
  )
  assert found.largest_batch in (16, 32)
  with pytest.raises(ValueError, match='the largest batch needs a limit'):
    create(largest_batch=True, memory_limit_gb=0)


def test_nothing_is_written_to_the_compilation_cache(tmp_path):
  """Also where JAX has compiled, and so read its settings, before."""
  folder = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', str(tmp_path))
  compilation_cache.reset_cache()
  try:
    jax.jit(lambda x: x * 3)(1.0)
    before = set(tmp_path.iterdir())
    assert before
    create()
    assert set(tmp_path.iterdir()) == before
    jax.jit(lambda x: x * 5)(1.0)
    assert set(tmp_path.iterdir()) > before
  finally:
    jax.config.update('jax_compilation_cache_dir', folder)
    compilation_cache.reset_cache()


def test_a_teacher_on_disk_is_described_too(tmp_path):
  names = tuple(str(label) for label in range(10))
  spec = tiny_models.spec(10, tiny_models.VIT)
  model_card.save_model(
    tmp_path / 'teacher.npz',
    tiny_models.params_of(spec),
    architecture=spec,
    class_names=names,
    preprocessing='vit_jax',
    image_size=(8, 8),
  )
  found = create(
    objective='distillation', teacher=str(tmp_path / 'teacher.npz')
  )
  alone = create()
  assert found.update.memory.arguments > alone.update.memory.arguments
  assert found.needed_evaluation > alone.needed_evaluation


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
