"""Files of runs from strangers: types, damaged lines."""

import json

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
  ],
)
def test_read_refuses_other_types_in_one_line(tmp_path, name, value, problem):
  path = tmp_path / name
  path.write_text(json.dumps(value))
  with pytest.raises(InputError) as caught:
    needed = ['accuracy'] if name == 'result.json' else []
    run_files.read(path, 'give another', needed=needed)
  assert str(caught.value) == (
    f'{path} is no file of a run: {problem}; give another'
  )


def test_metrics_leave_out_damaged_lines():
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
  found, number = run_files.metrics(text.encode() + b'\xff')
  assert found == [{'step': 1, 'lr': 2.0}, {'step': 2}]
  assert number == len(damaged)
  large = f'{{"step": 4, "x": {10**400}, "y": NaN}}'.encode()
  assert list(run_files.metrics(large)[0][0]) == ['step', 'y']
