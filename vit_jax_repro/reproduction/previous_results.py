"""Results that are there already: whether they are of what is asked for."""

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

# What is said about a check and changes nothing of what is measured.
_SAID = ('row', 'pick', 'notes', 'substituted')
_SAID_OF_RECIPES = ('source', 'notes')


def find(check: checks.Check, options: Options) -> Mapping[str, Any] | None:
  """What stands in a row's file, if it is what the check would write there.

  Returns:
    None if there is no file, or one of fewer seeds, to which others are to be
    added.

  Raises:
    InputError: it is of something else, was written by hand, or is damaged.
    OSError: it cannot be read.
  """
  there = read(check.row, options)
  if there is None:
    return None
  if is_by_hand(there):
    raise InputError(
      f'{there.path} was written by hand and is not replaced; move it away, or '
      'give another --results'
    )
  differing = list(_differences(there.details, described(check, options)))
  had, wanted = len(there.details.get('accuracies', [0])), options.seeds
  if check.is_fine_tuned and had > wanted:
    differing.append(f'--seeds was {had} and is {wanted}')
  if differing:
    raise InputError(
      f'{there.path} is of something else: {"; ".join(differing)}; give '
      'another --results, or move it away'
    )
  return None if check.is_fine_tuned and had < wanted else there.details


def read(row: Row, options: Options) -> Result | None:
  """The result of a row, None if there is no file.

  Raises:
    InputError: it is damaged.
    OSError: it cannot be read.
  """
  path = options.result(row)
  return results.read_file(path) if os.path.lexists(path) else None


def is_by_hand(result: Result) -> bool:
  """Whether it lacks what a run of the check writes."""
  return not isinstance(result.details.get('check'), dict)


def described(check: checks.Check, options: Options) -> dict[str, Any]:
  """What a result is of, as JSON."""
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
  """A check as JSON."""
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
  """Yields what two results are not both of, in words."""
  was, now = _without(old['check'], _SAID), _without(new['check'], _SAID)
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
    [_without(recipe, _SAID_OF_RECIPES) for recipe in tried]
    for tried in check.get('recipes', [])
  ]


def _names(tasks):
  names = (recipe.get('name') for tried in tasks for recipe in tried)
  return ', '.join(dict.fromkeys(map(str, names))) or 'none'


def _without(mapping, names):
  return {key: value for key, value in mapping.items() if key not in names}


def _alike(left, right):
  """Whether JSON has the same for both."""
  return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
