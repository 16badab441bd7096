"""Options of the calls that run checks, and overrides of settings."""

import ast
import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

from flax import traverse_util

from vit_jax_repro.errors import InputError
from vit_jax_repro.paper.table import Row
from vit_jax_repro.published import catalogue

_OPENING, _CLOSING = '([{', ')]}'  # brackets in values of overrides


@dataclasses.dataclass(frozen=True)
class Options:
  """Folders, data and overrides of a call that runs checks.

  Raises:
    InputError: a number is below 1.
  """

  results: str  # folder
  weights_dir: str = 'weights'  # folder of published files, as FOLDER/NAME.npz
  fetch: bool = False  # whether missing files are fetched
  data_dir: str | None = None  # folder of TFDS data sets; None: TFDS's default
  batch_size: int = 64  # for evaluation
  seeds: int = 1  # number of fine-tuning runs
  # Other values for settings of the recipe, such as 'pp.crop'; the result
  # records them.
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  show: bool = True  # progress

  def __post_init__(self):
    for name in ('seeds', 'batch_size'):
      if getattr(self, name) < 1:
        raise InputError(f'{name}={getattr(self, name)} must be at least 1')

  def work(self, *parts: str) -> str:
    """Returns a path in the folder of intermediate results."""
    return os.path.join(self.results, 'work', *parts)

  def weights(self, name: str) -> str:
    """Returns the path of a published file: DIR/FOLDER/NAME.npz."""
    return os.path.join(self.weights_dir, f'{catalogue.find(name).name}.npz')

  def result(self, row: Row) -> str:
    """Returns the path of a row's result."""
    return os.path.join(self.results, f'{row.id}.json')


def parse_overrides(text: str | None) -> dict[str, Any]:
  """Parses 'batch=128,pp.crop=224' to {'batch': 128, 'pp.crop': 224}.

  A value is a Python literal, or else a text. A comma in brackets is part of
  the value. None and '' give {}.

  Raises:
    InputError: a part is not KEY=VALUE, or a key is given twice.
  """
  found = {}
  for part in _parts(text) if text else ():
    key, equals, value = (each.strip() for each in part.partition('='))
    if not (key and equals and value):
      raise InputError(
        f'override {part!r} is not KEY=VALUE, such as batch=128 or pp.crop=224'
      )
    if key in found:
      raise InputError(f'override {key!r} is given twice; give it once')
    try:
      found[key] = ast.literal_eval(value)
    except (SyntaxError, ValueError):
      found[key] = value
  return found


def apply_overrides(
  config: dict[str, Any], overrides: Mapping[str, Any]
) -> None:
  """Sets overrides in nested settings; 'pp.crop' is `crop` in the group `pp`.

  Raises:
    InputError: a key is not a setting, or is a group of settings.
  """
  known = traverse_util.flatten_dict(config, sep='.')
  for key, value in overrides.items():
    if inside := [name for name in known if name.startswith(f'{key}.')]:
      raise InputError(
        f'setting {key!r} is a group; set one of {", ".join(inside)}'
      )
    if key not in known:
      raise InputError(
        f'unknown setting {key!r}; settings are {sorted(config)} and, of pp, '
        f'{sorted(config["pp"])}'
      )
    *sections, last = key.split('.')
    functools.reduce(dict.__getitem__, sections, config)[last] = value


def _parts(text):
  """Splits a text at the commas outside brackets."""
  parts, depth = [''], 0
  for character in text:
    depth += (character in _OPENING) - (character in _CLOSING)
    if character == ',' and depth <= 0:
      parts.append('')
    else:
      parts[-1] += character
  return parts
