"""Sections of a report and their text as Markdown and CSV."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

# Escapes for Markdown and for the HTML in it.
_ESCAPED = {c: f'\\{c}' for c in '\\|*`'} | {
  '<': '&lt;',
  '\n': '<br>',
  '\u00a0': ' ',
}
# Space in a paragraph at which no line is broken; printed as a plain space.
UNBROKEN = '\u00a0'
_RULES = {'left': '---', 'right': '---:'}


@dataclasses.dataclass(frozen=True)
class Section:
  """A heading with sentences and a table, each of which may be empty.

  Attributes:
    title: heading; '' continues the section before.
    text: paragraphs.
    columns: names of the columns; '>' before a name aligns it to the right.
    rows: cells of the table; a line break in a cell starts a new line.
  """

  title: str
  text: tuple[str, ...] = ()
  columns: tuple[str, ...] = ()
  rows: tuple[tuple[str, ...], ...] = ()


def unbroken(text: str) -> str:
  """Returns a name or command with spaces at which no line is broken."""
  return text.replace(' ', UNBROKEN)


@dataclasses.dataclass(frozen=True)
class View:
  """Sections for people, and records with the same keys for programs."""

  sections: tuple[Section, ...]
  records: tuple[Mapping[str, Any], ...]


def justification(column: str) -> Literal['left', 'right']:
  """Returns 'right' for a column whose name starts with '>', else 'left'."""
  return 'right' if column.startswith('>') else 'left'


def without_empty_columns(section: Section) -> Section:
  """Returns a section without the columns whose cells are all empty."""
  columns = range(len(section.columns))
  kept = [i for i in columns if any(row[i] for row in section.rows)]
  return dataclasses.replace(
    section,
    columns=tuple(section.columns[i] for i in kept),
    rows=tuple(tuple(row[i] for i in kept) for row in section.rows),
  )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
  """Returns the lines of a Markdown table."""
  return [
    _row([name.removeprefix('>') for name in columns]),
    f'| {" | ".join(_RULES[justification(name)] for name in columns)} |',
    *map(_row, rows),
  ]


def markdown(sections: Sequence[Section]) -> str:
  """Returns the sections as a Markdown document."""
  lines = []
  for section in map(without_empty_columns, sections):
    if section.title:
      lines += [f'{"##" if lines else "#"} {_escape(section.title)}', '']
    for text in section.text:
      lines += [_escape(text), '']
    if section.rows:
      lines += [*table(section.columns, section.rows), '']
  return '\n'.join(lines)


def as_csv(records: Sequence[Mapping[str, Any]]) -> str:
  """Returns records as CSV with a header; numbers keep all their digits."""
  out = io.StringIO()
  writer = csv.DictWriter(out, list(records[0]), lineterminator='\n')
  writer.writeheader()
  writer.writerows(records)
  return out.getvalue()


def _row(cells):
  return f'| {" | ".join(map(_escape, cells))} |'


def _escape(text):
  return ''.join(_ESCAPED.get(c, c) for c in text)
