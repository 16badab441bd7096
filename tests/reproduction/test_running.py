"""Tests checks of published rows end to end, on small weights and data."""

import dataclasses
import json
import os
import pathlib
import shutil
import time

import child_processes
import numpy as np
import pytest
import stand_ins
import tfds_fixtures

from vit_jax_repro.paper import results, table, verdict
from vit_jax_repro.recipes.recipe import Recipe
from vit_jax_repro.reproduction import budget, checks, compute_cost, running
from vit_jax_repro.reproduction.options import Options

IMAGES = 20
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
# Multiply-adds of an image at 224 pixels, by hand: patches, 12 layers of
# four projections, two of an MLP and attention twice, the head.
TI_16 = 196 * 768 * 192 + 12 * (197 * 12 * 192**2 + 2 * 197**2 * 192) + 192_000
# Shortens an hour of training to seconds.
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
  'model.transformer.num_layers': 1,
}


@pytest.fixture(scope='module')
def stage(tmp_path_factory):
  """Options with weights and data that reproduce the accuracy of TOP1."""
  root = tmp_path_factory.mktemp('stage')
  check = checks.resolve(TOP1)
  path = stand_ins.write_weights(root / 'weights', check.files[0], 1000, 224)
  encoded = stand_ins.images(IMAGES)
  labels = stand_ins.predicted(
    path, encoded, preprocessing=check.preprocessing, image_size=224
  )
  wrong = round(IMAGES * (1 - TOP1.value / 100))
  labels[:wrong] = (labels[:wrong] + 500) % 1000
  assert len(np.unique(labels)) > 2  # not one class for all
  stand_ins.write_imagenet(root / 'tfds', encoded, labels)
  source = checks.resolve(SVHN, recipe='vit-paper').files[0]
  stand_ins.write_weights(root / 'weights', source, 21_843, 224, num_layers=1)
  rng = np.random.default_rng(0)
  digits = [
    dict(image=rng.integers(0, 255, (32, 32, 3), np.uint8), label=i % 10)
    for i in range(64)
  ]
  for name in ('vtab/svhn', 'vtab/cifar100'):
    row = checks.catalogue.find(name)
    tfds_fixtures.write(
      root / 'tfds', row.tfds, {'train': digits, 'test': digits[:20]}
    )
  return Options(
    results=str(root / 'results'),
    weights_dir=str(root / 'weights'),
    data_dir=str(root / 'tfds'),
    batch_size=10,
    show=False,
  )


def test_run_measures_a_right_file_and_shares_top5(stage):
  result = running.run(checks.resolve(TOP1), stage)
  assert result['num_examples'] == IMAGES
  read = results.read(stage.results)[TOP1.id]
  judged = verdict.judge(TOP1, read.measurement)
  assert judged.kind == verdict.CANNOT_TELL
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


def test_run_judges_a_replaced_file_separately(stage, tmp_path):
  """A wrong file is replaced by the right one, of the same path and size."""
  check = checks.resolve(TOP1)
  path = stand_ins.write_weights(tmp_path, check.files[0], 1000, 224, seed=1)
  options = dataclasses.replace(
    stage, weights_dir=str(tmp_path), results=str(tmp_path / 'results')
  )

  def judged():
    running.run(check, options)
    read = results.read(options.results)[TOP1.id]
    return verdict.judge(TOP1, read.measurement)

  wrong = judged()
  assert wrong.kind == verdict.DIFFERS and wrong.points < -30
  size = os.path.getsize(path)
  shutil.copy(stage.weights(check.files[0]), path)
  assert os.path.getsize(path) == size
  with pytest.raises(
    ValueError, match=r'had the SHA-256 .*; give another'
  ) as e:
    running.run(check, options)
  assert '\n' not in str(e.value)
  os.remove(options.result(TOP1))
  assert judged().kind == verdict.CANNOT_TELL


def test_run_measures_speed_of_computed_rows_only(stage, tmp_path, capsys):
  """The second row shares the first evaluation; the third is over budget."""
  options = dataclasses.replace(stage, results=str(tmp_path))
  costs = {TOP1.id: {'a': 1.0}, TOP5.id: {'a': 1e40}, SVHN.id: {'b': 2e40}}

  def run():
    return budget.run_many(
      [SVHN, TOP5, TOP1],
      options,
      resolve=lambda row: checks.resolve(
        row, recipe='vit-paper' if row is SVHN else None
      ),
      cost=lambda check: costs[check.row.id],
      budget_hours=1,
    )

  assert run() == {
    TOP1.id: 'measured', TOP5.id: 'measured', SVHN.id: 'over budget'
  }  # fmt: skip
  checked = [x for x in capsys.readouterr().err.splitlines() if 'checking' in x]
  assert [x.split()[-1] for x in checked] == [TOP1.id, TOP5.id]
  os.remove(options.result(TOP1))
  meter = compute_cost.ComputeMeter()
  known = running.run(checks.resolve(TOP1), options, meter)
  assert (
    known['accuracy'] and meter == compute_cost.ComputeMeter()
  )  # nothing was computed
  os.remove(options.result(TOP1))
  gone = dataclasses.replace(options, weights_dir=str(tmp_path))
  options = dataclasses.replace(gone, results=str(tmp_path / 'none'))
  # A failed row computes nothing, so the speed is unknown.
  assert 'no weights file' in run()[SVHN.id]


def test_remaining_counts_unfinished_evaluations(stage, tmp_path):
  options = dataclasses.replace(stage, results=str(tmp_path))
  check = checks.resolve(TOP1)
  ((path, cost),) = running.remaining(check, options).items()
  assert cost == 2 * TI_16 * 50_000
  assert running.remaining(checks.resolve(TOP5), options) == {path: cost}
  meter = compute_cost.ComputeMeter()
  running.run(check, options, meter)
  assert os.path.exists(path) and not running.remaining(check, options)
  assert meter.operations == pytest.approx(cost * IMAGES / 50_000)
  assert meter.seconds > 0
  path = pathlib.Path(path)
  whole = json.loads(path.read_text())
  for damaged in ('{', json.dumps(dict(whole, accuracy=-1, code='old'))):
    path.write_text(damaged)
    os.remove(options.result(TOP1))
    again = running.run(check, options)
    found = json.loads(path.read_text())
    for key in ('accuracy', 'code'):
      assert found[key] == whole[key]
    assert again['data'] == {'imagenet2012': whole['data_fingerprint']}


def arguments(options):
  """Returns arguments of `reproduce` that fine-tune on the small SVHN."""
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


def test_run_resumes_fine_tuning_after_a_kill(stage, tmp_path):
  whole, killed = (
    dataclasses.replace(stage, results=str(tmp_path / name))
    for name in ('whole', 'killed')
  )
  child = child_processes.Child(
    child_processes.verb, 'reproduce', arguments(whole), devices=1
  )
  assert child.wait() == 0, child.stderr
  assert SVHN.published in child.stdout and 'differs by' in child.stdout
  given = child_processes.verb, 'reproduce', arguments(killed)
  child = child_processes.Child(*given, devices=1)
  runs = tmp_path / 'killed' / 'work' / 'runs'
  while child.is_running() and not list(
    runs.glob('*/seed_0/checkpoints/[0-9]*')
  ):
    time.sleep(0.01)
  child.kill()
  assert not os.path.exists(killed.result(SVHN))
  child = child_processes.Child(*given, devices=1)
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


def test_run_chooses_the_rate_on_held_out_images(stage, tmp_path):
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
def test_run_reports_missing_inputs_in_one_line(tmp_path):
  options = Options(
    results=str(tmp_path / 'results'), weights_dir=str(tmp_path)
  )
  with pytest.raises(FileNotFoundError, match='or give --fetch') as caught:
    running.run(checks.resolve(TOP1), options)
  assert '--dir=' in str(caught.value) and '\n' not in str(caught.value)
  row = next(r for r in table.rows() if '{0.01|0.03}' in r.checkpoint)
  with pytest.raises(ValueError, match='needs a choice first; give --weights'):
    running.run(checks.resolve(row), options)
  with pytest.raises(ValueError, match='seeds=0 must be at least 1'):
    Options(results='x', seeds=0)
  assert not (tmp_path / 'results').exists()


def test_run_averages_over_tasks_and_seeds(stage, tmp_path):
  check = checks.resolve(SVHN, recipe='vit-paper')
  (tried,) = check.recipes
  names = ('vtab/svhn', 'vtab/cifar100')
  check = dataclasses.replace(
    check,
    datasets=names,
    image_sizes=check.image_sizes * 2,
    recipes=tuple(
      (
        dataclasses.replace(
          tried[0],
          dataset=name,
          settings=dict(tried[0].settings, dataset=name),
          base_lrs=(0.01,),
        ),
      )
      for name in names
    ),
  )
  short = dict(SHORT, total_steps=1, warmup_steps=0, checkpoint_every=0)
  options = dataclasses.replace(
    stage, results=str(tmp_path), overrides=short, seeds=2
  )
  meter = compute_cost.ComputeMeter()
  running.run(check, options, meter)
  # Four trainings of one step, each followed by an evaluation.
  image = compute_cost.evaluation(check.model, 32, 1)
  assert meter.operations == pytest.approx(4 * image * (3 * 8 + 20))
  # The measured accuracies are equal, so others are recorded in their place.
  accuracies = {name: [0.1 * i, 0.4 * i] for i, name in enumerate(names, 1)}
  for path in tmp_path.glob('work/evaluations/*.json'):
    found = json.loads(path.read_text())
    seed = int(pathlib.Path(found['weights']).parent.name.removeprefix('seed_'))
    trained = pathlib.Path(found['weights']).with_name('result.json')
    assert json.loads(trained.read_text())['accuracy'] == found['accuracy']
    found['accuracy'] = accuracies[found['dataset']][seed]
    path.write_text(json.dumps(found))
  os.remove(options.result(SVHN))
  meter = compute_cost.ComputeMeter()
  both = running.run(check, options, meter)
  assert {
    name: task['accuracies'] for name, task in both['tasks'].items()
  } == accuracies
  assert both['accuracies'] == pytest.approx([0.15, 0.6])
  assert both['accuracy'] == pytest.approx(0.375)
  assert both['seeds'] == 2 and both['num_examples'] == 40
  os.remove(options.result(SVHN))
  one = running.run(check, dataclasses.replace(options, seeds=1), meter)
  assert one['accuracies'] == both['accuracies'][:1]
  assert meter == compute_cost.ComputeMeter()  # nothing was computed
