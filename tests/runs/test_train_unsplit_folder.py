"""Whole runs on a folder without splits."""

import json
import shutil

import pytest
import student_runs
import training_sets

from vit_jax_repro import jobs
from vit_jax_repro.data import split_records
from vit_jax_repro.inference import evaluation
from vit_jax_repro.runs import train


@pytest.fixture(scope='module')
def classes(tmp_path_factory):
  """Returns ROOT/CLASS/*.png of 60 digits."""
  root = tmp_path_factory.mktemp('unsplit')
  return training_sets.write_folder(root, 60) / 'train'


@pytest.fixture(scope='module')
def run(classes, tmp_path_factory):
  """Returns the result of a run, and what it printed."""
  workdir = tmp_path_factory.mktemp('run')
  return train.train(settings(classes), workdir)


def settings(folder, **pp):
  pp = dict(train='train', test='test', crop=8) | pp
  return student_runs.settings(folder, total_steps=2, checkpoint_every=0, pp=pp)


def record_of(workdir):
  with open(f'{workdir}/{split_records.FILE}', encoding='utf-8') as file:
    return json.load(file)


def sides_of(workdir):
  return list(record_of(workdir)['images'].values())


def test_train_divides_the_folder_and_records_the_sides(classes, run):
  sides = sides_of(run.workdir)
  assert sides.count('test') == run.num_examples
  assert sides.count('train') == 60 - run.num_examples
  assert 10 <= run.num_examples <= 14  # 20 % of each of ten small classes
  assert sum(len([*each.iterdir()]) for each in classes.iterdir()) == 60


def test_evaluate_reads_the_same_test_images_after_all_were_renamed(
  classes, run, tmp_path, capsys
):
  """Files in another order: test images were taken from the training ones."""
  found = evaluation.evaluate(run.model, str(classes), batch_size=64)
  renamed = tmp_path / 'renamed'
  for each in sorted(classes.iterdir()):
    (renamed / each.name).mkdir(parents=True)
    for i, path in enumerate(sorted(each.iterdir(), reverse=True)):
      shutil.copy(path, renamed / each.name / f'{i}.png')
  again = evaluation.evaluate(run.model, str(renamed), batch_size=64)
  assert found.num_examples == again.num_examples == run.num_examples
  assert found.correct == again.correct
  assert found.accuracy == pytest.approx(run.accuracy)
  (line,) = [x for x in again.notes if 'no splits' in x]
  assert line.endswith(f'as recorded in {run.workdir}/{split_records.FILE}')


def test_train_continues_with_the_recorded_sides(classes, run, capsys):
  before = record_of(run.workdir)
  again = train.train(settings(classes), run.workdir)
  assert again.accuracy == run.accuracy and record_of(run.workdir) == before
  assert 'already finished' in capsys.readouterr().err


def test_train_takes_parts_and_a_seed(classes, tmp_path, capsys):
  config = settings(classes, train='train[:50%]', split_seed=7)
  result = jobs.train(config, tmp_path / 'half')
  assert abs(result.num_examples - 30) <= 5
  err = capsys.readouterr().err
  assert 'no splits: 50 % train, 50 % test, stratified, seed 7' in err
  more = sorted((classes / 'digit 0').iterdir())
  assert len(more) > 1
  # Evaluation follows the run's parts and seed, not the default.
  found = evaluation.evaluate(result.model, str(classes), batch_size=64)
  assert found.num_examples == result.num_examples


def test_train_from_a_run_keeps_its_test_images(classes, run, tmp_path):
  config = settings(classes) | dict(pretrained_dir=run.model)
  train.train(config, tmp_path / 'next', show=False)
  assert record_of(tmp_path / 'next') == record_of(run.workdir)
  config = settings(classes, split_seed=1) | dict(pretrained_dir=run.model)
  with pytest.raises(ValueError, match='are training images of the run'):
    train.train(config, tmp_path / 'other', show=False)
  assert not (tmp_path / 'other').exists()
