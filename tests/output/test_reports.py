"""Views on the terminal, as Markdown and as CSV."""

import csv
import io

import pytest

from vit_jax_repro.output import reports, sections
from vit_jax_repro.output.sections import Section, View
from vit_jax_repro.paper import table, views

pytestmark = pytest.mark.quick

VIEW = View(
  (
    Section(
      'Of a|b',
      ('Files *.npz of <task>.',),
      ('', '>paper'),
      (('x|y\n384 px', '85.15'), ('`z`\\ [b]', '')),
    ),
    Section('', ('More.',)),
    Section('End'),
  ),
  ({'name': 'x|y', 'value': 85.15}, {'name': 'a "b", c', 'value': None}),
)


def test_markdown_escapes_special_characters():
  assert sections.markdown(VIEW.sections) == (
    '# Of a\\|b\n'
    '\n'
    'Files \\*.npz of &lt;task>.\n'
    '\n'
    '|  | paper |\n'
    '| --- | ---: |\n'
    '| x\\|y<br>384 px | 85.15 |\n'
    '| \\`z\\`\\\\ [b] |  |\n'
    '\n'
    'More.\n'
    '\n'
    '## End\n'
  )


def test_as_csv_quotes_cells_and_has_all_rows():
  text = sections.as_csv(VIEW.records)
  assert text == 'name,value\nx|y,85.15\n"a ""b"", c",\n'
  rows = table.select('ViT Table 5')
  read = list(csv.DictReader(io.StringIO(sections.as_csv(
    views.numbers(rows, {}).records
  ))))  # fmt: skip
  assert [line['id'] for line in read] == [row.id for row in rows]
  assert {line['verdict'] for line in read} == {'not run', 'not checkable'}


def test_terminal_prints_titles_text_and_cells(capsys):
  reports.terminal(VIEW.sections)
  out = capsys.readouterr().out
  assert out.startswith('\nOf a|b\nFiles *.npz of <task>.\n')
  lines = [line.strip() for line in out.splitlines()]
  assert f'x|y{" " * 8}85.15' in lines and '384 px' in lines and 'End' in lines
  assert '`z`\\ [b]' in lines


def test_terminal_folds_names_last(capsys):
  name = '-'.join(['name'] * 8)  # 39 characters
  cells = ('word ' * 4, 'word ' * 5, 'word ' * 8)
  section = Section('', (), ('row', 'a', 'b', 'c'), ((name, *cells),))
  reports.terminal([section])
  lines = capsys.readouterr().out.splitlines()
  assert any(line.startswith(f' {name} ') for line in lines)
  assert max(len(line.rstrip()) for line in lines) in range(90, 101)


@pytest.mark.parametrize(
  'name',
  [
    'timm results-imagenetv2-matched-frequency.csv',
    'ViT Table 5',
    'README VTAB-1k results',
  ],
)
def test_terminal_shows_all_text_in_100_columns(name, capsys):
  rows = table.select(name)
  reports.terminal(views.numbers(rows, {}).sections)
  out = capsys.readouterr().out
  assert max(map(len, out.splitlines())) <= 100 and '…' not in out
  # Names continue on the next line, at a hyphen where possible.
  shown = ''.join(line[1:41].strip() for line in out.splitlines())
  for row in rows:
    assert table.named(name).short(row) in shown
