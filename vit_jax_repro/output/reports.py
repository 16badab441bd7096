"""Tables and progress on the terminal, drawn by rich."""

import dataclasses
import os
import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from vit_jax_repro.errors import printable
from vit_jax_repro.output.sections import Section, justification

# Characters per line when stdout is not a terminal: of text, of numbers.
_WIDTH, _NUMBERS_WIDTH = 100, 120
# Width of a folded first column in tables of few columns, and of more than
# `_MANY` columns.
_NAME_WIDTH, _NARROW, _MANY = 40, 24, 5


def console(*, width: int = _WIDTH) -> Any:
  """Returns a rich Console on stdout without markup or highlighting.

  Args:
    width: characters per line when stdout is not a terminal.
  """
  from rich import console

  out = console.Console(markup=False, highlight=False)
  if not out.is_terminal:
    out.width = width
  return out


def terminal(
  sections: Sequence[Section], *, foldable: Collection[str] | None = None
) -> None:
  """Prints sections as tables.

  Args:
    sections: the sections to print.
    foldable: names of the columns of long texts. The other columns are never
      folded. By default all but the first column are.
  """
  from rich import box, table

  width = _WIDTH if foldable is None else os.environ.get('COLUMNS', _WIDTH)
  out = console(width=int(width))
  for section in map(_printable, sections):
    if section.title:
      out.print(f'\n{section.title}', style='bold', soft_wrap=True)
    for text in section.text:
      out.print(text, soft_wrap=foldable is not None)
    if not section.rows:
      continue
    grid = table.Table(
      box=box.SIMPLE,
      pad_edge=False,
      show_header=any(section.columns),
      collapse_padding=foldable is not None,
    )
    for name, cells in zip(
      section.columns, zip(*section.rows, strict=True), strict=True
    ):
      title, justify = name.removeprefix('>'), justification(name)
      if foldable is None or title in foldable:
        grid.add_column(title, justify=justify, overflow='fold')
      else:
        longest = max(map(len, (title, *cells)))
        grid.add_column(title, justify=justify, no_wrap=True, min_width=longest)
    rows = section.rows
    if foldable is None:
      grid.columns[0].no_wrap = True
      width = _NARROW if len(section.columns) > _MANY else _NAME_WIDTH
      rows = [(_folded(name, width), *cells) for name, *cells in rows]
    for row in rows:
      grid.add_row(*row)
    out.print(grid)


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
    rows: their cells, none of which is folded.
  """
  from rich import table

  grid = table.Table(title=title, caption=caption)
  grid.add_column(columns[0], no_wrap=True)
  for name in columns[1:]:
    grid.add_column(name, justify='right', no_wrap=True)
  for row in rows:
    grid.add_row(*row)
  console(width=_NUMBERS_WIDTH).print(grid)


def pairs(rows: Mapping[str, str]) -> None:
  """Prints a table of two columns without a header: names and values."""
  from rich import table

  grid = table.Table(show_header=False)
  for name, value in rows.items():
    grid.add_row(printable(name), _lines(value))
  console().print(grid)


def table(
  columns: Sequence[str],
  rows: Sequence[Sequence[str]],
  *,
  title: str | None = None,
  width: int = _WIDTH,
) -> None:
  """Prints a table with lines around it, whose cells are folded.

  Args:
    columns: their names; '>' before a name aligns the column to the right.
    rows: their cells.
    title: line above the table.
    width: see `console`.
  """
  from rich import table

  grid = table.Table(title=title)
  for name in columns:
    grid.add_column(
      name.removeprefix('>'), justify=justification(name), overflow='fold'
    )
  for row in rows:
    grid.add_row(*map(_lines, row))
  console(width=width).print(grid)


def _lines(text):
  """Returns a cell, of several lines, without other unprintable characters."""
  return '\n'.join(map(printable, text.split('\n')))


def _printable(section):
  return dataclasses.replace(
    section,
    title=printable(section.title),
    text=tuple(map(_lines, section.text)),
    columns=tuple(map(printable, section.columns)),
    rows=tuple(tuple(map(_lines, row)) for row in section.rows),
  )


def progress_console() -> Any:
  """Returns the rich Console on stderr that progress bars are drawn on."""
  from rich import console

  return console.Console(file=sys.stderr, highlight=False)


def _folded(text, width):
  return '\n'.join(textwrap.fill(line, width) for line in text.splitlines())
