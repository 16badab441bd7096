"""Which fine-tuning recipe a published number was trained by."""

import dataclasses
import re

from vit_jax_repro.data import catalogue
from vit_jax_repro.paper.table import Row
from vit_jax_repro.recipes import finetuning
from vit_jax_repro.recipes.recipe import Recipe

_DROPOUT = re.compile(r'fine-tune dropout ([\d.]+)')
_STEPS = re.compile(r'steps/warmup (\d+)/')
_PER_CLASS = re.compile(r'(\d+) per class')


@dataclasses.dataclass(frozen=True)
class Choice:
  """A recipe, and the settings of it that the source chose from."""

  name: str = ''  # for finetuning.find
  options: tuple[dict, ...] = ({},)  # further arguments of it
  pick: str = ''  # what to choose where the source gives no settings


def recipe_of(row: Row) -> Choice:
  """The recipe of a row that is checked by fine-tuning."""
  table = row.table
  if table in _BY_TABLE:
    return Choice(*_BY_TABLE[table])
  if table == 'README CIFAR results':
    framework = 'pytorch' if 'PyTorch' in row.model else 'jax'
    return Choice('bit-readme-cifar', ({'variant': framework},))
  if table == 'README short schedules':
    return Choice(
      'README-short', ({'steps': int(_STEPS.search(row.model)[1])},)
    )
  if table.startswith('README expected'):
    rate = _DROPOUT.search(row.model) or _DROPOUT.search(row.note)
    return Choice('vit_jax-vit.py', ({'dropout': float(rate[1])},))
  if table.startswith('ViT Table'):
    at_512 = table == 'ViT Table 2' and row.finetune_dataset == 'ImageNet'
    return Choice('vit-paper-table2-imagenet' if at_512 else 'vit-paper')
  if table.startswith('BiT'):
    return Choice('bit-hyperrule-paper')
  if table == 'DeiT Table 10':
    return Choice('deit-finetune-384', ({'image_size': row.resolution},))
  return Choice(
    pick='the source gives no settings for this row; choose one of '
    f'{", ".join(finetuning.RULES)}'
  )


_BY_TABLE = {
  # Section C: the best of 8 settings on the validation part of each task.
  'AugReg Table 5 (ImageNet-21k, 300 ep)': (
    'augreg-paper',
    tuple({'variant': 'vtab', 'steps': steps} for steps in (500, 2500)),
  ),
  'README ImageNet results': ('bit-hyperrule-code', ({'variant': 'pytorch'},)),
  'notebook comment and output': ('vit_jax.ipynb',),
  'notebooks/experiments/resnet.json': ('re_vit-bit',),
  'notebooks/experiments/vit.json': ('re_vit-vit',),
  'transfer.py docstring': ('bv-transfer',),
}


def recipes_for(
  row: Row, choice: Choice, dataset: str, model: str
) -> tuple[Recipe, ...]:
  """The recipes to try for a row on one data set.

  A row of "5 per class" trains on `train@5`, see data/subsets.py.

  Args:
    row: the row.
    choice: with a name.
    dataset: as datasets.open_split takes it.
    model: published name.

  Raises:
    ValueError: as finetuning.find.
  """
  few = _PER_CLASS.fullmatch(row.train_examples)
  number = None
  if few:
    number = int(few[1]) * catalogue.find(dataset).num_classes
  recipes = []
  for options in choice.options:
    recipe = finetuning.find(
      choice.name, dataset, model, num_examples=number, **options
    )
    if few:
      pp = dict(recipe.settings['pp'], train=f'train@{few[1]}')
      recipe = dataclasses.replace(
        recipe, settings=dict(recipe.settings, pp=pp), tune=None
      )
    recipes.append(recipe)
  return tuple(recipes)
