"""Shared parts of all figures: canvas, colours, picture and array files.

Figures are matplotlib Figures made without pyplot, so that no figure stays open
and no display is needed.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax_repro.errors import InputError, printable
from vit_jax_repro.output import files

ENDINGS = ('.png', '.svg')
# Colours that the colour-blind can distinguish (Okabe and Ito).
BLUE, ORANGE, GREEN, RED, SKY = (
  '#0072B2', '#E69F00', '#009E73', '#D55E00', '#56B4E9',
)  # fmt: skip
GREY = '#777777'
COLOURS = (BLUE, ORANGE, GREEN, RED, SKY, '#CC79A7', '#000000')
MARKERS = 'osD^vP*'
_DPI = 120  # for PNG files
_LONGEST = 500  # inches; matplotlib draws fewer than 2**16 pixels


def new(width: float, height: float, *, images: bool = False) -> Any:
  """Returns an empty matplotlib Figure.

  Args:
    width, height: size in inches.
    images: whether the panels are images, which keep their aspect ratio.

  Raises:
    InputError: the size exceeds the largest that matplotlib can draw.
  """
  from matplotlib.figure import Figure

  if max(width, height) > _LONGEST:
    raise InputError(
      f'the picture would be {width:.0f} x {height:.0f} inches, above '
      f'{_LONGEST}; draw fewer images, layers or heads'
    )
  # The constrained layout cuts off labels of panels with fixed aspect ratio.
  layout = 'compressed' if images else 'constrained'
  return Figure(figsize=(width, height), dpi=_DPI, layout=layout)


def check_ending(path: str | os.PathLike) -> None:
  """Raises an InputError if a path does not end in one of `ENDINGS`."""
  ending = os.path.splitext(path)[1].lower()
  if ending not in ENDINGS:
    raise InputError(
      f'{os.fspath(path)!r} must end in {" or ".join(ENDINGS)}, the kinds of '
      'pictures that are written'
    )


def save(figure: Any, path: str | os.PathLike) -> None:
  """Writes a figure; equal figures give equal bytes.

  Raises:
    InputError: the path does not end in one of `ENDINGS`.
    OSError: the file cannot be written; an existing file is unchanged.
  """
  import matplotlib

  check_ending(path)
  kind = os.path.splitext(path)[1][1:].lower()
  metadata = {'Date': None} if kind == 'svg' else {'Software': None}
  with (
    files.replacing(path) as temporary,
    matplotlib.rc_context({'svg.hashsalt': 'vit_jax_repro'}),
    warnings.catch_warnings(),
  ):
    warnings.filterwarnings('ignore', message='Glyph')  # a box is drawn
    figure.savefig(temporary, format=kind, metadata=metadata)


def arrays(found: Any) -> dict[str, np.ndarray]:
  """Returns the fields of a record as arrays.

  Args:
    found: a record, or a sequence of records of one type, whose arrays have an
      entry for each record.
  """
  if isinstance(found, Sequence):
    names = vars(found[0]) if found else ()
    return {
      name: np.array([getattr(each, name) for each in found]) for name in names
    }
  return {name: np.asarray(value) for name, value in vars(found).items()}


def save_arrays(path: str | os.PathLike, named: Mapping[str, Any]) -> None:
  """Writes an .npz file of numbers and texts, without pickled objects.

  Raises:
    InputError: the path does not end in .npz.
    OSError: the file cannot be written; an existing file is unchanged.
  """
  check_arrays_ending(path)
  with files.replacing(path) as temporary, open(temporary, 'wb') as file:
    for name, value in named.items():
      # NumPy before 2.2 takes no `allow_pickle` here, and would store one.
      if np.asarray(value).dtype.hasobject:
        raise ValueError(f'{name} is an array of objects, not of numbers')
    np.savez_compressed(file, **named)


def check_arrays_ending(path: str | os.PathLike) -> None:
  """Raises an InputError if a path does not end in .npz."""
  if not os.fspath(path).endswith('.npz'):
    raise InputError(f'{os.fspath(path)!r} must end in .npz')


def placeholder(axis: Any, text: str) -> None:
  """Writes a text into the middle of an empty panel (matplotlib Axes)."""
  axis.text(
    0.5, 0.5, text, ha='center', va='center', transform=axis.transAxes, size=11
  )


def escape_mathtext(text: str) -> str:
  """Returns a name as matplotlib draws it.

  Dollar signs, which begin formulas, are escaped, and so are unprintable
  characters and bytes that are not UTF-8, which cannot be drawn.
  """
  return printable(text).replace('$', r'\$')


def shorten(name: str, most: int = 24) -> str:
  """Returns a name, or its first letters and an ellipsis if it is longer."""
  return name if len(name) <= most else f'{name[: most - 1]}…'
