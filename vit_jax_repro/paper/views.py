"""Views of published and measured numbers, and of verdicts."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax_repro.output.sections import Section, View
from vit_jax_repro.paper import differences, listings, table, verdict
from vit_jax_repro.paper.results import Result

# Fields of a row that its title and `published` already contain.
_PUBLISHED = ('id', 'value', 'decimals', 'std', 'value_min', 'value_max')


def numbers(found: Sequence[table.Row], results: Mapping[str, Result]) -> View:
  """Returns a view of rows, with columns paper, measured and verdict.

  Args:
    found: the rows.
    results: measured results by id of the row; see `results.read`.
  """
  sections = tuple(
    _listed(table.named(name), rows, results)
    for name, rows in by_table(found).items()
  )
  return View(sections, tuple(record(row, results) for row in found))


def one_row(row: table.Row, results: Mapping[str, Result]) -> View:
  """Returns a view of all facts on a row, and of its differences."""
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
  """Returns a view of the verdicts on rows.

  Args:
    found: the rows.
    results: measured results by id of the row.
    whole: list all rows, not only the measured ones.
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
      *([_departures_text(len(departing))] if departing else []),
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
  """Returns the fields of a row, with the measurement and the verdict.

  Values of the measurement are None if there is none.
  """
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
  """Returns '85.22 (84.90 to 85.53)': per cent, and the rule's interval."""
  low, high = result.measurement.interval()
  accuracy = result.measurement.accuracy
  return f'{100 * accuracy:.2f} ({100 * low:.2f} to {100 * high:.2f})'


def by_table(found: Sequence[table.Row]) -> dict[str, list[table.Row]]:
  """Returns {name of a table: its rows}."""
  grouped = {}
  for row in found:
    grouped.setdefault(row.table, []).append(row)
  return grouped


def _per_cent(fraction):
  return None if fraction is None else _rounded(100 * fraction)


def _rounded(number):
  """Rounds to more digits than any source prints."""
  return None if number is None else round(number, 5)


def _judged(row, results):
  result = results.get(row.id)
  return verdict.judge(row, None if result is None else result.measurement)


def _listed(source_table, rows, results):
  """Returns a section with rows of a table."""
  judged = [_judged(row, results) for row in rows]
  counts = collections.Counter(row.status for row in rows)
  return Section(
    listings.heading(source_table),
    (
      f'{source_table.source}. {listings.counted(counts)} In per cent; ids '
      f'begin with {source_table.prefix}',
      *([source_table.remark] if source_table.remark else []),
      *_legend(judged),
    ),
    ('row', '>paper', '>measured', 'verdict'),
    tuple(
      (
        source_table.short(row),
        row.published,
        measured(results[row.id]) if row.id in results else '',
        _verdict_text(each, results.get(row.id)),
      )
      for row, each in zip(rows, judged, strict=True)
    ),
  )


def _verdict_text(judged, result):
  """Returns a verdict, and the departures of the measurement from the row."""
  departures = result.departures if result is not None else ''
  return f'{judged}\n{departures}' if departures else str(judged)


def _departures_text(number):
  return (
    f'{number} of the measurements used other settings or data than the row; '
    'they are listed with the verdicts.'
  )


def _legend(judged):
  """Returns the explanations of the short reasons."""
  blockers = dict.fromkeys(each.blocker for each in judged if each.blocker)
  return tuple(': '.join(verdict.BLOCKERS[blocker]) for blocker in blockers)


def _each_kind(judged):
  kinds = collections.Counter(each.kind for each in judged)
  return [str(kinds[kind] or '') for kind in verdict.KINDS]
