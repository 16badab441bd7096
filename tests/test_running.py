"""Published rows checked end to end, on stand-ins for weights and data."""

import dataclasses
import json
import os
import time

import numpy as np
import processes
import pytest
import stand_ins
import tfds_fixtures

from vit_jax_repro.paper import results, table, verdict
from vit_jax_repro.recipes.recipe import Recipe
from vit_jax_repro.reproduction import checks, running

IMAGES = 40
# timm's own evaluation of the AugReg Ti/16 file, top-1 and top-5.
TOP1, TOP5 = (
  row
  for row in table.rows()
  if row.table == 'timm results-imagenet.csv'
  and 'Ti_16' in row.checkpoint
  and row.checkpoint.startswith('augreg/Ti')
  and row.resolution == 224
)
SVHN = next(
  row
  for row in table.rows()
  if row.table.startswith('AugReg Table 5')
  and row.checkpoint.startswith('augreg/Ti')
  and row.eval_dataset.endswith('SVHN')
)
# A training of seconds in place of an hour's.
SHORT = {
  'total_steps': 12,
  'warmup_steps': 2,
  'batch': 8,
  'accum_steps': 1,
  'checkpoint_every': 3,
  'progress_every': 1,
  'pp.train': 'train[:64]',
  'pp.crop': 32,
  'pp.resize': 40,
  'model.scan': True,
}


@pytest.fixture(scope='module')
def stage(tmp_path_factory):
  """Options whose weights and data make TOP1 right."""
  root = tmp_path_factory.mktemp('stage')
  check = checks.resolve(TOP1)
  path = stand_ins.write_weights(root / 'weights', check.files[0], 1000, 224)
  encoded = stand_ins.images(IMAGES)
  labels = stand_ins.predicted(
    path, encoded, preprocessing=check.preprocessing, image_size=224
  )
  wrong = round(IMAGES * (1 - TOP1.value / 100))
  labels[:wrong] = (labels[:wrong] + 500) % 1000
  assert len(np.unique(labels)) > 2  # the file tells images apart
  stand_ins.write_imagenet(root / 'tfds', encoded, labels)
  source = checks.resolve(SVHN, recipe='vit-paper').files[0]
  stand_ins.write_weights(root / 'weights', source, 21_843, 224)
  rng = np.random.default_rng(0)
  digits = [
    dict(image=rng.integers(0, 255, (32, 32, 3), np.uint8), label=i % 10)
    for i in range(64)
  ]
  row = checks.catalogue.find('vtab/svhn')
  tfds_fixtures.write(
    root / 'tfds', row.tfds, {'train': digits, 'test': digits[:20]}
  )
  return running.Options(
    results=str(root / 'results'),
    weights_dir=str(root / 'weights'),
    data_dir=str(root / 'tfds'),
    batch_size=20,
    show=False,
  )


def test_a_right_file_agrees_and_top5_needs_no_second_pass(stage):
  result = running.run(checks.resolve(TOP1), stage)
  assert result['num_examples'] == IMAGES
  read = results.read(stage.results)[TOP1.id]
  judged = verdict.judge(TOP1, read.measurement)
  assert judged.kind == verdict.AGREES
  assert abs(judged.points) <= 100 / IMAGES
  evaluations = os.path.join(stage.results, 'work', 'evaluations')
  before = {name: os.stat(os.path.join(evaluations, name)).st_mtime_ns
            for name in os.listdir(evaluations)}  # fmt: skip
  running.run(checks.resolve(TOP5), stage)
  after = {name: os.stat(os.path.join(evaluations, name)).st_mtime_ns
           for name in os.listdir(evaluations)}  # fmt: skip
  assert len(after) == 1 and after == before
  assert result['check']['preprocessing'] == 'timm:crop_pct=0.9'
  assert result['versions']['jax'] and result['devices']['platform'] == 'cpu'


def test_a_planted_wrong_file_differs(stage, tmp_path):
  check = checks.resolve(TOP1)
  stand_ins.write_weights(tmp_path, check.files[0], 1000, 224, seed=1)
  options = dataclasses.replace(
    stage, weights_dir=str(tmp_path), results=str(tmp_path / 'results')
  )
  running.run(check, options)
  read = results.read(options.results)[TOP1.id]
  judged = verdict.judge(TOP1, read.measurement)
  assert judged.kind == verdict.DIFFERS and judged.points < -30


def arguments(options):
  """Of the verb, to fine-tune on the stand-in for SVHN."""
  short = ','.join(f'{key}={value}' for key, value in SHORT.items())
  return [
    'run',
    f'--row={SVHN.id}',
    '--recipe=vit-paper',
    f'--results={options.results}',
    f'--weights_dir={options.weights_dir}',
    f'--data_dir={options.data_dir}',
    f'--override={short}',
  ]


def test_fine_tuning_goes_on_after_being_killed(stage, tmp_path):
  whole, killed = (
    dataclasses.replace(stage, results=str(tmp_path / name))
    for name in ('whole', 'killed')
  )
  child = processes.Child(
    processes.verb, 'reproduce', arguments(whole), devices=1
  )
  assert child.wait() == 0, child.stderr
  assert SVHN.published in child.stdout and 'differs by' in child.stdout
  given = processes.verb, 'reproduce', arguments(killed)
  child = processes.Child(*given, devices=1)
  runs = tmp_path / 'killed' / 'work' / 'runs'
  while child.is_running() and not list(
    runs.glob('*/seed_0/checkpoints/[0-9]*')
  ):
    time.sleep(0.01)
  child.kill()
  assert not os.path.exists(running.result_path(killed.results, SVHN))
  child = processes.Child(*given, devices=1)
  assert child.wait() == 0, child.stderr
  left, right = (results.read(o.results)[SVHN.id] for o in (whole, killed))
  assert left.details['accuracies'] == right.details['accuracies']
  assert left.details['overrides'] == SHORT
  assert left.measurement.num_examples == 20
  losses = [
    [
      json.loads(line)['train_loss']
      for line in next((tmp_path / name).rglob('metrics.jsonl'))
      .read_text()
      .splitlines()
    ]
    for name in ('whole', 'killed')
  ]
  assert losses[0] == losses[1] and len(losses[0]) == SHORT['total_steps']


def test_the_rate_is_chosen_on_the_held_out_part(stage, tmp_path):
  check = checks.resolve(SVHN, recipe='vit-paper')
  recipe = dataclasses.replace(
    check.recipes[0][0],
    base_lrs=(0.001, 0.01),
    tune=dict(train='train[:40]', test='train[40:64]'),
  )
  assert isinstance(recipe, Recipe)
  check = dataclasses.replace(check, recipes=((recipe,),))
  short = dict(SHORT, total_steps=3, checkpoint_every=0)
  options = dataclasses.replace(stage, results=str(tmp_path), overrides=short)
  running.run(check, options)
  (folder,) = (tmp_path / 'work' / 'runs').iterdir()
  tuned = json.loads((folder / 'tune.json').read_text())
  best = max(range(2), key=tuned['accuracies'].__getitem__)
  assert tuned['chosen'] == best and tuned['base_lrs'] == [0.001, 0.01]
  config = json.loads((folder / 'seed_0' / 'config.json').read_text())
  assert config['base_lr'] == tuned['base_lrs'][best]
  assert (
    config['pp']['train'] == 'train[:64]' and config['pp']['test'] == 'test'
  )
  tried = json.loads(next(folder.glob('tune/0*/config.json')).read_text())
  assert tried['pp']['test'] == 'train[40:64]'


@pytest.mark.quick
def test_what_is_missing_is_one_line(tmp_path):
  options = running.Options(
    results=str(tmp_path / 'results'), weights_dir=str(tmp_path)
  )
  with pytest.raises(FileNotFoundError, match='or say --fetch') as caught:
    running.run(checks.resolve(TOP1), options)
  assert '--dir=' in str(caught.value) and '\n' not in str(caught.value)
  row = next(r for r in table.rows() if '{0.01|0.03}' in r.checkpoint)
  with pytest.raises(ValueError, match='needs a choice first; give --weights'):
    running.run(checks.resolve(row), options)
  with pytest.raises(ValueError, match='seeds=0 must be at least 1'):
    running.Options(results='x', seeds=0)
  assert not (tmp_path / 'results').exists()


@pytest.mark.quick
def test_a_budget_takes_the_cheapest_first(tmp_path):
  """All fail for want of weights, so the order is seen and nothing is run."""
  rows = [r for r in table.rows() if r.table == 'ViT Table 5']
  options = running.Options(
    results=str(tmp_path / 'results'), weights_dir=str(tmp_path)
  )
  asked = []

  def cost(check):
    asked.append(check.row.id)
    return len(asked)

  outcomes = running.run_many(rows, options, cost=cost)
  assert list(outcomes) != asked and set(outcomes) == {r.id for r in rows}
  kinds = {row.status: set() for row in rows}
  for row in rows:
    kinds[row.status].add(outcomes[row.id][:20])
  assert kinds[table.NOT] == {'cannot be checked'}
  assert all('no weights file' in o for s in (table.INFERENCE, table.FINETUNE)
             for o in kinds[s])  # fmt: skip
  none = running.run_many(rows, options, cost=cost, budget_hours=0.0)
  assert set(none.values()) == {'cannot be checked', 'over budget'}
