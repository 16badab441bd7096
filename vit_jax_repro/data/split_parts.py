"""Parts of a folder's splits in TFDS's notation, such as train[:90%]."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vit_jax_repro.errors import InputError

_PART = re.compile(r'([^\[\]]+)\[(-?\d+%?)?:(-?\d+%?)?\]')


class UnknownSplitError(InputError):
  """A data set has no split of this name; the message has the others."""


def part_of(
  root: str | os.PathLike, part: str, splits: Mapping[str, Any]
) -> tuple[str, Callable[[int], list[int]]]:
  """Parses a part of a split, such as 'train' or 'train[:90%]'.

  Args:
    root: path of the data set, for the message.
    part: the part.
    splits: {name of a split: any value}.

  Returns:
    The split, and a function from its number of images to the sorted positions
    of the part's images.

  Raises:
    InputError: there is no such split; or, from the function, the part reaches
      beyond the images.
  """
  match = None if part in splits else _PART.fullmatch(part)
  split, start, stop = match.groups() if match else (part, None, None)
  if split not in splits:
    raise UnknownSplitError(
      f'no split {split!r} with images in {root}; choose from '
      f'{sorted(splits)} or a part such as train[:90%]'
    )

  def chosen(size):
    first = _position(start, size, part) if start else 0
    last = _position(stop, size, part) if stop else size
    if match is None:
      return list(range(size))
    # NumPy never changes RandomState's stream, unlike newer generators'.
    order = np.random.RandomState(0).permutation(size)
    return sorted(order[first:last].tolist())

  return split, chosen


def _position(text, size, part):
  """Returns the index for '10', '-10', '10%' or '-10%', rounded as in TFDS."""
  if text.endswith('%'):
    position = round(int(text[:-1]) * size / 100)
  else:
    position = int(text)
  if abs(position) > size:
    raise InputError(f'{part!r} reaches beyond the {size} images of the split')
  return position + size if text.startswith('-') else position
