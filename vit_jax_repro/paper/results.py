"""Measured results: a folder with one JSON file for each row.

ROW_ID.json holds at least

    {"row": ROW_ID, "accuracy": 0.8515, "num_examples": 50000}

With several seeds it has "accuracies": [...] in place of "accuracy". For a mean
over tasks it has "tasks": {NAME: {"accuracy": ..., "num_examples": ...}, ...}.
Accuracies are fractions of 1. All keys are kept as details. `overrides` and
`substituted` among them describe how the measurement departs from the row.
Other files and folders in the folder are ignored.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Set
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files
from vit_jax_repro.paper import table, verdict


@dataclasses.dataclass(frozen=True)
class Result:
  """The measured result of a row."""

  row: str  # id
  path: str  # of its file
  measurement: verdict.Measurement
  details: Mapping[str, Any]  # everything in the file

  @property
  def departures(self) -> str:
    """Returns how the measurement departs from its row, or ''.

    For example 'with other settings: batch=128; data: /data/pets'.
    """
    overrides, others = (
      found if isinstance(found, dict) else {}
      for found in map(self.details.get, ('overrides', 'substituted'))
    )
    parts = [f'{what}: {value}' for what, value in others.items()]
    if overrides:
      parts.insert(0, f'with other settings: {settings(overrides)}')
    return '; '.join(parts)


def settings(values: Mapping[str, Any]) -> str:
  """Returns 'batch=128, pp.crop=224'."""
  return ', '.join(f'{key}={value}' for key, value in values.items())


def read(folder: str | os.PathLike) -> dict[str, Result]:
  """Returns the results in a folder by the ids of their rows.

  Raises:
    OSError: the folder does not exist, or a file cannot be read.
    InputError: the file of a row is damaged; the message names it.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise NotADirectoryError(
      f'no folder of results {str(folder)!r}; `run` creates it'
    )
  found = (
    read_file(path)
    for path in sorted(folder.glob('*.json'))
    if path.stem in _ids()
  )
  return {result.row: result for result in found}


def foreign(folder: str | os.PathLike) -> list[str]:
  """Returns the names of JSON files in a folder that belong to no row."""
  paths = sorted(pathlib.Path(folder).glob('*.json'))
  return [path.name for path in paths if path.stem not in _ids()]


def read_file(path: str | os.PathLike) -> Result:
  """Returns the result in a file.

  Raises:
    OSError: the file cannot be read.
    InputError: the file is damaged, or it is not a result of the row in its
      name. The message names the file.
  """
  path = pathlib.Path(path)
  remedy = 'remove it and run the row again'
  details = files.read_json(path, 'result', remedy, finite=True)
  try:
    if 'row' not in details:
      raise InputError("it has no 'row'")
    name = details['row']
    if not isinstance(name, str) or name not in _ids():
      raise InputError(f'there is no row {name!r}')
    if name != path.stem:
      raise InputError(f'its row is {name!r}')
    measurement = measured(details)
    _check_tasks(table.find(name), measurement)
  except ValueError as error:
    raise InputError(f'{path} is no result: {error}; {remedy}') from None
  return Result(name, str(path), measurement, details)


def measured(details: Mapping[str, Any]) -> verdict.Measurement:
  """Returns the measurement in the contents of a file.

  Raises:
    InputError: there is no measurement, or a number is impossible.
  """
  tasks = details.get('tasks')
  if tasks is not None:
    if not isinstance(tasks, dict) or not all(
      isinstance(task, dict) for task in tasks.values()
    ):
      raise InputError("'tasks' must hold a result for each name")
    return verdict.Measurement(
      tasks=tuple(measured(task) for task in tasks.values())
    )
  accuracies = details.get('accuracies', [details.get('accuracy')])
  if not isinstance(accuracies, list):
    raise InputError(f"'accuracies' must be a list, not {accuracies!r}")
  return verdict.Measurement(tuple(accuracies), details.get('num_examples', 0))


def _check_tasks(row, measurement):
  """Raises if the tasks of a measurement are not all those of the row."""
  number = len(measurement.tasks)
  if number and row.num_tasks == 1:
    raise InputError("the row has one data set and no 'tasks'")
  if number not in (0, row.num_tasks):
    raise InputError(
      f"'tasks' has {number} of the {row.num_tasks} that the row is a mean over"
    )


def _ids() -> Set[str]:
  return {row.id for row in table.rows()}
