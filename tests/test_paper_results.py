"""Reading what was measured."""

import json

import pytest

from vit_jax_repro.paper import results

pytestmark = pytest.mark.quick

ROW = 'vit-table-5-vit-l-16-imagenet-21k-30-or-90ep-imagenet'
CIFAR = 'vit-table-5-vit-l-16-imagenet-21k-30-or-90ep-cifar-10'
VTAB = (
  'vit-table-2-vit-l-16-imagenet-21k-30-or-90ep-vtab-1k-19-tasks-vtab-mean-'
  'top1-pct'
)


def write(folder, row, **details):
  (folder / f'{row}.json').write_text(json.dumps({'row': row, **details}))


def test_a_folder_of_results(tmp_path):
  write(tmp_path, ROW, accuracy=0.8522, num_examples=50_000, seed=1)
  write(tmp_path, CIFAR, accuracies=[0.99, 0.98], num_examples=10_000)
  tasks = {
    'dtd': {'accuracy': 0.7, 'num_examples': 1880},
    'svhn': {'accuracies': [0.8, 0.9], 'num_examples': 26_032},
  }
  write(tmp_path, VTAB, tasks=tasks)
  (tmp_path / 'notes.txt').write_text('mine')
  (tmp_path / 'runs').mkdir()
  (tmp_path / 'runs' / 'config.json').write_text('{}')
  found = results.read(tmp_path)
  assert {row: each.measurement.accuracy for row, each in found.items()} == (
    pytest.approx({ROW: 0.8522, CIFAR: 0.985, VTAB: 0.775})
  )
  assert found[ROW].details['seed'] == 1
  assert found[ROW].path == str(tmp_path / f'{ROW}.json')
  assert found[CIFAR].measurement.num_examples == 10_000
  assert found[VTAB].measurement.tasks[1].accuracies == (0.8, 0.9)


def test_a_folder_that_is_not_there(tmp_path):
  with pytest.raises(OSError, match=r'no folder of results .*x'):
    results.read(tmp_path / 'x')
  assert results.read(tmp_path) == {}


@pytest.mark.parametrize(
  'text, message',
  [
    ('{"row": ', 'Expecting value'),
    ('\xff', 'codec'),
    ('[]', "it has no 'row'"),
    ('{"accuracy": 0.5, "num_examples": 10}', "it has no 'row'"),
    ('{"row": "mine"}', "there is no row 'mine'"),
    (f'{{"row": "{CIFAR}"}}', f"it is of the row '{CIFAR}'"),
    (f'{{"row": "{ROW}"}}', 'accuracy None must be a fraction'),
    (f'{{"row": "{ROW}", "accuracy": 85.2, "num_examples": 5}}', '85.2 must'),
    (f'{{"row": "{ROW}", "accuracy": NaN, "num_examples": 5}}', 'nan must'),
    (f'{{"row": "{ROW}", "accuracy": 0.5}}', 'num_examples 0 must'),
    (f'{{"row": "{ROW}", "accuracies": 0.5, "num_examples": 5}}', 'be a list'),
    (f'{{"row": "{ROW}", "accuracies": [], "num_examples": 5}}', 'has accur'),
    (f'{{"row": "{ROW}", "tasks": [1]}}', "'tasks' must hold a result"),
    (f'{{"row": "{ROW}", "tasks": {{"dtd": {{}}}}}}', 'accuracy None must'),
    (f'{{"row": "{ROW}", "tasks": {{}}}}', 'has accuracies, or tasks'),
  ],
)
def test_damaged_files_are_named(tmp_path, text, message):
  path = tmp_path / f'{ROW}.json'
  path.write_bytes(text.encode('latin-1'))
  with pytest.raises(ValueError) as error:
    results.read(tmp_path)
  line = str(error.value)
  assert line.startswith(f'{path} is no result: ') and message in line
  assert line.endswith('; remove it and run the row again')
  assert '\n' not in line
