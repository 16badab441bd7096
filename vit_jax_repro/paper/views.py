"""Views of published and measured numbers, and of verdicts."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax_repro.output.sections import Section, View, unbroken
from vit_jax_repro.paper import differences, listings, table, verdict
from vit_jax_repro.paper.results import Result

# Fields of a row that its title, sentences and `published` already contain.
_IN_SENTENCES = (
  'id', 'value', 'decimals', 'std', 'value_min', 'value_max', 'table', 'source',
  'second_source', 'confidence', 'note', 'status', 'blocker',
)  # fmt: skip


def numbers(found: Sequence[table.Row], results: Mapping[str, Result]) -> View:
  """Returns a view of rows, with columns paper, measured and verdict.

  Args:
    found: the rows.
    results: measured results by id of the row; see `results.read`.
  """
  judged = verdicts(found, results)
  sections = tuple(
    _listed(table.named(name), rows, results, judged)
    for name, rows in by_table(found).items()
  )
  return View(sections, records(found, results, judged))


def one_row(row: table.Row, results: Mapping[str, Result]) -> View:
  """Returns a view of all facts on a row, and of its differences."""
  verdicts_by_id = verdicts([row], results)
  judged = verdicts_by_id[row.id]
  result = results.get(row.id)
  known = {'published': row.published}
  if result is not None:
    known |= {'measured': measured(result), 'in': result.path}
    if result.departures:
      known['measured otherwise'] = result.departures
  known['verdict'] = str(judged)
  if judged.p_value is not None:
    known['p-value'] = f'{judged.p_value:.2g}'
  known |= {
    name.replace('_', ' '): str(value)
    for name, value in vars(row).items()
    if value not in ('', None) and name not in _IN_SENTENCES
  }
  known['metric'] = table.METRICS[row.metric]
  section = Section(row.id, _provenance(row), ('', ''), tuple(known.items()))
  sections = [section]
  concerned = differences.touching(row)
  if concerned:
    sections.append(
      listings.differing('Differences that concern it', concerned)
    )
  return View(tuple(sections), records([row], results, verdicts_by_id))


def _provenance(row):
  """Returns sentences on the origin of a number, and on how to check it."""
  unit = '' if row.metric == table.COST else ' %'
  origin = f'{row.source} has the number {row.published}{unit} ({row.table}).'
  if row.second_source:
    origin += f' It was compared with other copies: {row.second_source}.'
  else:
    origin += ' It was read once, and not compared with a second source.'
  if row.note:
    origin += f' Note: {row.note}.'
  if row.status == table.NOT:
    what, why = verdict.BLOCKERS[row.blocker]
    return origin, f'It cannot be checked ({what}). {why}'
  how = (
    f'the released file {row.checkpoint} is evaluated on {row.eval_dataset}'
    if row.status == table.INFERENCE
    else f'the released file {row.checkpoint} is fine-tuned on '
    f'{row.finetune_dataset}, then evaluated on {row.eval_dataset}'
  )
  return (
    origin,
    f'To check it, {how}. This needs what the first command lists, and the '
    'second one runs it:\n'
    + '\n'.join(
      unbroken(f'  python -m vit_jax_repro.reproduce {command}')
      for command in (
        f'plan --row={row.id}',
        f'run --row={row.id} --results=results',
      )
    ),
  )


def report(
  found: Sequence[table.Row], results: Mapping[str, Result], *, whole: bool
) -> View:
  """Returns a view of the verdicts on rows.

  Args:
    found: the rows.
    results: measured results by id of the row.
    whole: list all rows, not only the measured ones.
  """
  judged = verdicts(found, results)
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
      *_false_alarms(judged.values()),
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
      sections.append(_listed(table.named(name), shown, results, judged))
  return View(tuple(sections), records(found, results, judged))


def verdicts(
  found: Sequence[table.Row], results: Mapping[str, Result]
) -> dict[str, verdict.Verdict]:
  """Returns the verdicts on rows that are judged together, by their ids."""
  return verdict.judge_all(
    found, {row_id: result.measurement for row_id, result in results.items()}
  )


def records(
  found: Sequence[table.Row],
  results: Mapping[str, Result],
  judged: Mapping[str, verdict.Verdict],
) -> tuple[dict[str, Any], ...]:
  """Returns the fields of each row, with the measurement and the verdict.

  Values of the measurement are None if there is none.
  """
  return tuple(
    _record(row, results.get(row.id), judged[row.id]) for row in found
  )


def _record(row, result, judged):
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
    'p_value': judged.p_value,
    'p_value_corrected': judged.corrected,
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


def _false_alarms(judged):
  """Returns a sentence on the false alarms to expect; none without tests."""
  tested = [each for each in judged if each.p_value is not None]
  if not tested:
    return ()
  alone = sum(each.p_value < verdict.ALPHA for each in tested)
  differing = sum(each.kind == verdict.DIFFERS for each in tested)
  expected = verdict.ALPHA * len(tested)
  text = (
    f'Tested numbers: {len(tested)}. Judged one by one, {alone} would differ; '
    f'up to {expected:.1f} would do so by chance alone if all were right. By '
    f'the correction of Benjamini and Hochberg {differing or "none"} differ'
  )
  if differing:
    text += ', of which at most 5 % are expected to be right'
  return (f'{text}.',)


def _listed(source_table, rows, results, verdicts_by_id):
  """Returns a section with rows of a table, those to check first."""
  rows = sorted(rows, key=lambda row: row.status == table.NOT)
  judged = [verdicts_by_id[row.id] for row in rows]
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
