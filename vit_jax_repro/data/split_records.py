"""The record of how a folder was divided: image_splits.json of a workdir.

train, validation, test, seed  the fields of splitting.Division
images                         {SHA-256 of an image: its side or 'unused'}
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterable

from vit_jax_repro.data import percent_parts, subsets
from vit_jax_repro.data.splitting import Division, Record
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files

FILE = 'image_splits.json'


def asked(
  train: str,
  test: str,
  seed: int = 0,
  *,
  validation: str | None = None,
  folders: Iterable[str | os.PathLike] = (),
) -> Division:
  """Returns the division that a configuration asks for.

  Args:
    train, test, validation: the splits of the configuration, also 'train@5' or
      'test[:5]'.
    seed: see `Division`.
    folders: where earlier runs may have a record; the first one counts.

  Raises:
    InputError: a record is damaged.
  """
  found = (read(folder) for folder in folders)
  old = next(filter(None, found), None)
  return Division(
    train=_whole(train),
    validation=_whole(validation) if validation else None,
    test=_whole(test),
    seed=seed,
    record=None if old is None else old.record,
  )


def of_weights(weights: str | os.PathLike) -> Division:
  """Returns the division by which weights were trained, else the default.

  Args:
    weights: a weights file, the folder of a run, or a checkpoint in it.

  Raises:
    InputError: the record is damaged.
  """
  return read(folder_of(weights)) or Division()


def folder_of(weights: str | os.PathLike) -> str:
  """Returns the folder in which the run of weights has its record.

  Args:
    weights: see `of_weights`.
  """
  path = pathlib.Path(weights).expanduser()
  folder = path if path.is_dir() else path.parent
  for checkpoints in (folder, folder.parent):  # WORKDIR/checkpoints/STEP
    if checkpoints.name == 'checkpoints':
      return str(checkpoints.parent)
  return str(folder)


def read(folder: str | os.PathLike) -> Division | None:
  """Reads the FILE of a folder; returns None if there is none.

  Raises:
    InputError: the file is damaged.
  """
  path = os.path.join(folder, FILE)
  if not os.path.exists(path):
    return None
  remedy = 'put back a copy, or train again'
  found = files.read_json(path, 'record of divided images', remedy)
  try:
    sides = found.pop('images')
    division = Division(**found)
    parts = division.parts()
    known = {*parts, percent_parts.UNUSED}
    if not known >= set(sides.values()) or not isinstance(found['seed'], int):
      raise ValueError
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    raise InputError(
      f'{path} is no record of divided images; {remedy}'
    ) from error
  return dataclasses.replace(
    division, record=Record(path, parts, division.seed, sides)
  )


def _whole(split):
  """Returns the split that a text such as 'test[:50%]' or 'train@5' is of."""
  text = subsets.parse(split)[0]
  names = {part.partition('[')[0].strip() for part in text.split('+')}
  # A part of the training images is a side of its own.
  return names.pop() if len(names) == 1 and names != {'train'} else text
