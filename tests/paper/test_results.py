"""Reading of measured results."""

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
TASKS = {f'task {i}': {'accuracy': 0.5, 'num_examples': 9} for i in range(17)}


def write(folder, row, **details):
  (folder / f'{row}.json').write_text(json.dumps({'row': row, **details}))


def test_read_returns_the_results_of_a_folder(tmp_path):
  write(tmp_path, ROW, accuracy=0.8522, num_examples=50_000, seed=1)
  write(tmp_path, CIFAR, accuracies=[0.99, 0.98], num_examples=10_000)
  tasks = {
    'dtd': {'accuracies': [0.6, 0.8], 'num_examples': 1880},
    'svhn': {'accuracies': [0.8, 0.9], 'num_examples': 26_032},
    **{
      name: {'accuracies': [0.5, 0.5], 'num_examples': task['num_examples']}
      for name, task in TASKS.items()
    },
  }
  write(tmp_path, VTAB, tasks=tasks)
  (tmp_path / 'notes.txt').write_text('mine')
  (tmp_path / 'runs').mkdir()
  (tmp_path / 'runs' / 'config.json').write_text('{}')
  found = results.read(tmp_path)
  assert {row: each.measurement.accuracy for row, each in found.items()} == (
    pytest.approx(
      {ROW: 0.8522, CIFAR: 0.985, VTAB: (0.7 + 0.85 + 17 * 0.5) / 19}
    )
  )
  assert found[ROW].details['seed'] == 1
  assert found[ROW].path == str(tmp_path / f'{ROW}.json')
  assert found[CIFAR].measurement.num_examples == 10_000
  assert found[VTAB].measurement.tasks[1].accuracies == (0.8, 0.9)


def test_departures_lists_overrides_and_substitutes(tmp_path):
  write(tmp_path, ROW, accuracy=0.5, num_examples=9, overrides=3)
  write(
    tmp_path, CIFAR, accuracy=0.5, num_examples=9,
    overrides={'batch': 128, 'pp.crop': 32}, substituted={'data': '/pets'},
  )  # fmt: skip
  found = results.read(tmp_path)
  assert found[ROW].departures == ''
  assert found[CIFAR].departures == (
    'with other settings: batch=128, pp.crop=32; data: /pets'
  )


def test_read_ignores_files_of_no_row(tmp_path):
  write(tmp_path, ROW, accuracy=0.5, num_examples=9)
  (tmp_path / 'package.json').write_text('{')
  (tmp_path / 'x.txt').write_text('{')
  assert list(results.read(tmp_path)) == [ROW]
  assert results.foreign(tmp_path) == ['package.json']


def test_read_file_requires_all_tasks_of_a_mean(tmp_path):
  for row, tasks, message in (
    (VTAB, TASKS, "'tasks' has 17 of the 19 that the row is a mean over"),
    (ROW, TASKS, "the row has one data set and no 'tasks'"),
  ):
    write(tmp_path, row, tasks=tasks)
    with pytest.raises(ValueError) as error:
      results.read_file(tmp_path / f'{row}.json')
    assert message in str(error.value) and '\n' not in str(error.value)


def test_read_rejects_a_missing_folder(tmp_path):
  with pytest.raises(OSError, match=r'no folder of results .*x'):
    results.read(tmp_path / 'x')
  assert results.read(tmp_path) == {}


@pytest.mark.parametrize(
  'text, message',
  [
    ('{"row": ', 'Expecting value'),
    ('\xff', 'codec'),
    ('[]', 'it is a list'),
    ('{"accuracy": 0.5, "num_examples": 10}', "it has no 'row'"),
    ('{"row": "mine"}', "there is no row 'mine'"),
    ('{"row": ["mine"]}', "there is no row ['mine']"),
    ('{"row": {}}', 'there is no row {}'),
    (f'{{"row": "{CIFAR}"}}', f"its row is '{CIFAR}'"),
    (f'{{"row": "{ROW}"}}', 'accuracy None must be a fraction'),
    (f'{{"row": "{ROW}", "accuracy": 85.2, "num_examples": 5}}', '85.2 must'),
    (f'{{"row": "{ROW}", "accuracy": NaN, "num_examples": 5}}', 'holds NaN,'),
    (f'{{"row": "{ROW}", "accuracy": 0.5}}', 'num_examples 0 must'),
    (f'{{"row": "{ROW}", "accuracies": 0.5, "num_examples": 5}}', 'be a list'),
    (f'{{"row": "{ROW}", "accuracies": [], "num_examples": 5}}', 'has accur'),
    (f'{{"row": "{ROW}", "tasks": [1]}}', "'tasks' must hold a result"),
    (f'{{"row": "{ROW}", "tasks": {{"dtd": {{}}}}}}', 'accuracy None must'),
    (f'{{"row": "{ROW}", "tasks": {{}}}}', 'has accuracies, or tasks'),
  ],
)
def test_read_names_damaged_files(tmp_path, text, message):
  path = tmp_path / f'{ROW}.json'
  path.write_bytes(text.encode('latin-1'))
  with pytest.raises(ValueError) as error:
    results.read(tmp_path)
  line = str(error.value)
  assert line.startswith(f'{path} is no result: ') and message in line
  assert line.endswith('; remove it and run the row again')
  assert '\n' not in line
