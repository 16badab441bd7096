"""Views of numbers: what is published, what was measured, verdicts."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax_repro.output.sections import Section, View
from vit_jax_repro.paper import differences, listings, table, verdict
from vit_jax_repro.paper.results import Result

# Fields that `published` and the title of a row's view say together.
_PUBLISHED = ('id', 'value', 'decimals', 'std', 'value_min', 'value_max')


def numbers(found: Sequence[table.Row], results: Mapping[str, Result]) -> View:
  """View of rows: paper, measured, verdict."""
  sections = tuple(
    _listed(table.named(name), rows, results)
    for name, rows in by_table(found).items()
  )
  return View(sections, tuple(record(row, results) for row in found))


def one_row(row: table.Row, results: Mapping[str, Result]) -> View:
  """View of all that is known of a row, and the differences that concern it."""
  judged = _judged(row, results)
  result = results.get(row.id)
  known = {'published': row.published}
  if result is not None:
    known |= {'measured': measured(result), 'in': result.path}
    if result.departures:
      known['measured otherwise'] = result.departures
  known['verdict'] = str(judged)
  known |= {
    name.replace('_', ' '): str(value)
    for name, value in vars(row).items()
    if value not in ('', None) and name not in _PUBLISHED
  }
  known['metric'] = table.METRICS[row.metric]
  lines = tuple(known.items())
  sections = [Section(row.id, _legend([judged]), ('', ''), lines)]
  concerned = differences.touching(row)
  if concerned:
    sections.append(
      listings.differing('Differences that concern it', concerned)
    )
  return View(tuple(sections), (record(row, results),))


def report(
  found: Sequence[table.Row], results: Mapping[str, Result], *, whole: bool
) -> View:
  """View of the verdicts on rows.

  Args:
    found: the rows.
    results: what was measured, by id.
    whole: list all rows, not those alone that were measured.
  """
  judged = {row.id: _judged(row, results) for row in found}
  departing = [
    row.id for row in found if row.id in results and results[row.id].departures
  ]
  kinds = collections.Counter(each.kind for each in judged.values())
  grouped = by_table(found)
  head = Section(
    'Published numbers, checked',
    (
      f'Of {len(found)} numbers: '
      + ', '.join(f'{kind} {kinds[kind]}' for kind in verdict.KINDS)
      + '.',
      *([_otherwise(len(departing))] if departing else []),
      verdict.RULE,
    ),
    ('table', *(f'>{kind}' for kind in verdict.KINDS)),
    tuple(
      (name, *_each_kind([judged[row.id] for row in rows]))
      for name, rows in grouped.items()
    ),
  )
  sections = [head]
  for name, rows in grouped.items():
    shown = [row for row in rows if whole or row.id in results]
    if shown:
      sections.append(_listed(table.named(name), shown, results))
  return View(tuple(sections), tuple(record(row, results) for row in found))


def record(row: table.Row, results: Mapping[str, Result]) -> dict[str, Any]:
  """All fields of a row, what was measured and the verdict; None: nothing."""
  judged = _judged(row, results)
  result = results.get(row.id)
  low = high = accuracy = number = None
  if result is not None:
    low, high = result.measurement.interval()
    accuracy = result.measurement.accuracy
    number = result.measurement.num_examples or None
  fields = {name: v for name, v in vars(row).items() if name != 'decimals'}
  return {
    **fields,
    'value': f'{row.value:.{row.decimals}f}',
    'measured': _per_cent(accuracy),
    'measured_low': _per_cent(low),
    'measured_high': _per_cent(high),
    'num_examples': number,
    'verdict': judged.kind,
    'points': _rounded(judged.points),
    'sigmas': _rounded(judged.sigmas),
    'measured_otherwise': result.departures if result is not None else '',
    'reason': verdict.BLOCKERS[judged.blocker][1] if judged.blocker else '',
  }


def measured(result: Result) -> str:
  """'85.22 (84.90 to 85.53)', in per cent; the interval of the rule."""
  low, high = result.measurement.interval()
  accuracy = result.measurement.accuracy
  return f'{100 * accuracy:.2f} ({100 * low:.2f} to {100 * high:.2f})'


def by_table(found: Sequence[table.Row]) -> dict[str, list[table.Row]]:
  """The rows of each table."""
  grouped = {}
  for row in found:
    grouped.setdefault(row.table, []).append(row)
  return grouped


def _per_cent(fraction):
  return None if fraction is None else _rounded(100 * fraction)


def _rounded(number):
  """Of more digits than any source prints."""
  return None if number is None else round(number, 5)


def _judged(row, results):
  result = results.get(row.id)
  return verdict.judge(row, result and result.measurement)


def _listed(of, rows, results):
  """Section of rows of a table."""
  judged = [_judged(row, results) for row in rows]
  counts = collections.Counter(row.status for row in rows)
  return Section(
    listings.heading(of),
    (
      f'{of.source}. {listings.counted(counts)} In per cent; ids begin with '
      f'{of.prefix}',
      *([of.remark] if of.remark else []),
      *_legend(judged),
    ),
    ('row', '>paper', '>measured', 'verdict'),
    tuple(
      (
        of.short(row),
        row.published,
        measured(results[row.id]) if row.id in results else '',
        _said(each, results.get(row.id)),
      )
      for row, each in zip(rows, judged, strict=True)
    ),
  )


def _said(judged, result):
  """A verdict, and how what was measured departs from the row."""
  departures = result.departures if result is not None else ''
  return f'{judged}\n{departures}' if departures else str(judged)


def _otherwise(number):
  return (
    f'{number} of what was measured with other settings or data than those of '
    'the row; the verdicts say so.'
  )


def _legend(judged):
  """What the short reasons mean."""
  blockers = dict.fromkeys(each.blocker for each in judged if each.blocker)
  return tuple(': '.join(verdict.BLOCKERS[blocker]) for blocker in blockers)


def _each_kind(judged):
  kinds = collections.Counter(each.kind for each in judged)
  return [str(kinds[kind] or '') for kind in verdict.KINDS]
