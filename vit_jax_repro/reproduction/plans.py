"""What checking rows takes, as something to show."""

from collections.abc import Sequence

from vit_jax_repro.data import catalogue
from vit_jax_repro.paper import table
from vit_jax_repro.paper.sections import Section, View
from vit_jax_repro.recipes.recipe import num_examples
from vit_jax_repro.reproduction import checks


def plan(found: Sequence[checks.Check]) -> View:
  """View of checks: one in full, several as a table."""
  records = tuple(_record(check) for check in found)
  if len(found) == 1:
    lines = tuple(item for item in records[0].items() if item[1])
    return View((Section(found[0].row.id, (), ('', ''), lines),), records)
  columns = ('row', 'how', 'file', 'data set', 'size', 'read as', 'recipe')
  rows = tuple(
    (
      table.named(check.row.table).short(check.row),
      check.kind,
      record['file'] or 'to be picked',
      _short(check.datasets),
      record['size'],
      check.preprocessing,
      record['recipe'] or ('to be picked' if check.is_fine_tuned else ''),
    )
    for check, record in zip(found, records, strict=True)
  )
  return View((Section('Checks', (), columns, rows),), records)


def _short(names):
  if len(names) > 1:
    return f'{len(names)} tasks of VTAB'
  return names[0] if names else 'to be picked'


def _record(check):
  recipes = [recipe for tried in check.recipes[:1] for recipe in tried]
  named = {
    'recipe': ', '.join(dict.fromkeys(recipe.name for recipe in recipes)),
    'source': '; '.join(dict.fromkeys(recipe.source for recipe in recipes)),
    'learning rates': ', '.join(
      f'{rate:g}' for recipe in recipes[:1] for rate in recipe.base_lrs
    ),
    'steps': ', '.join(
      str(recipe.settings['total_steps']) for recipe in recipes
    ),
    'chosen on': str(recipes[0].tune['test'])
    if recipes and recipes[0].tune
    else '',
    'trained on': recipes[0].settings['pp']['train'] if recipes else '',
  }
  return {
    'row': check.row.id,
    'how': check.kind,
    'file': ', '.join(check.files),
    'model': check.model,
    'data set': ', '.join(check.datasets),
    'split': check.split,
    'tested images': ', '.join(
      str(num_examples(name, check.split) or '') for name in check.datasets
    ),
    'measured': check.metric.replace('_', ' '),
    'head': '' if check.head == 'both' else check.head,
    'size': ', '.join(map(str, dict.fromkeys(check.image_sizes))),
    'preprocessing': check.preprocessing,
    **named,
    'to pick': '\n'.join(check.pick),
    'in its place': '\n'.join(
      f'{what}: {value}' for what, value in check.substituted.items()
    ),
    'notes': '\n'.join(check.notes),
    'needs': '\n'.join(dict.fromkeys(map(_needs, check.datasets))).strip(),
  }


def _needs(dataset):
  row = catalogue.find(dataset)
  if row is None or row.manual is None:
    return ''
  return f'{row.tfds}: {", ".join(row.manual.files)} ({row.manual.origin})'
