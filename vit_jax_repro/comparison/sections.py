"""A report's headings, sentences and tables: as Markdown, on the terminal."""

import dataclasses
import os
from collections.abc import Sequence

# Columns of long texts, which are folded where the terminal is narrow; those
# of numbers and marks never are.
_TEXTS = (
  'array', 'cause', 'image', 'layer', 'port', 'reference', 'step', 'the port',
)  # fmt: skip
_WIDTH = 100  # characters, where there is no terminal


@dataclasses.dataclass(frozen=True)
class Section:
  """A heading, what it says in sentences, and a table (or none)."""

  title: str
  text: tuple[str, ...] = ()
  columns: tuple[str, ...] = ()
  rows: tuple[tuple[str, ...], ...] = ()


def markdown(parts: Sequence[Section]) -> str:
  """The sections as a Markdown document."""
  lines = []
  for part in parts:
    lines += [f'{"##" if lines else "#"} {part.title}', '']
    lines += [line for text in part.text for line in (text, '')]
    if part.rows:
      lines.append(_row(part.columns))
      lines.append(_row(['---'] * len(part.columns)))
      lines += [_row(row) for row in part.rows]
      lines.append('')
  return '\n'.join(lines)


def show(parts: Sequence[Section]) -> None:
  """Prints the sections as tables, as wide as the terminal."""
  from rich import box, console, table

  out = console.Console(markup=False, highlight=False)
  if not out.is_terminal and 'COLUMNS' not in os.environ:
    out.width = _WIDTH
  for part in parts:
    out.print(f'\n{part.title}', style='bold', soft_wrap=True)
    for text in part.text:
      out.print(text, soft_wrap=True)
    if not part.rows:
      continue
    grid = table.Table(
      box=box.SIMPLE, pad_edge=False, padding=(0, 1), collapse_padding=True
    )
    for column, cells in zip(
      part.columns, zip(*part.rows, strict=True), strict=True
    ):
      if column in _TEXTS:
        grid.add_column(column, overflow='fold')
      else:
        longest = max(len(cell) for cell in (column, *cells))
        grid.add_column(column, no_wrap=True, min_width=longest)
    for cells in part.rows:
      grid.add_row(*cells)
    out.print(grid)


def _row(cells):
  return f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in cells)} |'
