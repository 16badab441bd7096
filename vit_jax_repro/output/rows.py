"""Files of rows, written as the rows come: CSV, JSON, JSON lines.

A file appears under its name when all rows are written. Names of files may
hold any bytes: a CSV file gets the same bytes, and JSON escapes those that are
not UTF-8 ('\\udcff' for the byte FF, as Python's os.fsdecode reads it).
"""

import contextlib
import csv
import json
import os
import textwrap
from collections.abc import Callable, Generator
from typing import Any

from vit_jax_repro.output import files

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
  """Yields a function that writes a list of cells; None is an empty cell."""
  with _text(path) as file:
    yield csv.writer(file, lineterminator='\n').writerow


@contextlib.contextmanager
def _text(path):
  with (
    files.replacing(path) as temporary,
    open(
      temporary, 'w', encoding='utf-8', errors='surrogateescape', newline=''
    ) as file,
  ):
    yield file
