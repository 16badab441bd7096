"""Tables and progress on the terminal, drawn by rich.

A cell is folded between its words, never inside one, so that names of files and
data sets stay whole. A table that is too wide for this is printed as blocks:
for each row the lines `column  cell`.
"""

import contextlib
import dataclasses
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax_repro.errors import printable
from vit_jax_repro.output.sections import (
  UNBROKEN,
  Section,
  justification,
  without_empty_columns,
)

# Characters per line when stdout is not a terminal: of text, of numbers.
_WIDTH, _NUMBERS_WIDTH = 100, 120
_LEAST_WIDTH = 40
# No column of texts is folded to fewer characters: in a line of `_WIDTH` or
# more, and in a shorter one.
_TEXT_WIDTH, _SHORT_LINE_TEXT_WIDTH = 15, 24


def console(*, width: int = _WIDTH) -> Any:
  """Returns a rich Console on stdout without markup or highlighting.

  Args:
    width: characters per line when stdout is not a terminal and the environment
      variable COLUMNS is not a number.
  """
  from rich import console

  out = console.Console(markup=False, highlight=False)
  if not out.is_terminal and not os.environ.get('COLUMNS', '').isdigit():
    out.width = width
  out.width = max(out.width, _LEAST_WIDTH)
  return out


def terminal(sections: Sequence[Section], *, paged: bool = False) -> None:
  """Prints sections as tables.

  Args:
    sections: the sections to print.
    paged: show them in the pager (the environment variable PAGER, or less), if
      stdout is a terminal.
  """
  out = console()
  is_paged = paged and out.is_terminal
  if is_paged:
    os.environ.setdefault('LESS', 'FRX')  # ends at once if all fits the screen
  with out.pager() if is_paged else contextlib.nullcontext():
    for section in map(_printable, map(without_empty_columns, sections)):
      _print_section(out, section)


def numbers(
  title: str,
  columns: Sequence[str],
  rows: Sequence[Sequence[str]],
  *,
  caption: str | None = None,
) -> None:
  """Prints a table of numbers: right-aligned after a first column of names.

  Args:
    title, caption: lines above and below the table.
    columns: their names.
    rows: their cells.
  """
  first, *others = columns
  columns = (first, *(f'>{name}' for name in others))
  out = console(width=_NUMBERS_WIDTH)
  _draw(out, columns, rows, title=title, caption=caption)


def pairs(rows: Mapping[str, str]) -> None:
  """Prints a table of two columns without a header: names and values."""
  cells = [(printable(name), _lines(value)) for name, value in rows.items()]
  _draw(console(), ('', ''), cells)


def table(
  columns: Sequence[str],
  rows: Sequence[Sequence[str]],
  *,
  title: str | None = None,
  width: int = _WIDTH,
) -> None:
  """Prints a table with lines around it.

  Args:
    columns: their names; '>' before a name aligns the column to the right.
    rows: their cells.
    title: line above the table.
    width: see `console`.
  """
  cells = [tuple(map(_lines, row)) for row in rows]
  _draw(console(width=width), columns, cells, title=title)


def _print_section(out, section):
  from rich import box

  if section.title:
    _print(out, f'\n{_wrapped(section.title, out.width)}', style='bold')
  for text in section.text:
    _print(out, _wrapped(text, out.width))
  if section.rows:
    out.print()
    style = {'box': box.SIMPLE, 'pad_edge': False}
    _draw(out, section.columns, section.rows, show_edge=False, **style)
    out.print()


def _draw(out, columns, rows, *, title=None, caption=None, **style):
  """Prints a table; as blocks if it is too wide for `out`."""
  from rich import table

  names = [name.removeprefix('>') for name in columns]
  are_numbers = all(justification(name) == 'right' for name in columns[1:])
  widths = None
  for padding in (1, 0) if are_numbers else (1,):  # numbers may be closer
    frame = _frame(len(names), padding, is_plain=bool(style))
    widths = _column_widths(columns, rows, out.width, frame)
    if widths:
      break
  if title:
    _print(out, _wrapped(title, out.width), style='italic')
  if widths is None:
    for text in _blocks(names, rows, out.width):
      _print(out, text)
  else:
    # Above, right, below, left. rich 13 cuts cells if neighbours share it.
    around = (0, padding, 0, 0 if style else padding)
    grid = table.Table(show_header=any(names), padding=around, **style)
    for column, name, width in zip(columns, names, widths, strict=True):
      grid.add_column(
        name, justify=justification(column), width=width, overflow='fold'
      )
    for row in rows:
      grid.add_row(*row)
    out.print(grid)
  if caption:
    _print(out, _wrapped(caption, out.width), style='dim italic')


def _frame(number, padding, *, is_plain):
  """Returns the characters of a line that rich does not use for cells."""
  if is_plain:  # no edges; rich 13 also pads the last column
    return (1 + padding) * (number - 1) + padding
  return (1 + 2 * padding) * number + 1


def _column_widths(columns, rows, width, frame):
  """Returns the widths of columns in which words are whole, or None.

  Args:
    columns: their names; one with '>' has numbers, which are not folded.
    rows: their cells.
    width: number of characters per line.
    frame: number of characters between the columns and around them.
  """
  text_width = _TEXT_WIDTH if width >= _WIDTH else _SHORT_LINE_TEXT_WIDTH
  widths, least = [], []
  for i, column in enumerate(columns):
    name = column.removeprefix('>')
    cells = '\n'.join(row[i] for row in rows)
    longest = _longest(cells.split('\n'))
    widths.append(max(longest, _longest(name.split('\n'))))
    if justification(column) == 'right':
      words = longest
    else:
      words = max(_longest(cells.split()), min(longest, text_width))
    least.append(max(words, _longest(name.split())))
  if sum(least) + frame > width:
    return None
  for _ in range(sum(widths) + frame - width):
    widest = max(
      (i for i in range(len(widths)) if widths[i] > least[i]),
      key=widths.__getitem__,
    )
    widths[widest] -= 1
  return widths


def _longest(texts):
  from rich import cells

  return max(map(cells.cell_len, texts), default=0)


def _blocks(names, rows, width):
  """Yields the rows as texts of lines `name  cell`, without empty cells.

  A cell without a name is a line of its own. If no cell has a name, the first
  cell of a row is the name of the others.
  """
  named = any(names)
  keys = [' '.join(name.split()) for name in names]
  indent = 2 + _longest(keys if named else [row[0] for row in rows])
  for row in rows:
    if named:
      heads = [cell for key, cell in zip(keys, row, strict=True) if not key]
      yield from (head.replace('\n', ', ') for head in heads)
      lines = [x for x in zip(keys, row, strict=True) if all(x)]
    else:
      lines = [(row[0], '\n'.join(row[1:]))]
    yield '\n'.join(
      [_wrapped(f'{key:{indent}}{text}', width, indent) for key, text in lines]
      + [''] * named
    )


def _wrapped(text, width, indent=0):
  """Returns a text whose lines are broken between words."""
  first, *others = text.split('\n')
  lines = [first, *(' ' * indent + line for line in others)]
  return '\n'.join(_filled(line, width, indent) for line in lines)


def _filled(line, width, indent):
  indent = indent or len(line) - len(line.lstrip())
  text = textwrap.fill(
    line,
    width,
    subsequent_indent=' ' * indent,
    break_long_words=False,
    break_on_hyphens=False,
  )
  return text.replace(UNBROKEN, ' ')


def _print(out, text, style=None):
  """Prints lines that have their width already."""
  out.print(text, style=style, soft_wrap=True)


def _lines(text):
  """Returns a cell, of several lines, without other unprintable characters."""
  return '\n'.join(map(_line, text.split('\n')))


def _line(text):
  """Returns a line without unprintable characters but UNBROKEN."""
  return UNBROKEN.join(map(printable, text.split(UNBROKEN)))


def _printable(section):
  return dataclasses.replace(
    section,
    title=printable(section.title),
    text=tuple(map(_lines, section.text)),
    columns=tuple(map(_lines, section.columns)),
    rows=tuple(tuple(map(_lines, row)) for row in section.rows),
  )


def progress_console() -> Any:
  """Returns the rich Console on stderr that progress bars are drawn on."""
  from rich import console

  out = console.Console(file=sys.stderr, highlight=False)
  if out.is_jupyter:  # where rich would make a block of HTML of each line
    out = console.Console(
      file=sys.stderr,
      highlight=False,
      force_jupyter=False,
      force_terminal=False,
    )
  return out
