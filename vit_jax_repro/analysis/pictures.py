"""Shared parts of all figures: canvas, colours, picture and array files.

Figures are matplotlib Figures made without pyplot, so that no figure stays open
and no display is needed.
"""

import io
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax_repro.errors import InputError, printable
from vit_jax_repro.output import files

ENDINGS = ('.pdf', '.png', '.svg')
COLUMN = 3.25  # inches; width of one column of a paper with two
# Colours that the colour-blind can distinguish (Okabe and Ito), the only ones
# of lines, bars and dots. Maps are in viridis.
BLUE, ORANGE, GREEN, RED, SKY = (
  '#0072B2', '#E69F00', '#009E73', '#D55E00', '#56B4E9',
)  # fmt: skip
GREY = '#777777'
COLOURS = (BLUE, ORANGE, GREEN, RED, SKY, '#CC79A7', '#000000')
MARKERS = 'osD^vP*'
_DPI = {'.pdf': 300, '.png': 120, '.svg': 300}  # of the images in PDF and SVG
_METADATA = {  # fields that differ between equal figures, or from run to run
  '.pdf': {'CreationDate': None},
  '.png': {'Software': None},
  '.svg': {'Date': None},
}
_SETTINGS: Any = {
  'pdf.fonttype': 42,  # TrueType, which publishers and editors can read
  'svg.fonttype': 'none',  # text, not outlines
  'svg.hashsalt': 'vit_jax_repro',
}
_LONGEST = 500  # inches; matplotlib draws fewer than 2**16 pixels
_PAD = 0.1  # inches around titles and panels
_STACKED = 5  # inches; narrower charts have their panels below each other
_SMALLEST_FONTS = 0.75  # part of the font sizes that narrow figures keep


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
  return Figure(figsize=(width, height), dpi=_DPI['.png'], layout=layout)


def check_ending(path: str | os.PathLike) -> None:
  """Raises an InputError if a path does not end in one of `ENDINGS`."""
  ending = os.path.splitext(path)[1].lower()
  if ending not in ENDINGS:
    raise InputError(
      f'{os.fspath(path)!r} must end in {" or ".join(ENDINGS)}, the kinds of '
      'pictures that are written'
    )


def save(
  figure: Any,
  path: str | os.PathLike,
  *,
  width: float | None = None,
  dpi: float | None = None,
) -> None:
  """Writes a figure; equal figures give equal bytes.

  Args:
    figure: a matplotlib Figure, which gets the width of the picture.
    path: ends in one of `ENDINGS`.
    width: inches; by default `COLUMN` for PDF, else the figure's own.
    dpi: pixels per inch of a PNG, and of the images in a PDF or SVG.

  Raises:
    InputError: the path does not end in one of `ENDINGS`, or the picture would
      have too many pixels.
    OSError: the file cannot be written; an existing file is unchanged.
  """
  import matplotlib

  check_ending(path)
  ending = os.path.splitext(path)[1].lower()
  dpi = dpi or _DPI[ending]
  if width is None and ending == '.pdf':
    width = COLUMN
  if width is not None:
    resize(figure, width)
  if ending == '.png' and max(figure.get_size_inches()) * dpi >= 2**16:
    wide, high = figure.get_size_inches()
    raise InputError(
      f'the picture of {wide:.0f} x {high:.0f} inches would have more than '
      f'65535 pixels on a side at {dpi:g} dpi; give a smaller dpi or width'
    )
  drawn = io.BytesIO()  # matplotlib ends a PDF on a full disk by a traceback
  with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
    warnings.filterwarnings('ignore', message='Glyph')  # a box is drawn
    figure.savefig(
      drawn, format=ending[1:], metadata=_METADATA[ending], dpi=dpi
    )
  with files.replacing(path) as temporary:
    temporary.write_bytes(drawn.getvalue())


def resize(figure: Any, width: float) -> None:
  """Gives a figure another width in inches.

  Fonts of a narrower figure are smaller, but not below `_SMALLEST_FONTS`.
  Panels of a chart that is narrower than `_STACKED` are drawn below each other.
  """
  old, height = figure.get_size_inches()
  fonts = min(1, max(_SMALLEST_FONTS, width / old))
  title = _height_of_texts(figure)
  _scale_fonts(figure, fonts)
  if any(axis.get_images() for axis in figure.axes):
    figure.set_size_inches(width, height * width / old)
    fit_height(figure)
    return
  stacked = len(figure.axes) if width < _STACKED else 1
  if stacked > 1:
    grid = figure.add_gridspec(stacked, 1)
    for place, panel in zip(grid, figure.axes, strict=True):
      panel.set_subplotspec(place)
  height = (height - title) * fonts * max(1, 0.8 * stacked)
  figure.set_size_inches(width, height)  # to which titles are wrapped
  figure.set_size_inches(width, height + _height_of_texts(figure))


def fit_height(figure: Any) -> None:
  """Gives a figure of images the height that its panels need.

  Their panels keep their aspect ratio, so that another height leaves a margin
  above and below, or at the sides.
  """
  width, height = figure.get_size_inches()
  needed = height
  # Doubled until the width limits the panels, which leaves room above them.
  while needed > 0.9 * height and height < _LONGEST:
    height *= 2
    needed = _needed(figure, width, height)
  # The gaps between panels grow with the height.
  figure.set_size_inches(width, _needed(figure, width, needed))


def _needed(figure, width, height):
  """Returns the height that the parts of a figure of this size need."""
  from matplotlib import transforms

  figure.set_size_inches(width, height)
  figure.draw_without_rendering()
  panels = transforms.Bbox.union([_extent(axis) for axis in figure.axes])
  return panels.height + _height_of_texts(figure) + _PAD


def _height_of_texts(figure):
  """Returns the height in inches of the titles and notes of a figure."""
  return sum(_extent(text).height + _PAD for text in figure.texts)


def _extent(artist):
  """Returns the box of a part of a figure in inches."""
  box = artist.get_tightbbox()
  return box.transformed(artist.get_figure().dpi_scale_trans.inverted())


def _scale_fonts(figure, factor):
  from matplotlib.text import Text

  for text in figure.findobj(Text):
    text.set_fontsize(factor * text.get_fontsize())
  for axis in figure.axes:
    for side in (axis.xaxis, axis.yaxis):
      # Ticks that are only made when the figure is drawn.
      size = side.get_major_ticks(1)[0].label1.get_fontsize()
      side.set_tick_params(labelsize=size)


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
