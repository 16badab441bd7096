"""Reading labels.csv: the files of images, each with its labels.

  file,label            file,label,label,label
  1.jpg,cat             1.jpg,cat,grass,
  2.jpg,dog             more/2.jpg,,,

With one column `label`, each image has exactly one label. With two or more, an
image may have several labels or none; cells that are not needed are empty. The
text is UTF-8, with or without a byte order mark; the names of files have the
same bytes as on the disk, whatever they are. Cells are separated by commas
and may be in double quotes; spaces around them are dropped. Empty lines are
dropped, too. An apostrophe before =, +, - or @ is dropped: the CSV files of
`predict` have it, so that spreadsheets see no formula. Whatever else differs
from this form is refused with its line.

This module knows no splits: a file is a path relative to some folder.
"""

import csv
import io
import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from vit_jax_repro.data import class_checks, trees
from vit_jax_repro.data import folder_listing as listing
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import rows as row_files
from vit_jax_repro.output.messages import MOST_NAMES, is_unicode, quoted, short

NAME = 'labels.csv'
FORM = 'file,label or file,label,label,...'
_BEGINNINGS_OF_UTF16 = (b'\xff\xfe', b'\xfe\xff')
_OTHER_SEPARATORS = {';': 'semicolons', '\t': 'tabs'}


class Row(NamedTuple):
  """A row of labels.csv."""

  file: str  # with /, without . and ..
  labels: tuple[str, ...]
  line: int  # in the file, from 1


class LabelFile(NamedTuple):
  """The contents of a labels.csv."""

  path: str
  rows: tuple[Row, ...]
  has_several: bool  # whether an image may have several labels, or none

  def at(self, line: int) -> str:
    """Returns a line's place for messages: 'pets/labels.csv, line 3'."""
    return f'{self.path}, line {line}'


def read(path: str | os.PathLike) -> LabelFile:
  """Reads a labels.csv, without looking at the images.

  Raises:
    InputError: the file has another form, an image twice, or no row.
    OSError: the file cannot be read.
  """
  path = os.fspath(path)
  lines = _lines(path, trees.read_bytes(path))
  number, header = next(lines, (1, []))
  columns = _label_columns(path, number, header)
  rows, seen = [], {}  # {file: line}
  for number, cells in lines:
    where = f'{path}, line {number}'
    if len(cells) > columns + 1:
      raise InputError(
        f'{where} has {len(cells)} cells and the header {columns + 1}: put a '
        'text with a comma in double quotes, or add columns `label` to the '
        'header'
      )
    name = _file(where, cells[0])
    if name in seen:
      raise InputError(
        f'{where} names {quoted(name)} again, after line {seen[name]}; keep one'
      )
    seen[name] = number
    labels = _labels(where, cells[1:], has_several=columns > 1)
    rows.append(Row(name, labels, number))
  if not rows:
    raise InputError(f'{path} has no row below its header; add images')
  return LabelFile(path, tuple(rows), columns > 1)


def check_spellings(files: Iterable[LabelFile]) -> None:
  """Refuses labels that are spelt in two ways, such as Cat and cat.

  Args:
    files: the files of one data set.

  Raises:
    InputError: two labels differ only in letter case, or in how accents are
      stored; the message has the line of each.
  """
  first = first_lines(files)
  pair = class_checks.spelt_twice(first)
  if pair is not None:
    one, other = pair
    raise InputError(
      f'{first[other]}: the label {other!a} differs from {one!a} '
      f'({first[one]}) only in letter case or in how accents are stored; give '
      'them one name'
    )


def first_lines(files: Iterable[LabelFile]) -> dict[str, str]:
  """Returns {label: the place of the first row that has it}."""
  first: dict[str, str] = {}
  for file in files:
    for row in file.rows:
      for label in row.labels:
        first.setdefault(label, file.at(row.line))
  return first


def refuse_lost(file: LabelFile, lost: Sequence[Row]) -> None:
  """Raises if there are rows whose image does not exist.

  Raises:
    InputError: `lost` is not empty; the message has the first lines.
  """
  if not lost:
    return
  lost = sorted(lost, key=lambda row: row.line)
  shown = ', '.join(
    f'line {row.line} {quoted(row.file)}' for row in lost[:MOST_NAMES]
  )
  more = len(lost) - MOST_NAMES
  shown += f' and {more} more' if more > 0 else ''
  hint = ''
  if any('\\' in row.file for row in lost):
    hint = ' write folders with /, not \\;'
  if not all(is_unicode(row.file) for row in lost):
    hint += ' if their names are UTF-8, save the file as CSV in UTF-8;'
  raise InputError(
    f'{file.path} names {len(lost)} images that do not exist ({shown});{hint} '
    'mend or remove these rows'
  )


def _lines(path, data) -> Iterator[tuple[int, list[str]]]:
  """Yields the line number and the cells of each row that is not empty."""
  if data.startswith(_BEGINNINGS_OF_UTF16):
    raise InputError(f'{path} is UTF-16; save it as CSV in UTF-8')
  text = data.decode('utf-8-sig', 'surrogateescape')  # as in names of files
  reader = csv.reader(io.StringIO(text, newline=''), strict=True)
  while True:
    number = reader.line_num + 1
    try:
      cells = next(reader, None)
    except csv.Error as error:
      raise InputError(
        f'{path}, line {number} is no line of a CSV file: {error}; mend its '
        'quotes'
      ) from None
    if cells is None:
      return
    cells = [row_files.text_of_cell(cell.strip()) for cell in cells]
    if any(cells):
      yield number, cells


def _label_columns(path, number, header):
  """Returns the number of columns of labels."""
  if len(header) > 1 and header == ['file'] + ['label'] * (len(header) - 1):
    return len(header) - 1
  first = header[0] if header else ''
  for separator, name in _OTHER_SEPARATORS.items():
    if separator in first:
      raise InputError(
        f'{path} is separated by {name}; save it with commas, with the header '
        f'{FORM}'
      )
  shown = short(','.join(header))
  raise InputError(
    f'{path}, line {number} is {shown!r}; the first line must be the header '
    f'{FORM}'
  )


def _file(where, cell):
  if not cell:
    raise InputError(f'{where} names no file; put one in its first cell')
  name = posixpath.normpath(cell)
  if posixpath.isabs(name) or name.split('/')[0] in ('..', '.'):
    raise InputError(
      f'{where} names {quoted(cell)}; files must be below the folder of the '
      'labels.csv'
    )
  return name


def _labels(where, cells, *, has_several):
  labels = tuple(cell for cell in cells if cell)
  for label in labels:
    if not is_unicode(label):
      raise InputError(
        f'{where} has the label {quoted(label)}, which is not UTF-8; save the '
        'file as CSV in UTF-8'
      )
    if '|' in label or ';' in label or not label.isprintable():
      raise InputError(
        f'{where} has the label {quoted(label)}; write each label in a cell of '
        'its own, without | and ; and line breaks'
      )
    if labels.count(label) > 1:
      raise InputError(f'{where} has the label {quoted(label)} twice')
  if not labels and not has_several:
    raise InputError(
      f'{where} has no label; add it, or remove the row (the header '
      'file,label,label allows images without a label)'
    )
  return labels


def is_of_data(path: str | os.PathLike, folder: str) -> bool:
  """Returns whether a file is an image below `folder`, or has their labels.

  Args:
    path: path of a file, which may be missing.
    folder: path of a folder, or another name of a data set.
  """
  if not os.path.isdir(folder) or not os.path.exists(path):
    return False
  for place in (os.path.abspath, os.path.realpath):
    is_below = place(path).startswith(os.path.join(place(folder), ''))
    name = os.path.basename(place(path))
    if is_below and (name == NAME or listing.is_image(name)):
      return True
  return False
