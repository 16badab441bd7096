"""What a person decides about running checks."""

import ast
import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.paper.table import Row
from vit_jax_repro.published import catalogue


@dataclasses.dataclass(frozen=True)
class Options:
  """How checks are run, and where their files are.

  Raises:
    InputError: a number is below 1.
  """

  results: str  # folder
  weights_dir: str = 'weights'  # holds published files, as `fetch` lays them
  fetch: bool = False  # whether files that are missing are fetched
  data_dir: str | None = None  # where TFDS sets lie
  batch_size: int = 64  # images at a time, of evaluation
  seeds: int = 1  # runs of fine-tuning
  # Of the recipe's settings, other values, 'pp.crop' and the like; the result
  # says so.
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  show: bool = True  # progress

  def __post_init__(self):
    for name in ('seeds', 'batch_size'):
      if getattr(self, name) < 1:
        raise InputError(f'{name}={getattr(self, name)} must be at least 1')

  def work(self, *parts: str) -> str:
    """A path below the folder of what is computed for the results."""
    return os.path.join(self.results, 'work', *parts)

  def weights(self, name: str) -> str:
    """Where a published file belongs: DIR/FOLDER/NAME.npz, as its name is."""
    return os.path.join(self.weights_dir, f'{catalogue.find(name).name}.npz')

  def result(self, row: Row) -> str:
    """Where the result of a row is written."""
    return os.path.join(self.results, f'{row.id}.json')


_OPENING, _CLOSING = '([{', ')]}'


def parse_overrides(text: str | None) -> dict[str, Any]:
  """'batch=128,pp.crop=224' -> {'batch': 128, 'pp.crop': 224}.

  A value is a Python literal, or else a text; a comma in brackets belongs to
  it. None and '' are no settings.

  Raises:
    InputError: a part that is not KEY=VALUE, or a key that comes twice.
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
  """Sets them in nested settings; 'pp.crop' is `crop` in the part `pp`.

  Raises:
    InputError: there is no such setting.
  """
  for key, value in overrides.items():
    *sections, last = key.split('.')
    section = config
    for name in sections:
      section = section.get(name) if isinstance(section, dict) else None
    if not isinstance(section, dict) or last not in section:
      raise InputError(
        f'unknown setting {key!r}; settings are {sorted(config)} and, of pp, '
        f'{sorted(config["pp"])}'
      )
    if isinstance(section[last], dict):
      inside = ', '.join(f'{key}.{name}' for name in section[last])
      raise InputError(f'setting {key!r} is a group; set one of {inside}')
    section[last] = value


def _parts(text):
  """Splits at the commas that are in no brackets."""
  parts, depth = [''], 0
  for character in text:
    depth += (character in _OPENING) - (character in _CLOSING)
    if character == ',' and depth <= 0:
      parts.append('')
    else:
      parts[-1] += character
  return parts
