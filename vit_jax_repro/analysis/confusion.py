"""Confusion matrices as CSV files and pictures."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax_repro.analysis import pictures
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import rows

ENDINGS = ('.csv', '.png')
_MOST_NAMES = 40  # classes whose names are written at the axes
_MOST_NUMBERS = 20  # classes whose counts are written into the cells
_LONGEST = 24  # letters of a name at an axis


def check_ending(path: str | os.PathLike) -> None:
  """Raises an InputError if a path does not end in one of ENDINGS."""
  if os.path.splitext(path)[1].lower() not in ENDINGS:
    raise InputError(
      f'{os.fspath(path)!r} must end in {" or ".join(ENDINGS)}, the kinds of '
      'files that are written'
    )


def write(
  path: str | os.PathLike, matrix: np.ndarray, columns: Sequence[str]
) -> None:
  """Writes a confusion matrix.

  Args:
    path: of a CSV file, with the class of each row in the first column, or of a
      picture.
    matrix: [K, K + 2] counts, see each_image.EachImage.confusion.
    columns: the names of the columns; the first K are those of the rows.

  Raises:
    InputError: the path does not end in one of ENDINGS.
    OSError: the file cannot be written; an existing file is unchanged.
  """
  check_ending(path)
  if os.path.splitext(path)[1].lower() == '.png':
    pictures.save(draw(matrix, columns), path)
    return
  with rows.csv_rows(path) as write_row:
    write_row(['class', *columns])
    for name, counts in zip(columns, matrix.tolist(), strict=False):
      write_row([name, *counts])


def draw(matrix: np.ndarray, columns: Sequence[str]) -> Any:
  """Returns a matplotlib Figure of a confusion matrix.

  Colours are parts of a row, so that small classes are as visible as large
  ones. Columns after the classes are left out if they are empty.
  """
  number = len(matrix)
  kept = [*range(number)]
  kept += [i for i in range(number, len(columns)) if matrix[:, i].any()]
  counts = matrix[:, kept]
  total = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
  parts = counts / total
  side = min(2.5 + 0.3 * len(kept), 14)
  figure = pictures.new(side + 0.8, side)
  axis = figure.subplots()
  image = axis.imshow(parts, cmap='Blues', vmin=0, vmax=1, aspect='auto')
  axis.set(xlabel='predicted', ylabel='class in the data set')
  names = [_short(columns[i]) for i in kept]
  if number <= _MOST_NAMES:
    axis.set_xticks(range(len(kept)), names, rotation=90, fontsize=7)
    axis.set_yticks(range(number), names[:number], fontsize=7)
  if number <= _MOST_NUMBERS:
    for (row, column), count in np.ndenumerate(counts):
      if count:
        colour = 'white' if parts[row, column] > 0.5 else 'black'
        axis.text(
          column, row, str(count), ha='center', va='center', color=colour,
          fontsize=7,
        )  # fmt: skip
  figure.colorbar(image, label="part of the class's images")
  return figure


def _short(name):
  name = name if len(name) <= _LONGEST else f'{name[: _LONGEST - 3]}...'
  return pictures.escape_mathtext(name)
