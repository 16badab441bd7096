"""Results of finished runs, in files that may be of strangers."""

import dataclasses
import json

import numpy as np
import pytest
import student_runs

from vit_jax_repro import main
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference import multi_label
from vit_jax_repro.runs import configuration, results, settings, workdir

pytestmark = pytest.mark.quick

TRUTH = np.eye(2, dtype=bool)
SCORES = dataclasses.asdict(multi_label.measure(TRUTH * 0.9, TRUTH, 'ab'))
RESULT = dataclasses.asdict(
  results.TrainResult(
    accuracy=0.5,
    top5_accuracy=1.0,
    num_examples=2,
    replaced_images=1,
    step=3,
    seconds=1.5,
    workdir='/elsewhere',
    model='/elsewhere/model.npz',
    validation_accuracy=0.5,
    unreadable_by_class={'a\nb': 1},
    notes=('a note on c\nd',),
  )
)


def finished(folder, **changes):
  """Returns the result that a run finds in a folder."""
  config = configuration.completed(student_runs.settings(folder))
  found = workdir.Workdir(folder, {})
  (folder / 'result.json').write_text(json.dumps(RESULT | changes))
  (folder / 'model.npz').touch()
  return results.finished(found, settings.from_config(config), 3)


@pytest.mark.parametrize('scores', [None, SCORES])
def test_finished_returns_the_result_of_the_file(tmp_path, scores, capsys):
  found = finished(tmp_path, multi_label=scores)
  assert found.model == str(tmp_path / 'model.npz')
  assert found.notes == ('a note on c\nd',) and found.accuracy == 0.5
  main.show(dataclasses.replace(found, replaced_images=1))
  shown = capsys.readouterr().out
  assert r'a note on c\nd' in shown and r'by class: a\nb 1' in shown


@pytest.mark.parametrize(
  'changes',
  [
    {'multi_label': {}},
    {'multi_label': {**SCORES, 'micro': None}},
    {'multi_label': {**SCORES, 'empty_classes': [1]}},
    {'multi_label': {**SCORES, 'classes': [{}]}},
    {'accuracy': None},
    {'seconds': None},
    {'notes': [1]},
    {'unreadable_by_class': []},
    {'best_model': 1},
    {'validation_accuracy': 'x'},
    {'other': 1},
  ],
)
def test_finished_refuses_other_types(tmp_path, changes):
  assert finished(tmp_path, **changes) is None


def test_finished_refuses_an_accuracy_that_no_float_holds(tmp_path):
  with pytest.raises(InputError, match='no finite float64'):
    finished(tmp_path, accuracy=10**400)
