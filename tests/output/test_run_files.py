"""Files of runs from strangers: types, damaged lines."""

import json
import os
import tracemalloc

import pytest

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import run_files

pytestmark = pytest.mark.quick

RESULT = {'accuracy': 0.5, 'num_examples': 10, 'step': 3, 'multi_label': None}


def test_read_returns_what_a_run_writes(tmp_path):
  for name, value in (
    ('result.json', RESULT),
    ('config.json', {'pp': {'train': 'train'}, 'model': {}, 'other': [1]}),
    ('manifest.json', {'data': {}}),  # of an older version
  ):
    path = tmp_path / name
    path.write_text(json.dumps(value))
    assert run_files.read(path) == value


@pytest.mark.parametrize(
  'name, value, problem',
  [
    ('result.json', {'step': 3}, "it has no 'accuracy'"),
    ('result.json', RESULT | {'step': True}, "its 'step' must not be True"),
    ('config.json', {'model': []}, "its 'model' must not be []"),
    ('config.json', {'pp': {'test': [1]}}, "its 'pp.test' must not be [1]"),
    ('manifest.json', {'data': 'x'}, "its 'data' must not be 'x'"),
    ('stopped.json', {'step': '1'}, "its 'step' must not be '1'"),
    ('result.json', [], 'it is a list, not an object'),
    ('result.json', RESULT | {'step': -1}, "its 'step' must not be -1"),
    ('result.json', RESULT | {'step': 2**31}, "its 'step' must not be 21474"),
    ('result.json', RESULT | {'accuracy': 1.01}, "'accuracy' must not be 1.01"),
    ('result.json', RESULT | {'seconds': 1e99}, "'seconds' must not be 1e+99"),
    ('result.json', {'x': [float('inf')]}, '(it holds Infinity, no finite'),
    (
      'manifest.json',
      {'data': {'orientation': [1]}},
      "its 'data.orientation' must not be [1]",
    ),
  ],
)
def test_read_refuses_other_types_in_one_line(tmp_path, name, value, problem):
  path = tmp_path / name
  path.write_text(json.dumps(value))
  with pytest.raises(InputError) as caught:
    needed = ['accuracy'] if name == 'result.json' else []
    run_files.read(path, 'give another', needed=needed)
  message = str(caught.value)
  assert message.startswith(f'{path} is no file of a run: ')
  assert problem in message and message.endswith('; give another')


def test_metrics_leave_out_damaged_lines(tmp_path):
  damaged = [
    '[' * 100_000,
    '{"step": 1e400}',
    '{"step": true}',
    '{"step": -1}',
    f'{{"step": {10**36}}}',
    '"text"',
    '',
  ]
  lines = ['{"step": 1, "lr": 2, "x": "y", "z": true}', *damaged, '{"step": 2}']
  text = '\n'.join([*lines, '{"step": 3, "tr'])
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(text.encode() + b'\xff')
  found, number = run_files.metrics(path)
  assert found == [{'step': 1, 'lr': 2.0}, {'step': 2}]
  assert number == len(damaged)
  path.write_text(f'{{"step": 4, "x": {10**400}, "y": NaN}}')
  assert list(run_files.metrics(path)[0][0]) == ['step', 'y']


def test_metrics_hold_one_line_of_a_large_file(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  with path.open('wb') as file:
    file.write(b'{"step": 1}\n')
    file.truncate(2**28)  # a line of zeros
    file.seek(0, os.SEEK_END)
    file.write(b'\n{"step": 2}\n')
  tracemalloc.start()
  assert run_files.metrics(path) == ([{'step': 1}, {'step': 2}], 1)
  assert tracemalloc.get_traced_memory()[1] < 2**20
  tracemalloc.stop()


def test_metrics_refuse_too_many_lines(tmp_path, monkeypatch):
  monkeypatch.setattr(run_files, 'MOST_LINES', 2)
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\n{"step": 2}')
  assert len(run_files.metrics(path)[0]) == 2
  path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}')
  with pytest.raises(InputError, match='has more than 2 lines; remove some'):
    run_files.metrics(path)
