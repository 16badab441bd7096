"""Reads models in several files, which an index of JSON lists (`weight_map`).

transformers writes such files for PyTorch and for Flax.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, messages


def read(
  path: pathlib.Path, read_part: Callable[[pathlib.Path], Mapping[str, Any]]
) -> dict[str, Any]:
  """Returns the arrays of all parts by name.

  Args:
    path: the index; its parts are in the same folder.
    read_part: returns the arrays of one part.

  Raises:
    FileNotFoundError: a part is missing.
    InputError: the file is no index, or its parts have other arrays.
    OSError: a file cannot be read.
  """
  names, arrays = _names(path), {}
  for part in _paths(path, names):
    arrays |= read_part(part)
  if arrays.keys() != names.keys():
    raise InputError(
      f'{path} and its parts differ in '
      f'{messages.listed(arrays.keys() ^ names.keys())}'
    )
  return arrays


def paths(path: pathlib.Path) -> list[pathlib.Path]:
  """Returns the paths of all parts; see `read` for the errors."""
  return _paths(path, _names(path))


def _names(path):
  """Returns the name of the part for each array."""
  try:
    parts = files.read_any_json(path)['weight_map']
    return {str(name): str(part) for name, part in parts.items()}
  except (ValueError, TypeError, LookupError, AttributeError) as error:
    raise InputError(
      f'{path} is no index of a weights file ({messages.short(repr(error))})'
    ) from None


def _paths(path, names):
  found = []
  for part in sorted(set(names.values())):
    if pathlib.PurePath(part).name != part or part.endswith('.json'):
      raise InputError(
        f'{path} names the part {messages.quoted(part)}; parts must be weights '
        'files in the same folder'
      )
    if not (path.parent / part).exists():
      raise FileNotFoundError(
        f'{path} lists the part {messages.quoted(part)}, which is not in its '
        'folder; put it there'
      )
    found.append(path.parent / part)
  return found
