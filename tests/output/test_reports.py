"""Views on the terminal, as Markdown and as CSV."""

import csv
import io

import pytest

from vit_jax_repro.output import reports, sections
from vit_jax_repro.output.sections import Section, View
from vit_jax_repro.paper import grids, table, views

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
  assert ['x|y', '85.15'] in [line.split() for line in lines]
  assert '384 px' in lines and 'End' in lines
  assert '`z`\\ [b]' in lines


NAMES = (
  'weights/augreg/R26_S_32-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0.npz',
  'vit-table-5-vit-l-16-imagenet-21k-30-or-90ep-oxford-flowers-102',
  'timm/vit_base_patch16_224.augreg_in21k_ft_in1k',
)  # fmt: skip
WIDTHS = range(60, 201, 7)


def printed(capsys, monkeypatch, width, show):
  monkeypatch.setenv('COLUMNS', str(width))
  show()
  return capsys.readouterr().out


@pytest.mark.parametrize('width', WIDTHS)
def test_no_name_of_a_file_is_cut_at_any_width(width, capsys, monkeypatch):
  texts = 'a text of some words', 'another text, of more words than the first'
  rows = [(name, '85.15', *texts, name) for name in NAMES]
  columns = ('file', '>paper', 'how', 'what to do', 'from')
  long = 'More about ' + ', '.join(NAMES)
  for show in (
    lambda: reports.terminal([Section('T', (long,), columns, tuple(rows))]),
    lambda: reports.table(columns, rows, title=long),
    lambda: reports.numbers('T', columns, rows, caption=long),
    lambda: reports.pairs({'weights': NAMES[0], 'notes': '\n'.join(NAMES)}),
  ):
    out = printed(capsys, monkeypatch, width, show)
    assert '\u2026' not in out
    assert all(name in out for name in NAMES)
    longest = max(max(map(len, NAMES)) + len('what to do  '), width)
    assert max(map(len, out.splitlines())) <= longest


def test_a_wide_table_becomes_blocks_below_100_columns(capsys, monkeypatch):
  rows = (('b16', '85.15', 'word ' * 11, ''), ('l16', '', 'short', 'word ' * 9))
  section = Section('', (), ('row', '>paper', 'first', 'second'), rows)
  show = lambda: reports.terminal([section])  # noqa: E731
  out = printed(capsys, monkeypatch, 60, show)
  assert out == (
    '\n'
    'row     b16\n'
    'paper   85.15\n'
    'first   word word word word word word word word word word\n'
    '        word\n'
    '\n'
    'row     l16\n'
    'first   short\n'
    'second  word word word word word word word word word\n'
    '\n'
    '\n'
  )
  out = printed(capsys, monkeypatch, 100, show)
  assert out.splitlines()[1].split() == ['row', 'paper', 'first', 'second']


def test_the_widest_column_is_folded_first(capsys, monkeypatch):
  section = Section('', (), ('row', 'a'), (('a-b ' * 7, 'word ' * 20),))
  show = lambda: reports.terminal([section])  # noqa: E731
  out = printed(capsys, monkeypatch, 80, show)
  assert max(len(line.rstrip()) for line in out.splitlines()) in range(70, 81)
  assert ' '.join(['a-b'] * 7) in out


@pytest.mark.parametrize(
  'name',
  [
    'timm results-imagenetv2-matched-frequency.csv',
    'ViT Table 5',
    'README VTAB-1k results',
    'README recommended AugReg checkpoints',
  ],
)
@pytest.mark.parametrize('width', [60, 80, 100, 160])
def test_tables_keep_ids_whole_within_the_width(
  name, width, capsys, monkeypatch
):
  rows = table.select(name)
  sections = views.numbers(rows, {}).sections
  out = printed(capsys, monkeypatch, width, lambda: reports.terminal(sections))
  assert '\u2026' not in out
  for row in rows:
    assert table.named(name).short(row) in out
  # Only a name may be longer than a line.
  long = [line for line in out.splitlines() if len(line) > width]
  assert all(len(line.split()) <= 2 for line in long)


def test_columns_of_numbers_move_closer_before_they_become_blocks(
  capsys, monkeypatch
):
  """ViT Table 6 has 81 characters with two spaces between its columns."""
  sections = grids.grid(table.select('ViT Table 6'), {}).sections
  out = printed(capsys, monkeypatch, 80, lambda: reports.terminal(sections))
  (line,) = (line for line in out.splitlines() if 'CIFAR-10 ' in line)
  assert 'CIFAR-10 CIFAR-100' in line
  assert max(map(len, out.splitlines())) <= 80
