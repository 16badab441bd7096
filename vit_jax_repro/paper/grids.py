"""Tables in the layout of the paper: models by data sets."""

import collections
from collections.abc import Mapping, Sequence

from vit_jax_repro.output.sections import Section, View
from vit_jax_repro.paper import listings, table, verdict, views
from vit_jax_repro.paper.results import Result

_WIDEST = 9  # most columns; a wider table is transposed if that is narrower
_MARKS = {verdict.AGREES: '=', verdict.DIFFERS: '!', verdict.CANNOT_TELL: '?'}
# Additions to the name of a model, used if its rows need them to be distinct.
_LABELS = {
  'pretrain_dataset': '{}',
  'epochs': '{} epochs',
  'train_examples': '{}',
  'resolution': '{} px',
}


def grid(found: Sequence[table.Row], results: Mapping[str, Result]) -> View:
  """Returns a grid for each table, with the published and measured numbers.

  Models with a number that can be checked come first.

  Args:
    found: the rows.
    results: measured results by id of the row; see `results.read`.
  """
  by_table = views.by_table(found)
  judged = views.verdicts(found, results)
  return View(
    tuple(
      _grid(table.named(name), rows, results, judged)
      for name, rows in by_table.items()
    ),
    views.records(found, results, judged),
  )


def _grid(source_table, rows, results, judged):
  labels, places = _labels(rows), _places(rows)
  cells = collections.defaultdict(list)
  for row, label, place in zip(rows, labels, places, strict=True):
    cells[label, place].append(_cell(row, results, judged[row.id]))
  checkable = {
    label
    for row, label in zip(rows, labels, strict=True)
    if row.status != table.NOT
  }
  down = sorted(dict.fromkeys(labels), key=lambda each: each not in checkable)
  across = list(dict.fromkeys(places))
  if len(across) > _WIDEST and len(down) < len(across):
    down, across = across, down
    cells = {(place, label): cell for (label, place), cell in cells.items()}
  return Section(
    listings.heading(source_table),
    (
      f'{source_table.source}. In per cent; the measured number is below the '
      'published one. = agrees, ! differs, ? too few images or seeds to tell; '
      'in brackets: not checkable; * measured with other settings or data, '
      'which `show --row` lists. `--rows` has the ids of the rows.',
      *([source_table.remark] if source_table.remark else []),
    ),
    ('', *(f'>{name}' for name in across)),
    tuple(
      (name, *('\n'.join(cells.get((name, other), [])) for other in across))
      for name in down
    ),
  )


def _places(rows):
  """Returns the data set of each row, with the metric if there are several."""
  metrics = collections.defaultdict(set)
  for row in rows:
    metrics[row.eval_dataset].add(row.metric)
  return [
    f'{row.eval_dataset}, {table.METRICS[row.metric]}'
    if len(metrics[row.eval_dataset]) > 1 or row.metric == table.COST
    else row.eval_dataset
    for row in rows
  ]


def _labels(rows):
  """Returns the model of each row, with the additions that make it distinct."""
  labels, places = [row.model for row in rows], _places(rows)
  for field, form in _LABELS.items():
    values = [str(getattr(row, field) or '') for row in rows]
    longer = [
      f'{label}\n{form.format(value)}' if value else label
      for label, value in zip(labels, values, strict=True)
    ]
    if _distinct(longer, places) > _distinct(labels, places):
      labels = longer
  return labels


def _distinct(labels, places):
  return len(set(zip(labels, places, strict=True)))


def _cell(row, results, judged):
  result = results.get(row.id)
  if judged.kind == verdict.NOT_CHECKABLE:
    return f'({row.published})'
  if judged.kind == verdict.NOT_RUN:
    return row.published
  measured = 100 * result.measurement.accuracy
  mark = _MARKS[judged.kind] + ('*' if result.departures else '')
  return f'{row.published}\n{measured:.2f} {mark}'
