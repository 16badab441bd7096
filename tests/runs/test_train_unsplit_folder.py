"""Whole runs on a folder without splits."""

import dataclasses
import hashlib
import json
import pathlib
import shutil

import pytest
import student_runs
import training_sets

from vit_jax_repro import jobs, main
from vit_jax_repro.data import percent_parts, split_records, splitting
from vit_jax_repro.inference import evaluation
from vit_jax_repro.runs import input, train
from vit_jax_repro.runs import settings as settings_lib
from vit_jax_repro.weights import integrity


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


def test_train_refuses_to_continue_with_an_image_of_other_pixels(
  classes, run, tmp_path
):
  """Its name and its number of bytes are as before."""
  shutil.copytree(run.workdir, tmp_path / 'run')
  (tmp_path / 'run' / 'result.json').unlink()
  photos = shutil.copytree(classes, tmp_path / 'photos')
  path = next(photos.glob('*/*'))
  path.write_bytes(path.read_bytes()[:-1] + b'x')
  with pytest.raises(ValueError, match='has images with other contents,') as e:
    train.train(settings(photos), tmp_path / 'run')
  assert '\n' not in str(e.value)
  continuing = settings(photos) | dict(continue_from=run.workdir, total_steps=3)
  with pytest.raises(ValueError, match='has images with other contents,'):
    train.train(continuing, tmp_path / 'longer')


def test_train_continues_where_an_image_was_added_that_no_split_has(
  classes, tmp_path
):
  photos = shutil.copytree(classes, tmp_path / 'photos')
  config = settings(photos, train='train[:10%]', test='train[90%:]')
  train.train(config, tmp_path / 'run')
  (tmp_path / 'run' / 'result.json').unlink()
  parts = splitting.Division('train[:10%]', None, 'train[90%:]').parts()
  segments = percent_parts.segments_of(parts)
  old = next(photos.glob('*/*'))
  contents = (old.read_bytes() + bytes(number) for number in range(1, 100))
  unused = next(
    content
    for content in contents
    if percent_parts.side_of(hashlib.sha256(content).hexdigest(), 0, segments)
    == percent_parts.UNUSED
  )
  old.with_name('new.png').write_bytes(unused)
  train.train(config, tmp_path / 'run')
  assert sides_of(tmp_path / 'run').count(percent_parts.UNUSED) > 40
  assert len(sides_of(tmp_path / 'run')) == 61


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


@pytest.fixture(scope='module')
def chosen(classes, tmp_path_factory):
  """Returns the result of a run that chooses by a third split."""
  config = settings(classes, validation='validation') | dict(
    total_steps=4, eval_every=1, checkpoint_every=1, keep_best=True
  )
  workdir = tmp_path_factory.mktemp('chosen')
  return train.train(config, workdir), config


def test_keep_best_chooses_by_the_third_split_and_tests_once(chosen, classes):
  """The best of many looks at the test split is better than the model is."""
  result, _ = chosen
  lines = student_runs.metrics_of(pathlib.Path(result.workdir))
  validated = {
    line['step']: line['accuracy_validation']
    for line in lines
    if 'accuracy_validation' in line
  }
  assert sorted(validated) == [1, 2, 3, 4]
  best = max(validated.values())
  assert result.best_accuracy == validated[result.best_step] == best
  assert result.validation_accuracy == validated[4]
  for step in (3, 4):
    saved = pathlib.Path(result.workdir, 'checkpoints', str(step))
    assert integrity.read_description(saved)['score'] == validated[step]
  (tested,) = [line for line in lines if 'accuracy_test' in line]
  assert tested['step'] == result.best_step
  assert tested['accuracy_test'] == result.accuracy
  for path, split, wanted in (
    (result.best_model, 'test', result.accuracy),
    (result.best_model, 'validation', result.best_accuracy),
    (result.model, 'validation', result.validation_accuracy),
  ):
    found = evaluation.evaluate(path, str(classes), split=split)
    assert found.accuracy == pytest.approx(wanted)
    assert found.num_examples == sides_of(result.workdir).count(split)
  assert result.num_examples == sides_of(result.workdir).count('test')
  assert not any('keep_best' in line for line in result.notes)


def test_a_run_with_a_third_split_ends_alike_after_a_kill_at_its_end(chosen):
  result, config = chosen
  pathlib.Path(result.workdir, 'result.json').unlink()
  again = train.train(config, result.workdir, show=False)
  assert dataclasses.replace(again, seconds=0) == dataclasses.replace(
    result, seconds=0
  )


def test_the_table_names_the_model_that_was_tested(chosen, capsys):
  result, _ = chosen
  main.show(result)
  out = ' '.join(capsys.readouterr().out.split())
  assert (
    f'{result.best_accuracy:.2%} on the validation split, after step' in out
  )
  assert f'{result.accuracy:.2%} of {result.num_examples} images' in out
  assert result.best_model in out
  alone = dataclasses.replace(result, best_model=None)
  main.show(alone)
  out = capsys.readouterr().out
  assert 'after step' not in out
  assert f'{result.validation_accuracy:.2%}' in out
  main.show(dataclasses.replace(alone, validation_accuracy=None))
  assert 'validation' not in capsys.readouterr().out


def test_keep_best_without_a_third_split_says_what_it_chooses_by(classes):
  config = settings(classes) | dict(keep_best=True)
  found = input.Input(settings_lib.from_config(config))
  (line,) = [x for x in found.notes if 'keep_best' in x]
  assert 'higher than on new images; config.pp.validation names' in line
