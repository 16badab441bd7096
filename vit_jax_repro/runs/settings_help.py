"""The help of every key of a configuration, for `main --help_config`."""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence

from vit_jax_repro.data.image_settings import REQUIRED
from vit_jax_repro.runs.settings import Settings
from vit_jax_repro.runs.settings_checks import kinds_of

_TYPES = {  # {annotation: type as `--help` shows it for flags}
  str: 'STRING',
  int: 'INT',
  float: 'FLOAT',
  bool: 'BOOL',
  Mapping: 'GROUP',
  Sequence: 'LIST',
  typing.Any: 'SIZE',
}


def groups() -> dict[str, list[str]]:
  """Returns the texts of all keys of `Settings`, by heading."""
  found, heading = {}, ''
  fields = dataclasses.fields(Settings)
  for field in fields:
    heading = field.metadata['heading'] or heading
    if field.metadata['keys'] is None:
      found.setdefault(heading, []).append(describe(field))
  for field in fields:
    if field.metadata['keys'] is not None:
      keys = dataclasses.fields(field.metadata['keys'])
      texts = [describe(key, prefix=f'{field.name}.') for key in keys]
      found[field.metadata['help']] = texts
  return found


def describe(field: dataclasses.Field, prefix: str = '') -> str:
  """Returns a key's flag, type, help, default and bounds, in one line.

  Args:
    field: made by `image_settings.setting`.
    prefix: the part of the key before the field's name, such as 'pp.'.
  """
  rules = field.metadata
  (kind,) = (x for x in kinds_of(field.type) if x is not types.NoneType)
  choices = f'<{"|".join(rules["choices"])}>: ' if rules['choices'] else ''
  limits = '; '.join(_limits(field))
  return (
    f'--config.{prefix}{field.name}={_TYPES[kind]}  {choices}{rules["help"]} '
    f'({limits})'
  )


def _limits(field):
  """Yields the default, the bounds, and what the key depends on."""
  rules = field.metadata
  if field.default is REQUIRED:
    yield 'no default'
  else:
    yield f'default {field.default!r}'
  for words, key in (
    ('at least', 'least'),
    ('below', 'below'),
    ('at most', 'most'),
  ):
    if rules[key] is not None:
      yield f'{words} {rules[key]}'
  if rules['needs'] is not None:
    name, value = rules['needs']
    yield f'needs {name}' if value is None else f'needs {name}={value!r}'
  for objective in rules['unused_by']:
    yield f'not with objective={objective!r}'
