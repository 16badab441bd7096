"""Tests cards of a finished run, an interrupted run and the project."""

import copy
import dataclasses
import json
import pathlib
import shutil

import pytest

from vit_jax_repro import jobs, recipes
from vit_jax_repro.output import sections
from vit_jax_repro.reproduction import card
from vit_jax_repro.runs import configuration
from vit_jax_repro.studies import outcome, report

MODEL = recipes.QUICKSTART_MODEL | dict(
  hidden_size=16,
  transformer=dict(num_layers=1, mlp_dim=16, num_heads=2),
)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The folder of a run of three steps, and its result."""
  made = copy.deepcopy(recipes.QUICKSTART) | dict(
    dataset='digits/0-4', total_steps=3, warmup_steps=1, batch=8, eval_every=0,
    progress_every=1, seed=7,
  )  # fmt: skip
  made['pp'] |= dict(train='few', test='held_out[:20]')
  folder = tmp_path_factory.mktemp('runs') / 'three'
  config = configuration.create(made, MODEL).to_dict()
  return folder, jobs.train(config, folder, show=False)


def by_name(of):
  return {variable.name: variable for variable in of.variables}


def read_json(path):
  return json.loads(path.read_text())


def test_run_card_answers_from_the_files_of_a_run(run):
  folder, result = run
  found = by_name(card.run_card(folder))
  made = read_json(folder / 'manifest.json')
  training = found['training data'].answer
  assert 'digits/0-4, few' in training
  assert made['data']['train_fingerprint'] in training
  assert made['data']['test_fingerprint'] in found['test data'].answer
  assert found['data splits'].answer == (
    'trained on few, tested on held_out[:20]'
  )
  assert f'{result.accuracy:.2%} of 20 images' in found['results'].answer
  assert found['random seeds'].answer == '7'
  assert f'jax {made["versions"]["jax"]}' in (
    found['software dependencies'].answer
  )
  assert found['hardware specification'].answer.startswith('8 x cpu')
  assert 'base_lr' in found['experiment setup'].answer
  code = found['method source code']
  if made['git_commit'] is None:
    assert not code.documented
  else:
    assert made['git_commit'][:40] in code.answer
    assert code.documented != made['git_commit'].endswith('-modified')


@pytest.mark.quick
def test_factors_exclude_facts_about_the_researchers():
  names = [name for names in card.FACTORS.values() for name in names]
  assert len(set(names)) == len(names) == 18
  assert not any('affiliation' in name for name in names)


def test_run_card_marks_unanswered_variables_as_missing(run):
  found = by_name(card.run_card(run[0]))
  for name in ('hypothesis', 'research question'):
    assert found[name].answer == card.MISSING and not found[name].documented
    assert found[name].where == ''
  for name in ('prediction', 'pseudocode'):
    assert found[name].answer.startswith('not scored: ')
    assert not found[name].documented
  for variable in found.values():
    assert variable.documented == (bool(variable.where)) or (
      variable.name == 'method source code'
    )


def test_run_card_names_existing_files_and_keys(run):
  for variable in card.run_card(run[0]).variables:
    if not variable.where:
      continue
    files, _, keys = variable.where.partition(': ')
    for file in files.split(', '):
      assert (run[0] / file).exists(), variable
    for key in keys.split(', ') if keys else ():
      value = read_json(run[0] / files)
      for part in key.split('.'):
        value = value[part]


def test_run_card_marks_an_unfinished_run(run, tmp_path):
  folder = tmp_path / 'killed'
  shutil.copytree(run[0], folder)
  (folder / 'result.json').unlink()
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  (folder / 'metrics.jsonl').write_text('\n'.join(lines[:2]) + '\n{"step": 3, ')
  results = by_name(card.run_card(folder))['results']
  assert results.answer == 'the run is not finished; logged up to step 2'
  assert not results.documented
  (folder / 'metrics.jsonl').unlink()
  results = by_name(card.run_card(folder))['results']
  assert results.answer == 'the run is not finished; no step is logged'


def test_run_card_requires_a_clean_commit(run, tmp_path):
  folder = tmp_path / 'changed'
  shutil.copytree(run[0], folder)
  made = read_json(folder / 'manifest.json')
  for commit, answer in [
    ('ab12-modified', 'ab12 with uncommitted changes'),
    (None, card.MISSING),
  ]:
    made['git_commit'] = commit
    (folder / 'manifest.json').write_text(json.dumps(made))
    code = by_name(card.run_card(folder))['method source code']
    assert code.answer == answer and not code.documented
  made['git_commit'] = 'ab12'
  (folder / 'manifest.json').write_text(json.dumps(made))
  assert by_name(card.run_card(folder))['method source code'].documented


def test_view_has_a_row_per_variable_in_every_format(run):
  made = card.run_card(run[0])
  page = sections.markdown(
    card.view(dataclasses.replace(made, title='a|b')).sections
  )
  assert page.startswith('# Reproducibility card: a\\|b\n')
  assert made.score('data') == (5, 5) and 'data 5 of 5' in page
  assert made.score('method')[1] == 4 and made.score('experiment')[1] == 7
  assert 'Supply the hypothesis as --config.hypothesis="..."' in page
  table = [line for line in page.splitlines() if line.startswith('|')]
  assert len(table) == 2 + len(made.variables)
  lines = sections.as_csv(card.view(made).records).splitlines()
  assert len(lines) == 1 + len(made.variables)
  assert json.loads(json.dumps(dataclasses.asdict(made)))['title'] == made.title


@pytest.mark.quick
def test_project_card_answers_from_the_repository():
  made = card.project_card()
  root = pathlib.Path(__file__).parents[2]
  found = by_name(made)
  for name in card._PROJECT:
    variable = found[name]
    paths = [root / path for path in card._PROJECT[name][1].split(', ')]
    assert variable.documented == all(path.exists() for path in paths)
  assert found['results'].answer == card.MISSING
  assert found['pseudocode'].answer == card.NOT_SCORED['pseudocode']
  assert 'python 3' in found['software dependencies'].answer
  assert found['hardware specification'].answer.startswith('8 x cpu')
  assert made.score('method') == (4, 4)


def test_run_card_takes_the_question_and_the_hypothesis(run, tmp_path):
  folder = tmp_path / 'asked'
  shutil.copytree(run[0], folder)
  config = read_json(folder / 'config.json')
  assert config['question'] is None and config['hypothesis'] is None
  config |= {'question': 'Is it 90 %?', 'hypothesis': 'Above 90 %.'}
  (folder / 'config.json').write_text(json.dumps(config))
  made = card.run_card(folder)
  found = by_name(made)
  assert found['research question'].answer == 'Is it 90 %?'
  assert found['hypothesis'].where == 'config.json: hypothesis'
  assert made.score('method') in ((4, 4), (3, 4))  # by the state of the code
  assert 'Supply' not in sections.markdown(card.view(made).sections)


def test_run_card_takes_a_study(run, tmp_path):
  shutil.copytree(run[0], tmp_path / 'runs' / 'last')
  sides = (
    outcome.side('ViT', 0.1, [0.5, 0.6], runs=('last', 'other')),
    outcome.side('BiT', 0.1, [0.4, 0.6], runs=('third', 'fourth')),
  )
  claim = outcome.Claim('ViT is ahead', 'ViT 4.2', {'ViT': 1, 'BiT': -1})
  judged = (outcome.judge(claim, sides),)
  study = report.StudyResult(
    'families',
    'ViT or BiT',
    'short',
    2,
    sides,
    judged,
    {},
    'digits',
    'test',
    '',
  )
  path = tmp_path / 'study.json'
  path.write_text(json.dumps(dataclasses.asdict(study)))
  made = card.run_card(tmp_path)
  found = by_name(made)
  assert found['research question'].answer == 'ViT or BiT'
  assert found['hypothesis'].answer == 'ViT is ahead (ViT 4.2)'
  assert found['results'].answer == 'ViT is ahead: too few seeds'
  assert found['test data'].answer == 'digits, test'
  assert found['validation data'].answer.startswith('none: no side')
  assert found['training data'].where.startswith('runs/last/manifest.json: ')
  assert made.score('data') == (5, 5) and made.score('experiment')[1] == 8
  held_out = dict(dataclasses.asdict(study), dataset=None)
  held_out['sides'][0]['held_out'] = {'0.1': 0.5, '1': 0.4}
  path.write_text(json.dumps(held_out))
  found = by_name(card.run_card(tmp_path))
  assert found['validation data'].answer.startswith('held_out[:20]: chooses')
  assert found['test data'].answer == card.MISSING
  path.write_text('{"sides": []}')
  with pytest.raises(ValueError, match='is no result of a study'):
    card.run_card(tmp_path)
  path.unlink()
  (tmp_path / 'begun.json').write_text('{}')
  with pytest.raises(ValueError, match='a study that is not finished'):
    card.run_card(tmp_path)


@pytest.mark.quick
def test_run_card_refuses_other_folders_in_one_line(tmp_path):
  (tmp_path / 'half').mkdir()
  (tmp_path / 'half' / 'config.json').write_text('{}')
  (tmp_path / 'broken').mkdir()
  (tmp_path / 'broken' / 'config.json').write_text('{"seed": ')
  (tmp_path / 'list').mkdir()
  (tmp_path / 'list' / 'config.json').write_text('[1]')
  for folder, message in [
    ('none', 'has no config.json, so it holds no training run'),
    ('half', 'has no manifest.json'),
    ('broken', 'it is not valid JSON'),
    ('list', 'it is a list'),
  ]:
    with pytest.raises(ValueError, match=message) as caught:
      card.run_card(tmp_path / folder)
    assert '\n' not in str(caught.value)


@pytest.mark.quick
def test_run_card_accepts_a_manifest_without_platform(tmp_path):
  (tmp_path / 'config.json').write_text('{}')
  devices = {'count': 2, 'kind': 'cpu', 'processes': 1}
  for found, says in (
    (devices, '2 x cpu, processes: 1'),
    ({'kind': 'cpu'}, '? x cpu, processes: ?'),
  ):
    (tmp_path / 'manifest.json').write_text(json.dumps({'devices': found}))
    variable = by_name(card.run_card(tmp_path))['hardware specification']
    assert variable.answer == says
    assert variable.where == 'manifest.json: devices'
