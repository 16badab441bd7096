"""Files of rows, written as the rows come: CSV, JSON, JSON lines, arrays.

A file appears under its name when all rows are written. Names of files may
hold any bytes: a CSV file gets the same bytes, and JSON escapes those that are
not UTF-8 ('\\udcff' for the byte FF, as Python's os.fsdecode reads it).
"""

import contextlib
import csv
import io
import json
import os
import re
import textwrap
from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from vit_jax_repro.output import files

# A text that spreadsheets take for a formula, after any apostrophes.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
Write = Callable[[Any], None]


@contextlib.contextmanager
def json_array(path: str | os.PathLike) -> Generator[Write]:
  """Yields a function that adds a value to the JSON array in a file."""
  with _text(path) as file:
    before = '[\n'

    def write(value):
      nonlocal before
      text = json.dumps(value, indent=2, allow_nan=False)
      file.write(before + textwrap.indent(text, '  '))
      before = ',\n'

    yield write
    file.write('[]\n' if before == '[\n' else '\n]\n')


@contextlib.contextmanager
def json_lines(path: str | os.PathLike) -> Generator[Write]:
  """Yields a function that writes a value as a line of JSON."""
  with _text(path) as file:

    def write(value):
      file.write(json.dumps(value, allow_nan=False) + '\n')

    yield write


@contextlib.contextmanager
def csv_rows(path: str | os.PathLike) -> Generator[Write]:
  """Yields a function that writes a list of cells; None is an empty cell.

  Spreadsheets take a text that begins with =, +, -, @, a tab or a carriage
  return for a formula, which may read other files and call servers. Such a text
  gets an apostrophe, unless it is a number; `text_of_cell` takes it away.
  """
  with _text(path) as file:

    def write(row):
      # The module quotes what is part of the line's end: here, both characters.
      line = io.StringIO()
      csv.writer(line, lineterminator='\r\n').writerow(map(_harmless, row))
      file.write(line.getvalue().removesuffix('\r\n') + '\n')

    yield write


def _harmless(cell):
  if not isinstance(cell, str) or not _FORMULA.match(cell):
    return cell
  try:
    float(cell)
  except ValueError:
    return f"'{cell}"
  return cell


def text_of_cell(cell: str) -> str:
  """Returns the text for which `csv_rows` wrote a cell.

  This is the cell without its first apostrophe, if a formula follows.
  """
  is_marked = cell.startswith("'") and _FORMULA.match(cell)
  return cell[1:] if is_marked else cell


@contextlib.contextmanager
def _text(path):
  with (
    files.replacing(path) as temporary,
    open(
      temporary, 'w', encoding='utf-8', errors='surrogateescape', newline=''
    ) as file,
  ):
    yield file


@contextlib.contextmanager
def array_rows(
  path: str | os.PathLike, shape: tuple[int, ...]
) -> Generator[Callable[[np.ndarray], None]]:
  """Yields a function that adds a row to the float32 array of an .npy file.

  Args:
    path: path of the file.
    shape: of a row.
  """
  number = 0
  with files.replacing(path) as temporary, open(temporary, 'wb') as file:

    def write_header():
      header = {'descr': '<f4', 'fortran_order': False}
      np.lib.format.write_array_header_1_0(
        file, header | {'shape': (number, *shape)}
      )
      return file.tell()

    def write(row):
      nonlocal number
      assert row.shape == shape
      file.write(np.ascontiguousarray(row, '<f4').tobytes())
      number += 1

    size = write_header()
    yield write
    file.seek(0)
    # NumPy leaves room for more digits of the first axis.
    assert write_header() == size
