"""Features of image files: any named activation of a model, as one array.

The array is an .npy file [images, ...] of float32. A CSV file of the same name
has the image of each row.
"""

import dataclasses
import functools
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_repro.data import preprocess
from vit_jax_repro.errors import InputError, line_of
from vit_jax_repro.inference import many_images, zero_shot
from vit_jax_repro.inference.restoring import restore
from vit_jax_repro.models.layers import INTERMEDIATES
from vit_jax_repro.output import messages, rows, waiting
from vit_jax_repro.output.unreadable import Unreadable
from vit_jax_repro.parallel import host_memory

ENDING = '.npy'
PRE_LOGITS = 'pre_logits'
UNIT_VECTOR = 'zimg'  # of an image, in the space that its texts share
_NAMES = 'image'  # title of the one column of the CSV file
_NUMBER = re.compile(r'(\d+)')


@dataclasses.dataclass(frozen=True)
class Extracted:
  """The files that `extract` wrote."""

  array: str  # path of the .npy file
  names: str  # path of the CSV file
  shape: tuple[int, ...]  # of the array
  unreadable: Unreadable  # the images that have no row


def names_file(out: str | os.PathLike) -> str:
  """Returns the path of the CSV file that belongs to an array.

  Raises:
    InputError: the path of the array does not end in .npy.
  """
  base, ending = os.path.splitext(out)
  if ending != ENDING:
    raise InputError(f'{os.fspath(out)!r} must end in {ENDING}')
  return f'{base}.csv'


def extract(
  weights: str | os.PathLike,
  images: Sequence[str | os.PathLike],
  out: str | os.PathLike,
  *,
  features: str = PRE_LOGITS,
  batch_size: int = many_images.BATCH_SIZE,
  orientation: str | None = None,
  **reading: Any,
) -> Extracted:
  """Writes an activation of a model for each image file, in their order.

  Memory does not grow with the number of images. An image that cannot be read
  has no row; the CSV file has the images that do.

  Args:
    weights: see `restoring.restore`. A head of zeros is no obstacle.
    images: paths of files of data.pillow.FORMATS.
    out: path of the .npy file.
    features: name of an activation of the model, such as 'pre_logits', or
      'zimg', the unit vector of an image-text model.
    batch_size: images of a step.
    orientation: see `prediction.predict`.
    **reading: `model`, `image_size` and `preprocessing` of `restoring.restore`.

  Raises:
    InputError: there is no image or none can be read, the model has no such
      activation, or an argument is wrong. The message is one line.
    OSError: a file cannot be read or written.
  """
  images = [os.fspath(path) for path in images]
  if not images:
    raise InputError('no image to compute features of; give at least one path')
  names_path = names_file(out)
  _check_names(names_path)
  if features == UNIT_VECTOR:
    towers = zero_shot.restore(weights, orientation=orientation, **reading)
    restored = towers.restored
    compute = functools.partial(_unit_vector, model=restored.model)
  else:
    restored = restore(weights, orientation=orientation, **reading)
    compute = functools.partial(
      _activation, model=restored.model, name=features, of=restored.name
    )
  with waiting.doing('loading the library that decodes images'):
    preprocess.require_decoder(restored.preprocessing)
  image = jax.ShapeDtypeStruct((1, *restored.image_size, 3), 'float32')
  shape = jax.eval_shape(compute, restored.params, image).shape[1:]
  turned: set[str] = set()
  outcomes = many_images.apply(
    compute,
    restored.params,
    functools.partial(restored.read_image, turned=turned),
    images,
    batch_size=host_memory.rows_at_once(batch_size, restored.image_size),
    what='computing features',
  )
  unreadable = Unreadable(len(images))
  with (
    rows.array_rows(out, shape) as write_row,
    rows.csv_rows(names_path) as write_name,
  ):
    write_name([_NAMES])
    number = _write(outcomes, write_row, write_name, unreadable)
    unreadable.require_some()
  messages.note_unapplied(turned)
  return Extracted(os.fspath(out), names_path, (number, *shape), unreadable)


def _check_names(path):
  """Raises a FileExistsError if a file of names would replace another one."""
  if not os.path.isfile(path):
    return
  with open(path, 'rb') as file:
    if file.readline(len(_NAMES) + 2).rstrip() == _NAMES.encode():
      return
  raise FileExistsError(
    f'{path!r} exists, and is no list of the images of an array, which would '
    'take its place; give another name of the array'
  )


def _write(
  outcomes: Iterable[many_images.Outcome],
  write_row: Callable[[np.ndarray], None],
  write_name: Callable[[Any], None],
  unreadable: Unreadable,
) -> int:
  """Writes the rows of readable images; returns their number."""
  number = 0
  for path, row, error in outcomes:
    if error is not None:
      unreadable.add(line_of(error))
    elif row is None or not np.isfinite(row).all():
      unreadable.add(f'{path}: the features are not finite')
    else:
      write_row(row)
      write_name([path])
      number += 1
  return number


def _unit_vector(params, images, *, model):  # -> [B, D]
  return model.apply({'params': params}, images=images)[0]


def _activation(params, images, *, model, name, of):  # -> [B, ...]
  """Returns an activation of a model, `of` in messages.

  Raises:
    InputError: the model has none of this name.
  """
  _, state = model.apply(
    {'params': params}, images, train=False, mutable=[INTERMEDIATES]
  )
  named = dict(sorted(state[INTERMEDIATES].items()))
  if name not in named:
    raise InputError(
      f'{of} has no features {name!r}; '
      f'{messages.did_you_mean(name, list(named))}choose from {_listed(named)}'
    )
  return named[name][0].astype(jnp.float32)


def _listed(names: Mapping[str, Any]) -> str:
  """Returns the names, those that differ by a number as one: 'block0...11'."""
  numbers = defaultdict(set)
  for name in names:
    parts = _NUMBER.split(name)
    pattern = ''.join(
      part if place != 1 else '{}' for place, part in enumerate(parts)
    )
    numbers[pattern].update(map(int, itertools.islice(parts, 1, 2)))
  return ', '.join(
    pattern.format(_range(found)) for pattern, found in numbers.items()
  )


def _range(numbers):
  first, last = min(numbers, default=0), max(numbers, default=0)
  return str(first) if first == last else f'{first}...{last}'
