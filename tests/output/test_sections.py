import io
import sys

import pytest

from vit_jax_repro.output import reports, sections

pytestmark = pytest.mark.quick

LAYERS = sections.Section(
  'Layers',
  ('One sentence.',),
  ('layer', 'max abs', 'relative', 'cosine', 'tolerance', ''),
  (
    (
      'Transformer/posembed_input',
      '2.38e-05',
      '2.71e-06',
      '-0.999999',
      '2.31e-04',
      'first',
    ),
  ),
)
CAUSES = sections.Section(
  'Causes',
  (),
  ('cause', 'the port', 'effect', 'then off by', ''),
  (
    (
      'position embeddings resized',
      'bicubic, half-pixel centres, antialiased',
      '1.23e+04',
      '5.67e+03',
      'indistinguishable',
    ),
  ),
)


def shown(monkeypatch, columns):
  """Returns the text printed to a stdout that is no terminal."""
  monkeypatch.delenv('COLUMNS', raising=False)
  if columns is not None:
    monkeypatch.setenv('COLUMNS', str(columns))
  out = io.StringIO()
  monkeypatch.setattr(sys, 'stdout', out)
  reports.terminal([LAYERS, CAUSES])
  return out.getvalue()


@pytest.mark.parametrize('columns', [None, 60, 80, 200])
def test_terminal_shows_whole_numbers_at_any_width(monkeypatch, columns):
  text = shown(monkeypatch, columns)
  assert '\u2026' not in text
  for part in (LAYERS, CAUSES):
    for cell in (*part.columns[2:], *part.rows[0][2:]):
      assert cell in text
  assert max(map(len, text.splitlines())) <= (columns or 100)


def test_terminal_prints_a_layer_on_one_line_of_80(monkeypatch):
  lines = shown(monkeypatch, 80).splitlines()
  (line,) = (line for line in lines if 'posembed_input' in line)
  assert line.split() == list(LAYERS.rows[0])


def test_markdown_separates_paragraphs_and_escapes_bars():
  bars = sections.Section('Second', ('a', 'b'), ('x', ''), (('1|2', ''),))
  assert sections.markdown([LAYERS, bars]).splitlines()[-9:] == [
    '## Second',
    '',
    'a',
    '',
    'b',
    '',
    '| x |',
    '| --- |',
    '| 1\\|2 |',
  ]


def test_columns_without_a_filled_cell_are_omitted():
  empty = sections.Section('T', (), ('a', '>b', 'c'), (('1', '', ''),) * 2)
  kept = sections.without_empty_columns(empty)
  assert kept.columns == ('a',) and kept.rows == (('1',), ('1',))
  assert '| a |' in sections.markdown([empty])
