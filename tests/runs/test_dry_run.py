"""Dry runs, here for eight CPUs; `make accelerators` has the real targets."""

import dataclasses
import functools
import json
import types

import jax
import pytest
import tiny_models
from jax.experimental.compilation_cache import compilation_cache
from student_runs import STUDENT

from vit_jax_repro.analysis import dry_run as analysis
from vit_jax_repro.analysis import dry_run_tables
from vit_jax_repro.output import waiting
from vit_jax_repro.runs import dry_run, settings
from vit_jax_repro.weights import model_card

CPUS = types.SimpleNamespace(name='cpu:8', devices=jax.devices)
SMALL = tiny_models.VIT | dict(num_layers=1)


def config(**keys):
  """Returns the configuration of a run with a data set not on this machine."""
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


def create(largest_batch=False, evaluation=True, **keys):
  """Returns the dry run of a configuration on eight CPUs."""
  return dry_run.create(
    config(**keys),
    CPUS,
    largest_batch=largest_batch,
    evaluation=evaluation,
    show=print,
  )


@pytest.fixture(scope='module')
def unchanged():
  """The dry run of the configuration without changes."""
  return create()


def test_create_needs_no_data_no_weights_and_no_workdir(unchanged):
  found = unchanged
  assert found.num_classes == 10 and found.fits and found.remedy is None
  assert found.limit is None and found.update.bound is None  # a CPU
  assert found.mesh == {'data': 1, 'fsdp': 8, 'model': 1}
  assert {each.axes for each in found.update.exchanges} == {'fsdp'}
  assert found.evaluation.memory.total < found.needed_evaluation
  assert not found.update.gathered


def test_create_proposes_a_remedy_for_an_update_too_large(capsys, monkeypatch):
  """The line on the progress must name the program, not the libraries."""
  monkeypatch.setenv('VIT_JAX_REPRO_PATIENCE', '0.05')
  wide = dict(
    model=STUDENT, batch=64, pp=dict(train='train', test='test', crop=32)
  )
  with waiting.watch('main'):
    whole = create(**wide, evaluation=False).needed / 2**30
  assert 'compiling the update' in capsys.readouterr().err
  found = create(**wide, memory_limit_gb=0.7 * whole)
  assert not found.fits and '--config.' in found.remedy
  dry_run_tables.show_run(found)
  assert 'It does not fit: with --config.' in capsys.readouterr().out


def test_create_proposes_a_batch_eval_for_an_evaluation_too_large(unchanged):
  whole = unchanged.needed / 2**30
  found = create(memory_limit_gb=1.1 * whole, batch_eval=8000)
  line, _, batch = found.remedy.removesuffix(' or less').rpartition(' to ')
  assert line.endswith('lower --config.batch_eval=8000')
  fitting = create(memory_limit_gb=1.1 * whole, batch_eval=int(batch))
  assert fitting.fits and fitting.batch_eval < 8000


def test_largest_batch_just_fits():
  smaller = functools.partial(create, model=SMALL, evaluation=False)
  largest = functools.partial(smaller, largest_batch=True)
  limit = smaller(batch=64).needed / 2**30
  found = largest(memory_limit_gb=1.01 * limit, prefetch=2)
  assert found.largest_batch == 64
  assert not largest(memory_limit_gb=1e-6).largest_batch


def test_largest_batch_is_a_multiple_of_devices_and_parts():
  parts = dict(model=SMALL, accum_steps=2, evaluation=False)
  small = create(**parts, batch=16).needed / 2**30
  found = create(
    **parts, largest_batch=True, batch=80, memory_limit_gb=1.1 * small
  )
  assert found.largest_batch in (16, 32)
  with pytest.raises(ValueError, match='the largest batch needs a limit'):
    create(largest_batch=True, memory_limit_gb=0)


def test_create_writes_nothing_to_the_compilation_cache(tmp_path):
  """JAX has already compiled a program and thereby read its settings."""
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


def test_create_counts_the_memory_of_a_teacher_on_disk(unchanged, tmp_path):
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
  assert found.update.memory.arguments > unchanged.update.memory.arguments
  assert found.needed_evaluation > unchanged.needed_evaluation


def test_create_takes_masked_patches_and_distillation(tmp_path):
  patches = create(
    objective='masked_patches',
    pp=dict(train='train', test='test', crop=8),
  )
  assert patches.num_classes == 512 and patches.fits
  taught = create(
    objective='distillation',
    teacher=str(tmp_path / 'ViT-Ti_16.npz'),
    pp=dict(train='train', test='test', crop=16),
    evaluation=False,
  )
  assert taught.update.memory.arguments > 5 * patches.update.memory.arguments
  with pytest.raises(ValueError, match='no model has the name'):
    create(objective='distillation', teacher='/nowhere/mine.npz')


def test_notes_come_before_anything_is_compiled():
  """Numbers of a run that mean less than they seem, found after compiling."""
  pp = dict(train='train[:12]', test='test', crop=11, split_seed=5)
  keys = dict(pp=pp, repeated_augmentation=20)
  parts = dry_run._Parts(settings.from_config(config(**keys)), jax.devices())
  assert parts.update.notes()[:4] == [
    'config.batch=16 is larger than the training split of 12 images: an update '
    'has each image 1.3 times, with augmentations of its own; 12 or less has '
    'it once',
    'config.repeated_augmentation=20 is not below config.batch=16 or the 12 '
    'images of the training split: an update or an epoch has copies of a '
    'single image',
    "config.pp.split_seed=5 has no effect, because 'cifar10' has splits of its "
    'own',
    '3 of 11 pixels at the lower and the right edge are not seen: 11 is no '
    'multiple of the patch of 4',
  ]
  assert not dry_run._Parts(
    settings.from_config(config()), jax.devices()
  ).update.notes()


def test_parts_refuse_a_mesh_axis_that_divides_nothing():
  """A mesh axis for nothing: eight devices did the work of one."""
  keys = dict(
    model=SMALL | dict(mlp_dim=30), mesh=dict(data=1, fsdp=1, model=8)
  )
  with pytest.raises(ValueError, match='30 units or the 2 heads: 8 devices'):
    dry_run._Parts(settings.from_config(config(**keys)), jax.devices())


def test_create_refuses_an_unknown_data_set():
  with pytest.raises((ValueError, OSError), match='nothing'):
    create(dataset='nothing')


def test_create_recognises_only_large_batches_by_their_size(unchanged):
  """Images may be as wide as a small batch."""
  assert unchanged.update.undivided is None
  assert create(batch=72, evaluation=False).update.undivided == ()


def test_show_exchanges_names_a_part_of_many_arrays(unchanged, capsys):
  several = tuple(f'f32[72,{width}]' for width in range(8))
  dry_run_tables.show_exchanges(
    dataclasses.replace(unchanged.update, undivided=several)
  )
  text = capsys.readouterr().out
  assert text.count('whole batch') == 5 and 'and 3 more such' in text
  dry_run_tables.show_exchanges(
    dataclasses.replace(unchanged.update, undivided=None)
  )
  text = capsys.readouterr().out
  assert 'No activation crosses' in text and 'stays divided' not in text


def test_show_run_and_as_dict_have_the_same_figures(unchanged, capsys):
  found = unchanged
  dry_run_tables.show_run(found)
  text = capsys.readouterr().out
  assert 'It fits.' in text and 'No activation crosses data' in text
  assert f'{found.needed / 2**30:.2f}' in text
  plain = json.loads(json.dumps(analysis.as_dict(found)))
  assert plain['update']['memory']['total'] == found.update.memory.total
  assert plain['needed'] == found.needed


def test_create_of_a_part_has_its_state_and_exchanges(unchanged, capsys):
  """Only the head's gradients are scattered, and two metrics are summed."""
  found = create(train='head')
  assert (found.trained_parameters, found.train) == (170, 'head')
  assert found.parameters == unchanged.parameters
  state = [x.update.memory.arguments for x in (found, unchanged)]
  assert state[0] < 0.7 * state[1]
  sums = [x for x in found.update.exchanges if x.kind != 'all-gather']
  assert sum(each.bytes for each in sums) <= 4 * (8 * 170 + 2)
  dry_run_tables.show_run(found)
  text = ' '.join(capsys.readouterr().out.split())
  assert 'trains 170 (head), float32' in text
  assert 'bytes for each parameter' not in text
