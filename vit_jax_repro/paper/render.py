"""Views on the terminal, as Markdown and as CSV."""

import csv
import io
import textwrap

from vit_jax_repro.paper.sections import View

_WIDTH = 100  # columns where nobody's terminal says
# Of the first column, which is not folded beyond that; of few, and of many.
_NAME_WIDTH, _NARROW, _MANY = 40, 24, 5
# Of Markdown and of the HTML in it.
_ESCAPED = {c: f'\\{c}' for c in '\\|*`'} | {'<': '&lt;', '\n': '<br>'}


def terminal(view: View) -> None:
  """Prints the sections as tables."""
  from rich import box, console, table

  out = console.Console(markup=False, highlight=False)
  if not out.is_terminal:
    out = console.Console(markup=False, highlight=False, width=_WIDTH)
  for section in view.sections:
    if section.title:
      out.print(f'\n{section.title}', style='bold')
    for text in section.text:
      out.print(text)
    if not section.rows:
      continue
    grid = table.Table(
      box=box.SIMPLE, pad_edge=False, show_header=any(section.columns)
    )
    for name in section.columns:
      grid.add_column(
        name.removeprefix('>'), justify=_justify(name), overflow='fold'
      )
    grid.columns[0].no_wrap = True
    width = _NARROW if len(section.columns) > _MANY else _NAME_WIDTH
    for name, *cells in section.rows:
      lines = (textwrap.fill(line, width) for line in name.splitlines())
      grid.add_row('\n'.join(lines), *cells)
    out.print(grid)


def markdown(view: View) -> str:
  """The sections as a Markdown document."""
  lines = []
  for section in view.sections:
    if section.title:
      lines += [f'{"##" if lines else "#"} {_escape(section.title)}', '']
    for text in section.text:
      lines += [_escape(text), '']
    if section.rows:
      names = [name.removeprefix('>') for name in section.columns]
      lines.append(_row(names))
      rules = {'left': '---', 'right': '---:'}
      lines.append(_row([rules[_justify(n)] for n in section.columns]))
      lines += [_row(row) for row in section.rows]
      lines.append('')
  return '\n'.join(lines)


def as_csv(view: View) -> str:
  """The records as CSV, with a head; all digits."""
  out = io.StringIO()
  writer = csv.DictWriter(out, list(view.records[0]), lineterminator='\n')
  writer.writeheader()
  writer.writerows(view.records)
  return out.getvalue()


def _justify(name):
  return 'right' if name.startswith('>') else 'left'


def _row(cells):
  return f'| {" | ".join(map(_escape, cells))} |'


def _escape(text):
  return ''.join(_ESCAPED.get(c, c) for c in text)
