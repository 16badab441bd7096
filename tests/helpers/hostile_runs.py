"""Hostile workdirs: metrics and JSON files of runs."""

import json
import os

import tiny_models
from hostile import Hostile

from vit_jax_repro.analysis import charts, saved_results
from vit_jax_repro.published import origins
from vit_jax_repro.reproduction import card

_LINE = '{"step": 1, "train_loss": 2, "accuracy_test": 0.5}'


def _metrics(*lines):
  """Writes a sound line of metrics, and others."""

  def make(folder):
    text = '\n'.join([_LINE, *lines, ''])
    (folder / 'metrics.jsonl').write_text(text)
    return folder

  return make


def _metrics_of_one_line(folder):
  """Writes a sound line of metrics, and 600 MB without the end of a line."""
  path = _metrics()(folder) / 'metrics.jsonl'
  os.truncate(path, 600_000_000)  # zeros, which take no room on the disk
  return folder


def _drawn(folder):
  """Draws the metrics as `figures curves` does."""
  curves = saved_results.curves(folder)
  charts.curves([curves]).canvas.draw()
  return f'{len(curves.steps)} step of {", ".join(curves.evaluated)}'


def _run(name, value):
  """Writes a run one of whose files holds something else."""

  def make(folder):
    tiny_models.save_run(folder / 'model.npz')
    for each in ('config.json', 'manifest.json'):
      (folder / each).write_text('{}')
    (folder / name).write_text(json.dumps(value))
    return folder

  return make


def _described(folder):
  return card.view(card.run_card(folder)).sections[0].title


def _converted(folder):
  """Finds the origin of a run's model as `convert` does; a note has faults."""
  path = str(folder / 'model.npz')
  return f'{origins.find(path, path, "timm").run}'


def _is(name, make, opens, shows, **options):
  return Hostile(name, make, opens, shows, **options)


CASES = (
  _is(
    'metrics nested 100,000 deep',
    _metrics('[' * 100_000),
    _drawn,
    '1 step',
    refused=False,
  ),
  _is(
    'metrics of 600 MB without the end of a line',
    _metrics_of_one_line,
    _drawn,
    '1 step',
    refused=False,
  ),
  _is(
    'metrics of step 10**36',
    _metrics(f'{{"step": {10**36}, "train_loss": 1}}'),
    _drawn,
    '1 step',
    refused=False,
  ),
  _is(
    'metrics with a loss of 10**400',
    _metrics(f'{{"step": 2, "train_loss": {10**400}}}'),
    _drawn,
    '1 step',
    refused=False,
  ),
  _is(
    'metrics with a list for an accuracy',
    _metrics('{"step": 2, "train_loss": NaN, "accuracy_x": [1]}'),
    _drawn,
    '2 step of test',
    refused=False,
  ),
  _is(
    'metrics with an accuracy of 1e400',
    _metrics('{"step": 2, "train_loss": 1e400, "accuracy_test": 1e400}'),
    _drawn,
    '2 step of test',
    refused=False,
  ),
  _is(
    'metrics with TeX in the name of a split',
    _metrics('{"step": 1, "train_loss": 1, "accuracy_$\\\\frac$": 1}'),
    _drawn,
    r'2 step of test, $\frac$',
    refused=False,
  ),
  _is(
    'metrics of 1,000 splits',
    _metrics(
      json.dumps(
        {'step': 1, 'train_loss': 1} | {f'accuracy_{i}': 1 for i in range(1000)}
      )
    ),
    _drawn,
    'of 1001 splits',
  ),
  _is(
    'run with a text for an accuracy',
    _run('result.json', {'accuracy': 'x', 'num_examples': 1, 'step': 1}),
    _described,
    "'accuracy' must not be 'x'",
  ),
  _is(
    'run with 10**400 for an accuracy',
    _run('result.json', {'accuracy': 10**400, 'num_examples': 1, 'step': 1}),
    _described,
    'no finite float64',
  ),
  _is(
    'run with 10**300 for an accuracy',
    _run('result.json', {'accuracy': 10**300, 'num_examples': 1, 'step': 1}),
    _described,
    "'accuracy' must not be 1000",
  ),
  _is(
    'run with null for its data',
    _run('manifest.json', {'data': None}),
    _described,
    "'data' must not be None",
  ),
  _is(
    'run with lists for its model',
    _run('config.json', {'model': [1], 'pretrained_dir': [2]}),
    _converted,
    'None',
    refused=False,
  ),
)
