"""Views of the published tables, of sizes and settings, and of differences."""

import collections
from collections.abc import Mapping, Sequence

from vit_jax_repro.output.sections import Section, View
from vit_jax_repro.paper import differences, facts, table

_DIFFERENCES = (
  'id',
  'topic',
  'paper, or first',
  'code, or second',
  'what to do',
)
_SHORT, _WIDTH = 24, 96  # characters of a short cell, and of a table


def all_tables(
  found: Sequence[table.Table], other: Sequence[facts.Facts]
) -> View:
  """Returns a view of tables, with their numbers of checkable rows.

  Args:
    found: tables of numbers.
    other: tables of sizes and settings.
  """
  counts = collections.Counter()
  for each in found:
    counts.update(each.counts)
  numbers = Section(
    'Published numbers',
    (
      counted(counts),
      'By table: how many are checked by evaluating a released file, by '
      'fine-tuning one, or not at all.',
    ),
    ('table', '>numbers', '>evaluate', '>fine-tune', '>not', 'about'),
    tuple(
      (
        each.name,
        str(each.num_rows),
        *(str(each.counts[status] or '') for status in table.STATUSES),
        each.title,
      )
      for each in found
    ),
  )
  settings = Section(
    'Sizes and settings',
    (),
    ('table', '>rows', 'about'),
    tuple((each.name, str(len(each.rows)), each.title) for each in other),
  )
  records = [
    _record(each, each.num_rows, each.counts, each.source) for each in found
  ]
  without = dict.fromkeys(table.STATUSES, '')
  records += [_record(each, len(each.rows), without, '') for each in other]
  sections = tuple(s for s in (numbers, settings) if s.rows)
  return View(sections, tuple(records))


def all_differences(found: Sequence[differences.Difference]) -> View:
  """Returns a view of differences, grouped by scope."""
  by_scope = {}
  for each in found:
    by_scope.setdefault(each.scope, []).append(each)
  return View(
    tuple(differing(scope, each) for scope, each in by_scope.items()),
    tuple(vars(each) for each in found),
  )


def settings(found: facts.Facts) -> View:
  """Returns a view of a table of sizes or settings.

  Columns of short cells are shown as tables. Long cells follow, one in a line.
  """
  names = [n for n in ('recipe', 'model', 'dataset') if n in found.rows[0]]
  labels = [', '.join(row[name] for name in names) for row in found.rows]
  varying = [column for column in found.varying() if column not in names]
  short = [
    column
    for column in varying
    if max(len(row[column]) for row in found.rows) <= _SHORT
  ]
  same = '; '.join(
    f'{name}: {cell}'
    for name, cell in found.common().items()
    if name not in (*names, 'table')
  )
  sections = [Section(heading(found), (f'For all: {same}.',) if same else ())]
  for columns in _side_by_side(found.rows, short, max(map(len, labels))):
    heads = ('', *(column.replace('_', ' ') for column in columns))
    rows = tuple(
      (label, *(row[column] for column in columns))
      for label, row in zip(labels, found.rows, strict=True)
    )
    sections.append(Section('', (), heads, rows))
  lines = tuple(
    (label, column.replace('_', ' '), row[column])
    for label, row in zip(labels, found.rows, strict=True)
    for column in varying
    if column not in short and row[column]
  )
  if lines:
    sections.append(Section('', (), ('', '', ''), lines))
  return View(tuple(sections), found.rows)


def differing(title: str, found: Sequence[differences.Difference]) -> Section:
  """Returns a section of differences."""
  return Section(
    title,
    (),
    _DIFFERENCES,
    tuple(
      (
        each.id,
        each.topic if each.status != 'open' else f'{each.topic} (open)',
        each.first,
        each.second,
        '\n'.join(filter(None, (each.handling, each.note))),
      )
      for each in found
    ),
  )


def heading(entry: table.Table | facts.Facts) -> str:
  """Returns 'ViT Table 7: ResNets pre-trained with Adam and with SGD'."""
  return f'{entry.name}: {entry.title}'


def counted(counts: Mapping[str, int]) -> str:
  """Returns '84 numbers: 8 by evaluating a released file, ...'.

  Args:
    counts: {status: number of rows}.
  """
  words = (
    'by evaluating a released file',
    'by fine-tuning one',
    'not checkable',
  )
  parts = [
    f'{counts[status]} {text}'
    for status, text in zip(table.STATUSES, words, strict=True)
    if counts[status]
  ]
  number = sum(counts.values())
  return f'{number} number{"s"[: number != 1]}: {", ".join(parts)}.'


def _record(entry, number, counts, source):
  return {
    'table': entry.name,
    'rows': number,
    **counts,
    'title': entry.title,
    'source': source,
  }


def _side_by_side(rows, columns, label_width):
  """Yields groups of columns that fit into _WIDTH."""
  group, width = [], label_width
  for column in columns:
    heads = map(len, column.split('_'))
    wanted = 3 + max(*heads, *(len(row[column]) for row in rows))
    if group and width + wanted > _WIDTH:
      yield group
      group, width = [], label_width
    group.append(column)
    width += wanted
  if group:
    yield group
