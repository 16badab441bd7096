"""The smallest studies, with real trainings."""

import copy
import dataclasses
import glob
import hashlib
import json
import os
import shutil
import time

import child_processes
import numpy as np
import pytest

from vit_jax_repro import jobs, recipes, studies
from vit_jax_repro.runs import configuration
from vit_jax_repro.runs.settings import to_plain
from vit_jax_repro.studies import outcome, running
from vit_jax_repro.weights import npz

MODEL = recipes.QUICKSTART_MODEL | dict(
  hidden_size=16,
  transformer=dict(num_layers=1, mlp_dim=16, num_heads=2),
)
RATES = [0.001, 0.01]


def settings(dataset, **changes):
  """Returns the settings of a training of three steps."""
  made = copy.deepcopy(recipes.QUICKSTART) | dict(
    dataset=dataset,
    total_steps=3,
    warmup_steps=1,
    batch=8,
    eval_every=0,
    **changes,
  )
  made['pp'] |= dict(train='few')
  return configuration.create(made, MODEL).to_dict()


def study(**changes):
  """Returns a plan of `transfer` whose third side equals the second."""
  plan = dict(
    name='transfer',
    size='test',
    stages=dict(
      pretrain=settings('digits/0-4', seed=7), finetune=settings('digits/5-9')
    ),
    sides={
      'pre-trained': {},
      'from scratch': dict(pretrain=None, base_lrs=[0.01]),
      'same rate': dict(pretrain=None, rate_of='from scratch'),
    },
    order=dict(
      stages=['pretrain', 'finetune'],
      sides=['pre-trained', 'from scratch', 'same rate'],
    ),
    seeds=[0, 1],
    held_out='held_out',
    base_lrs=RATES,
    once=['pretrain'],
  )
  return plan | changes


def finished(workdir):
  """Returns the result files of finished runs."""
  return set(glob.glob(f'{workdir}/runs/*/result.json'))


def times(folder):
  """Returns the modification times of the files of runs."""
  return {
    path: os.stat(path).st_mtime_ns
    for path in glob.glob(f'{folder}/**', recursive=True)
    if not os.path.basename(path).startswith('study.') and os.path.isfile(path)
  }


def read(*path):
  """Returns the content of a JSON file."""
  with open(os.path.join(*path), encoding='utf-8') as file:
    return json.load(file)


@pytest.fixture(scope='module')
def results(tmp_path_factory):
  """Workdir and result of a study that was killed and resumed."""
  workdir = tmp_path_factory.mktemp('study')
  child = child_processes.Child(studies.run, study(), str(workdir))
  while len(finished(workdir)) < 2 and child.is_running():
    time.sleep(0.05)
  child.kill()
  done = {path: times(os.path.dirname(path)) for path in finished(workdir)}
  assert 2 <= len(done) < 7, child.stderr
  result = studies.run(study(), workdir)
  for path, changed in done.items():
    after = times(os.path.dirname(path))
    assert {name: after[name] for name in changed} == changed
  return workdir, result


def test_run_trains_every_seed_with_the_best_held_out_rate(results):
  workdir, result = results
  side = result.sides[0]
  means = {}
  for rate in RATES:
    runs = [
      folder
      for folder in glob.glob(f'{workdir}/runs/finetune-*')
      if read(folder, 'config.json')['base_lr'] == rate
      and read(folder, 'config.json')['pretrained_dir']
    ]
    assert len(runs) == 2
    means[rate] = np.mean([read(r, 'result.json')['accuracy'] for r in runs])
  assert side.held_out == {f'{r:g}': m for r, m in means.items()}
  assert side.base_lr == max(means, key=means.get)
  for seed, run in enumerate(side.runs):
    config = read(workdir, 'runs', run, 'config.json')
    assert (config['seed'], config['base_lr']) == (seed, side.base_lr)
    # The rate was chosen on held-out images; the accuracy is of test images.
    assert config['pp']['test'] == 'held_out'
    model = workdir / 'runs' / run / 'model.npz'
    again = jobs.evaluate(model, 'digits/5-9')
    assert again.accuracy == side.accuracies[seed]


def test_run_starts_a_stage_from_the_stage_before(results):
  workdir, result = results
  (before,) = glob.glob(f'{workdir}/runs/pretrain-*')  # one run for all seeds
  assert read(before, 'config.json')['seed'] == 7
  for run in result.sides[0].runs:
    config = read(workdir, 'runs', run, 'config.json')
    assert config['pretrained_dir'] == before
  started = dict(npz.read(f'{before}/model.npz'))
  tuned = dict(
    npz.read(workdir / 'runs' / result.sides[0].runs[0] / 'model.npz')
  )
  name = 'embedding/kernel'
  assert 0 < np.abs(tuned[name] - started[name]).max() < 0.1


def test_run_shares_trainings_among_sides(results):
  workdir, result = results
  _, scratch, same = result.sides
  assert scratch.base_lr == same.base_lr == 0.01 and not scratch.held_out
  assert same.runs == scratch.runs and same.accuracies == scratch.accuracies
  assert len(finished(workdir)) == 1 + 2 * 2 + 2


def test_run_writes_the_result_and_repeats_no_training(results):
  workdir, result = results
  written = read(workdir, 'study.json')
  assert [side['mean'] for side in written['sides']] == [
    side.mean for side in result.sides
  ]
  (judged,) = result.judgements
  assert written['judgements'][0] == dataclasses.asdict(judged)
  assert (judged.verdict, judged.num_seeds) == (outcome.TOO_FEW, 2)
  text = (workdir / 'study.md').read_text()
  assert '| from scratch |' in text and '77.91' in text
  before = times(workdir)
  assert studies.run(study(), workdir) == result
  elsewhere = study()
  elsewhere['stages']['finetune'].update(prefetch=0, batch_eval=7)
  assert studies.run(elsewhere, workdir) == result
  assert times(workdir) == before
  few = study(order=dict(study()['order'], sides=['from scratch']))
  (only,) = studies.run(few, workdir).sides
  assert only == result.sides[1]


def test_run_records_the_fingerprint_of_pretrained_weights(results, tmp_path):
  workdir, result = results
  run = workdir / 'runs' / result.sides[0].runs[0]
  config = read(run, 'config.json')
  before = os.path.join(config['pretrained_dir'], 'model.npz')
  with open(before, 'rb') as file:
    digest = hashlib.sha256(file.read()).hexdigest()[:16]
  copy = tmp_path / 'copy'
  shutil.copytree(run, copy)

  def fingerprint():
    return read(copy, 'manifest.json')['data']['pretrained_fingerprint']

  assert fingerprint() == digest
  kept = tmp_path / 'kept.npz'
  shutil.move(before, kept)
  try:
    shutil.copy(run / 'model.npz', before)
    with pytest.raises(ValueError, match='pretrained_fingerprint was'):
      jobs.train(config, copy, show=False)
    os.remove(before)
    jobs.train(
      config, copy, show=False
    )  # a finished run does not read the file
    assert fingerprint() == digest
  finally:
    shutil.move(kept, before)


def test_run_rejects_a_folder_of_another_study_or_training(results, tmp_path):
  workdir, _ = results
  before = times(workdir)
  assert read(workdir, 'begun.json') == {'name': 'transfer', 'size': 'test'}
  for changes in (dict(size='full'), dict(name='masked_patches')):
    wrong = study(**changes)
    with pytest.raises(ValueError, match="holds the study 'transfer' of") as e:
      studies.run(wrong, workdir)
    assert '\n' not in str(e.value)
  assert times(workdir) == before
  # A folder of a version without begun.json, and a training's workdir.
  (tmp_path / 'study.json').write_text('{"name": "transfer", "size": "full"}')
  with pytest.raises(ValueError, match="of size 'full', not 'transfer' of"):
    studies.run(study(), tmp_path)
  (tmp_path / 'study.json').unlink()
  (tmp_path / 'config.json').write_text('{}')
  with pytest.raises(ValueError, match='holds a training run; choose another'):
    studies.run(study(), tmp_path)
  (tmp_path / 'config.json').unlink()
  (tmp_path / 'begun.json').write_text('{')
  with pytest.raises(
    ValueError, match=r'begun.json is no file of a study: .*; choose'
  ):
    studies.run(study(), tmp_path)
  assert os.listdir(tmp_path) == ['begun.json']


@pytest.mark.quick
def test_stages_apply_the_changes_of_a_side():
  plan = study(held_out=None, base_lrs=[])
  plan['stages']['finetune']['pp']['train'] = 'train@5#{seed}'
  changes = dict(
    pretrain=dict(model=dict(num_layers=5)),
    finetune=dict(
      base_lr=0.5, model=dict(model='bit_resnetv2', block_units=[1])
    ),
  )
  made = dict(running.stages(running.checked(plan), changes, 0.25, 3))
  before = plan['stages']
  assert list(made) == ['pretrain', 'finetune']
  assert made['pretrain']['seed'] == 7 and made['finetune']['seed'] == 3
  assert made['pretrain']['model'] == dict(
    before['pretrain']['model'], num_layers=5
  )
  assert made['finetune']['model'] == changes['finetune']['model']
  assert made['finetune']['pp'] == dict(
    before['finetune']['pp'], train='train@5#3', test='test'
  )
  assert made['finetune']['base_lr'] == 0.25
  assert made['pretrain']['base_lr'] == before['pretrain']['base_lr']


@pytest.mark.quick
def test_run_rejects_a_workdir_in_a_bucket():
  """A folder named gs: was made."""
  with pytest.raises(ValueError, match="'gs://a/b' must be a folder on this"):
    studies.run(study(), 'gs://a/b')
  assert not os.path.exists('gs:')


@pytest.mark.quick
@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (dict(name='mnist'), "unknown study 'mnist'; choose from"),
    (dict(seeds=[]), 'has no seeds; give at least one'),
    (dict(steps=3), r"config.study has \[.*'steps'.*\], not"),
    (dict(held_out=None), "'pre-trained' has several learning rates and"),
    (
      dict(order=dict(stages=['pretrain', 'tune'], sides=[])),
      r"order.stages has \['tune'\]; choose from \['finetune', 'pretrain'\]",
    ),
    (
      dict(
        sides={'a': dict(tune={})}, order=dict(stages=['pretrain'], sides='a')
      ),
      r"side 'a' has \['tune'\]; choose from \['pretrain', 'base_lrs'",
    ),
    (
      dict(
        sides={'a': dict(rate_of='b'), 'b': {}},
        order=dict(stages=['pretrain'], sides=['a', 'b']),
      ),
      "rate of 'b', which is not an earlier side",
    ),
  ],
)
def test_run_rejects_a_wrong_study_in_one_line(changes, message, tmp_path):
  with pytest.raises(ValueError, match=message) as error:
    studies.run(study(**changes), tmp_path)
  assert '\n' not in str(error.value)
  assert not os.listdir(tmp_path)


@pytest.mark.quick
def test_checked_restores_the_order_of_stages():
  plan = to_plain(studies.config('masked_patches').study)
  assert list(plan['stages']) == ['finetune', 'pretrain']  # by name
  assert list(running.checked(plan)['stages']) == ['pretrain', 'finetune']
