"""Views of the published tables, of sizes and settings, and of differences."""

import collections
import re
from collections.abc import Mapping, Sequence

from vit_jax_repro.output.sections import Section, View, unbroken
from vit_jax_repro.paper import differences, facts, table

# Topics of differences, by the last word of their scope.
_TOPICS = {
  'model': 'Models',
  'pre-train': 'Pre-training',
  'train': 'Pre-training',
  'distillation': 'Pre-training',
  'ViT': 'Pre-training',  # plain ViT
  'fine-tune': 'Fine-tuning',
  'eval': 'Evaluation',
  'evaluation': 'Evaluation',
  'results': 'Published numbers',
  're_vit': 'Published numbers',
}
_ABOUT_DIFFERENCES = (
  'pvc-01 to pvc-{last} name places where a paper and released code differ '
  '("paper versus code"), where two codes differ, or where a paper contradicts '
  'itself. Verdicts, notes and documents refer to these names. `reproduce '
  'differences pvc-01` shows one, `reproduce differences dropout` those on '
  'dropout.'
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


def by_source(
  found: Sequence[table.Table], other: Sequence[facts.Facts]
) -> View:
  """Returns a view of all tables with one row for each source.

  Args:
    found: tables of numbers.
    other: tables of sizes and settings.
  """
  full = all_tables(found, other)
  grouped = {}
  for each in found:
    # Versions of a source, in brackets or after a comma, are one row.
    name = re.split(r'[,(]| arXiv| history| README| vit_jax', each.source)[0]
    grouped.setdefault(name.strip(), []).append(each)
  lines = [
    f'{source} ({sum(each.num_rows for each in tables)}; '
    f'{_checkable(tables)} to check): {_names(tables)}'
    for source, tables in grouped.items()
  ]
  lines.append(f'Sizes and settings: {_names(other)}')
  section = Section(
    'Published numbers',
    (
      full.sections[0].text[0],
      '`reproduce show TABLE` shows a table, such as "ViT Table 5". `reproduce '
      'list vit` explains the tables with "vit" in their names or subjects. By '
      'source, with the number of numbers:\n',
      *lines,
    ),
  )
  return View((section,), full.records)


def _names(tables):
  return '; '.join(unbroken(each.name) for each in tables)


def _checkable(tables):
  return sum(each.num_rows - each.counts[table.NOT] for each in tables)


def all_differences(found: Sequence[differences.Difference]) -> View:
  """Returns a view of differences, grouped by topic."""
  by_topic = {topic: [] for topic in _TOPICS.values()}
  for each in found:
    by_topic[_TOPICS[each.scope.split()[-1]]].append(each)
  last = differences.all_differences()[-1].id.removeprefix('pvc-')
  about = Section(
    'Where papers and code differ', (_ABOUT_DIFFERENCES.format(last=last),)
  )
  return View(
    (
      about,
      *(differing(topic, each) for topic, each in by_topic.items() if each),
    ),
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
  """Returns a section of differences, a paragraph for each."""
  return Section(title, tuple(map(_difference, found)))


def _difference(each):
  """Returns a line with the name of a difference, and its sentences."""
  first, *others = each.source.split('; ')
  second = ' and '.join(others)
  state = ', open' if each.status == 'open' else ''
  lines = [f'{each.id}: {each.topic} ({each.scope}{state})']
  if each.first == '-':
    lines.append(_statement(second or first, each.second))
  else:
    lines.append(_statement(first, each.first))
    lines.append(_statement(second or 'But', each.second))
  if each.note:
    lines.append(f'Note: {each.note}.')
  if each.handling not in ('none', ''):
    lines.append(f'What to do: {each.handling}.')
  if each.affects != 'none':
    lines.append(f'Affects: {each.affects}.')
  return '\n  '.join(lines) + '\n'


def _statement(source, text):
  """Returns a sentence that begins with its source."""
  named = text.startswith(source.split()[0])
  return f'{text}.' if named else f'{source}: {text}.'


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
