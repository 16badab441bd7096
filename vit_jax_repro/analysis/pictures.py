"""Parts that all figures share: canvas, colours, picture and array files.

Figures are matplotlib's, made without pyplot, so that nothing stays open and no
display is looked for.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files

ENDINGS = ('.png', '.svg')
# Colours that the colour-blind tell apart (Okabe and Ito).
BLUE, ORANGE, GREEN, RED, SKY = (
  '#0072B2', '#E69F00', '#009E73', '#D55E00', '#56B4E9',
)  # fmt: skip
GREY = '#777777'
COLOURS = (BLUE, ORANGE, GREEN, RED, SKY, '#CC79A7', '#000000')
MARKERS = 'osD^vP*'
_DPI = 120  # of PNG files
_LONGEST = 500  # inches; matplotlib draws fewer than 2**16 pixels


def new(width: float, height: float, *, images: bool = False):
  """Returns an empty figure, in inches; of panels of images or not.

  Raises:
    InputError: it is larger than a picture can be.
  """
  from matplotlib.figure import Figure

  if max(width, height) > _LONGEST:
    raise InputError(
      f'the picture would be {width:.0f} x {height:.0f} inches, above '
      f'{_LONGEST}; draw fewer images, layers or heads'
    )
  # Panels that keep their shape need the other layout, or labels are cut off.
  layout = 'compressed' if images else 'constrained'
  return Figure(figsize=(width, height), dpi=_DPI, layout=layout)


def check_ending(path: str | os.PathLike) -> None:
  """Raises a ValueError unless `save` can write a file of that name."""
  ending = os.path.splitext(path)[1].lower()
  if ending not in ENDINGS:
    raise InputError(
      f'{os.fspath(path)!r} must end in {" or ".join(ENDINGS)}, the kinds of '
      'pictures that are written'
    )


def save(figure, path: str | os.PathLike) -> None:
  """Writes a figure; the same one gives the same bytes.

  Raises:
    InputError: the name ends in none of `ENDINGS`.
    OSError: the file cannot be written; what was there is unchanged.
  """
  import matplotlib

  check_ending(path)
  kind = os.path.splitext(path)[1][1:].lower()
  metadata = {'Date': None} if kind == 'svg' else {'Software': None}
  with (
    files.replacing(path) as temporary,
    matplotlib.rc_context({'svg.hashsalt': 'vit_jax_repro'}),
  ):
    figure.savefig(temporary, format=kind, metadata=metadata)


def arrays(found: Any) -> dict[str, np.ndarray]:
  """Returns the fields of a record as arrays; of several records, columns."""
  if isinstance(found, Sequence):
    names = vars(found[0]) if found else ()
    return {
      name: np.array([getattr(each, name) for each in found]) for name in names
    }
  return {name: np.asarray(value) for name, value in vars(found).items()}


def save_arrays(path: str | os.PathLike, named: Mapping[str, Any]) -> None:
  """Writes an .npz file of numbers and texts, without pickled objects.

  Raises:
    InputError: the name does not end in .npz.
    OSError: the file cannot be written; what was there is unchanged.
  """
  check_arrays_ending(path)
  with files.replacing(path) as temporary, open(temporary, 'wb') as file:
    np.savez_compressed(file, allow_pickle=False, **named)


def check_arrays_ending(path: str | os.PathLike) -> None:
  """Raises a ValueError unless a name ends in .npz."""
  if not os.fspath(path).endswith('.npz'):
    raise InputError(f'{os.fspath(path)!r} must end in .npz')


def placeholder(axis, text: str) -> None:
  """Writes a sentence into the middle of an empty panel."""
  axis.text(
    0.5, 0.5, text, ha='center', va='center', transform=axis.transAxes, size=11
  )


def escape_mathtext(text: str) -> str:
  """Returns a text whose dollar signs begin no formulas."""
  return text.replace('$', r'\$')
