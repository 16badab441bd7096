"""Whole runs with other objectives than classification, and their files."""

import json
import pathlib
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny_models
from killed_runs import assert_same_parameters
from student_runs import STUDENT, metrics_of, settings, stopped_copy
from training_sets import write_folder

from vit_jax_repro import jobs, models, weights
from vit_jax_repro.data import augment
from vit_jax_repro.output import locks
from vit_jax_repro.weights import trees


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder with forty digits and a teacher with random weights."""
  root = tmp_path_factory.mktemp('digits')
  write_folder(root, 40)
  weights.save(
    root / 'teacher.npz',
    tiny_models.params_of(tiny_models.spec(10)),
  )
  return root


def distilled(folder):
  """Returns the configuration of a run with a teacher and averages."""
  return settings(
    folder,
    objective='distillation',
    teacher=str(folder / 'teacher.npz'),
    base_lr=1.0,  # makes the averages predict other classes
    polyak_decay=0.8,
    repeated_augmentation=3,
    mixup_alpha=0.5,
    mesh=dict(data=None, fsdp=2, model=1),
  )


@pytest.fixture(scope='module')
def run(folder, tmp_path_factory):
  """The workdir of a finished run with a teacher."""
  workdir = tmp_path_factory.mktemp('run') / 'whole'
  jobs.train(distilled(folder), workdir, show=False)
  return workdir


def test_train_with_a_teacher_trains_both_heads(run):
  metrics = metrics_of(run)
  assert [line['step'] for line in metrics] == [1, 2, 3, 4]
  assert all(0 <= line['teacher_accuracy'] <= 1 for line in metrics)
  found = trees.flatten(weights.load(run / 'model.npz'))
  heads = [np.asarray(found[f'{x}/kernel']) for x in ('head', 'head_dist')]
  assert all(head.any() for head in heads)  # heads start at zero
  assert (heads[0] != heads[1]).any()


def test_train_publishes_the_averages(run):
  with ocp.StandardCheckpointer() as reader:
    state = reader.restore(pathlib.Path(run) / 'checkpoints' / '4' / 'state')
  published = trees.flatten(weights.load(run / 'model.npz'))
  average = trees.flatten(state['opt_state']['average'])
  raw = trees.flatten(state['params'])
  for name, value in published.items():
    np.testing.assert_array_equal(value, average[name], err_msg=name)
  assert (published['head/kernel'] != raw['head/kernel']).any()


def test_train_evaluates_the_averages(folder, run):
  result = json.loads((run / 'result.json').read_text())
  found = jobs.evaluate(run / 'model.npz', str(folder), split='train')
  assert (
    found.accuracy == result['accuracy'] == metrics_of(run)[-1]['accuracy_test']
  )
  assert found.top5_accuracy == result['top5_accuracy']


def test_train_continues_bit_for_bit(folder, run, tmp_path):
  """The run is stopped after the checkpoint of step 2 and started again."""
  stopped = stopped_copy(run, tmp_path / 'stopped')
  jobs.train(distilled(folder), stopped, show=False)
  assert_same_parameters(stopped, run)
  losses = [
    [line['train_loss'] for line in metrics_of(workdir)]
    for workdir in (run, stopped)
  ]
  assert losses[0] == losses[1]


def test_train_flips_uint8_on_the_devices_as_on_the_host(
  folder, tmp_path, monkeypatch
):
  """The same model bit for bit; also of a run that is continued."""
  config = settings(
    folder,
    model=STUDENT | dict(distilled=False),
    transfer_dtype='uint8',
    accum_steps=2,
    mixup_alpha=0.5,
    mesh=dict(data=None, fsdp=2, model=1),
  )
  config['pp'] = dict(config['pp'], flip=True)
  on_devices, on_host = tmp_path / 'devices', tmp_path / 'host'
  jobs.train(config, on_devices, show=False)
  stopped = stopped_copy(on_devices, tmp_path / 'stopped')
  with monkeypatch.context() as change:
    change.setattr(augment.Augmentation, 'flips_on_device', False)
    jobs.train(config, on_host, show=False)
  jobs.train(config, stopped, show=False)
  for workdir in (on_devices, stopped):
    assert_same_parameters(workdir, on_host)


def test_train_with_keep_best_keeps_the_best_and_the_newest(folder, tmp_path):
  """Its averages are published; another call, with or without, keeps them."""
  keys = dict(
    polyak_decay=0.5,
    eval_every=1,
    checkpoint_every=1,
    total_steps=6,
    base_lr=3.0,  # makes the last step worse than the best
    keep_checkpoints=1,
  )
  model = STUDENT | dict(distilled=False)
  config = settings(folder, model=model, **keys)
  result = jobs.train(config | dict(keep_best=True), tmp_path, show=False)
  accuracies = [line['accuracy_test'] for line in metrics_of(tmp_path)]
  best = max(range(6), key=lambda i: (accuracies[i], i))
  assert best < 5
  assert (result.best_step, result.best_accuracy) == (best + 1, max(accuracies))
  kept = {p.name for p in (tmp_path / 'checkpoints').iterdir()}
  assert kept == {str(best + 1), '6'}
  found = jobs.evaluate(tmp_path / 'best.npz', str(folder), split='train')
  assert found.accuracy == result.best_accuracy
  said = json.loads((tmp_path / 'result.json').read_text())
  assert said['best_step'] == best + 1
  assert said['best_model'] == str(tmp_path / 'best.npz')
  before = (tmp_path / 'best.npz').read_bytes()
  again = jobs.train(config | dict(keep_best=True), tmp_path, show=False)
  assert again == result
  assert (tmp_path / 'best.npz').read_bytes() == before
  assert jobs.train(config, tmp_path, show=False).best_step is None


def test_train_refuses_a_workdir_in_use(folder, tmp_path):
  lock = locks.Lock(tmp_path / '.lock', tmp_path, 'wait')
  with pytest.raises(OSError, match='is in use by process'):
    jobs.train(settings(folder), tmp_path, show=False)
  assert [p.name for p in tmp_path.iterdir()] == ['.lock']
  lock.release()


def test_train_continues_a_run_older_than_a_key(folder, run, tmp_path):
  """A missing key has its default; other values are refused."""
  older = tmp_path / 'older'
  shutil.copytree(run, older)
  config = json.loads((older / 'config.json').read_text())
  config['seed'] = 0
  del config['prefetch'], config['batch_eval']
  config['model']['position_embedding'] = 'learned'
  (older / 'config.json').write_text(json.dumps(config))
  jobs.train(distilled(folder), older, show=False)
  config['model']['position_embedding'] = 'none'
  config['seed'] = 1
  (older / 'config.json').write_text(json.dumps(config))
  says = (
    "model.position_embedding was 'none' and is 'learned'; seed was 1 and is 0;"
  )
  with pytest.raises(ValueError, match=says):
    jobs.train(distilled(folder), older, show=False)


def test_train_refuses_to_continue_with_another_teacher(folder, run, tmp_path):
  params = tiny_models.params_of(tiny_models.spec(10), seed=1)
  weights.save(tmp_path / 'teacher.npz', params)
  kept = tmp_path / 'kept.npz'
  shutil.move(folder / 'teacher.npz', kept)
  try:
    shutil.copy(tmp_path / 'teacher.npz', folder)
    with pytest.raises(ValueError, match='teacher_fingerprint was'):
      jobs.train(distilled(folder), run, show=False)
  finally:
    shutil.move(kept, folder / 'teacher.npz')


def test_train_on_masked_patches_needs_no_labels(folder, tmp_path):
  """The resulting file can be fine-tuned to classes."""
  model = STUDENT | dict(distilled=False)
  config = settings(folder, model=model, objective='masked_patches')
  config['total_steps'] = 1
  result = jobs.train(config, tmp_path, show=False)
  card = json.loads((tmp_path / 'model.json').read_text())
  fields = card['architecture']
  assert fields['classifier'] == 'token_unpooled'
  assert (fields['num_classes'], card['class_names']) == (512, None)
  assert 0 < result.accuracy < result.top5_accuracy < 1
  assert result.num_examples == 40
  tuned = weights.adapt(
    weights.load(tmp_path / 'model.npz'),
    models.create(model, num_classes=10),
    image_size=(8, 8),
  )
  assert tuned['head']['kernel'].shape == (16, 10)


@pytest.mark.parametrize(
  ('change', 'says'),
  [
    ({'classifier': 'map'}, "'token_unpooled' or 'unpooled', not 'map'"),
    ({'distilled': True}, "classifier='token_unpooled' must be 'token' in a"),
  ],
)
def test_train_refuses_models_unfit_for_masked_patches(
  folder, tmp_path, change, says
):
  model = STUDENT | dict(distilled=False) | change
  config = settings(folder, model=model, objective='masked_patches')
  with pytest.raises(ValueError, match=says) as error:
    jobs.train(config, tmp_path / 'run', show=False)
  assert '\n' not in str(error.value)
  assert not (tmp_path / 'run').exists()
