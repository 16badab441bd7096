"""Existing results: whether they are results of the requested check."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.paper import results
from vit_jax_repro.paper.results import Result
from vit_jax_repro.paper.table import Row
from vit_jax_repro.reproduction import checks, evaluations
from vit_jax_repro.reproduction.options import Options
from vit_jax_repro.runs import settings
from vit_jax_repro.runs.workdir import FREE

# Fields of a check that do not change what is measured.
_REMARKS = ('row', 'pick', 'notes', 'substituted')
_REMARKS_OF_RECIPES = ('source', 'notes')


def find(check: checks.Check, options: Options) -> Mapping[str, Any] | None:
  """Returns a row's result if the check would measure the same again.

  Returns:
    The contents of the file. None if there is no file, or if it has fewer seeds
    than wanted, so that the check must add some.

  Raises:
    InputError: the result is of another check, was written by hand, or is
      damaged.
    OSError: the file cannot be read.
  """
  old = read(check.row, options)
  if old is None:
    return None
  if is_by_hand(old):
    raise InputError(
      f'{old.path} was written by hand and is not replaced; move it away, or '
      'give another --results'
    )
  differing = list(_differences(old.details, described(check, options)))
  had, wanted = len(old.details.get('accuracies', [0])), options.seeds
  if check.is_fine_tuned and had > wanted:
    differing.append(f'--seeds was {had} and is {wanted}')
  if differing:
    raise InputError(
      f'{old.path} is the result of another check: {"; ".join(differing)}; '
      'give another --results, or move it away'
    )
  return None if check.is_fine_tuned and had < wanted else old.details


def read(row: Row, options: Options) -> Result | None:
  """Returns the result of a row, None if there is no file.

  Raises:
    InputError: the file is damaged.
    OSError: the file cannot be read.
  """
  path = options.result(row)
  return results.read_file(path) if os.path.lexists(path) else None


def is_by_hand(result: Result) -> bool:
  """Returns whether a result was written by hand, without a check."""
  return not isinstance(result.details.get('check'), dict)


def described(check: checks.Check, options: Options) -> dict[str, Any]:
  """Returns the part of a result that identifies the measurement, as JSON."""
  files = {
    name: evaluations.checksum(options.weights(name))
    for dataset in check.datasets
    for name in (check.file_for(file, dataset) for file in check.files)
  }
  tuned = check.is_fine_tuned
  return {
    'check': describe(check),
    'overrides': settings.to_plain(options.overrides) if tuned else {},
    'substituted': dict(check.substituted),
    **({'seeds': options.seeds} if tuned else {}),
    'weights': {name: found for name, found in files.items() if found},
  }


def describe(check: checks.Check) -> dict[str, Any]:
  """Returns a check as JSON."""
  described = dataclasses.asdict(
    dataclasses.replace(check, row=None, recipes=())
  )
  del described['row']
  described['recipes'] = [
    [dict(dataclasses.asdict(recipe)) for recipe in tried]
    for tried in check.recipes
  ]
  return settings.to_plain(described)


def _differences(old, new):
  """Yields the differences between two measurements, in words."""
  was, now = _without(old['check'], _REMARKS), _without(new['check'], _REMARKS)
  for key in sorted(was.keys() | now.keys() - {'recipes'}):
    if key != 'recipes' and not _alike(was.get(key), now.get(key)):
      yield f'{key} was {was.get(key)!r} and is {now.get(key)!r}'
  recipes = [_recipes(each) for each in (was, now)]
  if not _alike(*recipes):
    names = [_names(each) for each in recipes]
    if names[0] == names[1]:
      yield f'the recipe {names[0]} had other settings'
    else:
      yield f'--recipe was {names[0]} and is {names[1]}'
  overrides = [
    {k: v for k, v in each.get('overrides', {}).items() if k not in FREE}
    for each in (old, new)
  ]
  if not _alike(*overrides):
    yield '--override was {} and is {}'.format(
      *(results.settings(each) or 'none' for each in overrides)
    )
  known = old.get('weights', {})
  for name, found in new['weights'].items():
    if known.get(name, found) != found:
      yield (
        f'the file {name} had the SHA-256 {known[name][:12]}... and has '
        f'{found[:12]}...'
      )


def _recipes(check):
  return [
    [_without(recipe, _REMARKS_OF_RECIPES) for recipe in tried]
    for tried in check.get('recipes', [])
  ]


def _names(tasks):
  names = (recipe.get('name') for tried in tasks for recipe in tried)
  return ', '.join(dict.fromkeys(map(str, names))) or 'none'


def _without(mapping, names):
  return {key: value for key, value in mapping.items() if key not in names}


def _alike(left, right):
  """Returns whether two values have the same JSON."""
  return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
