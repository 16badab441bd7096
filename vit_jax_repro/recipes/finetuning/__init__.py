"""Every published way to fine-tune, as settings for `jobs.train`.

  find('vit-paper', 'cifar10', 'ViT-B_16')   the recipe of one source
  recipe_for('vit', 'cifar10', 'ViT-B_16', kind='code')   of a family's code
  differences('vit', 'cifar10', 'ViT-B_16')   where paper and code differ

Recipes are named as in paper/numbers/finetuning.csv. A learning rate is chosen
by the protocol of the source: train on `tune['train']` with each of `base_lrs`,
take the rate that is best on `tune['test']`, then train with the recipe's own
splits and evaluate the test split once.
"""

import dataclasses
from typing import Any

from vit_jax_repro.data import catalogue
from vit_jax_repro.data.image_settings import ImageSettings, defaults_of
from vit_jax_repro.errors import InputError
from vit_jax_repro.recipes.finetuning import (
  augreg,
  bit,
  common,
  deit,
  third_party,
  vit,
)
from vit_jax_repro.recipes.recipe import Recipe, RecipeRequest, choose, pick

RULES = {
  **vit.RULES,
  **augreg.RULES,
  **bit.RULES,
  **deit.RULES,
  **third_party.RULES,
}

KINDS = ('paper', 'code')
# For each family, the recipes of the paper and those of the code. The first
# recipe that has settings for the data set is used.
FAMILIES = {
  'vit': (
    ('vit-paper',),
    ('vit_jax-vit.py', 'bv-transfer', 'scenic-vtab'),
  ),
  'augreg': (('augreg-paper',), ('bv-transfer', 'vit_jax-augreg.py')),
  'bit': (('bit-hyperrule-paper',), ('bit-hyperrule-code',)),
  'deit': (('deit-paper-finetune-384',), ('deit-finetune-384',)),
  'mixer': ((), ('vit_jax-vit.py',)),
}


@dataclasses.dataclass(frozen=True)
class SettingDifference:
  """One setting in which paper and code differ.

  Fields:
    key: a key of Recipe.settings, 'pp.KEY', 'model.KEY', 'tune' or 'base_lrs'.
    paper, code: the two values; None if the setting is absent.
    ids: rows of paper/numbers/differences.csv on it; () if there is none.
  """

  key: str
  paper: Any
  code: Any
  ids: tuple[str, ...]


def find(
  recipe: str,
  dataset: str,
  model: str,
  *,
  variant: str | None = None,
  steps: int | None = None,
  image_size: int | None = None,
  dropout: float | None = None,
  num_examples: int | None = None,
) -> Recipe:
  """Returns the settings of a source for a data set and a model.

  Args:
    recipe: a key of `RULES`.
    dataset: 'imagenet2012', 'vtab/dtd', ...; a recipe that depends only on
      the size of the data set takes any TFDS name or folder.
    model: in the published spelling.
    variant: one of the source's alternatives; by default the first. An
      unknown one is refused with their names.
    steps: total steps of one of the source's schedules; by default the first.
    image_size: pixels; replaces the source's.
    dropout: rate that replaces the source's; ignored for models without
      dropout.
    num_examples: number of training images, if the recipe depends on it and
      the catalogue does not have the data set.

  Raises:
    InputError: the recipe, variant or schedule is unknown; the recipe has no
      settings for the data set or model; or it needs a number of images that is
      not known.
  """
  rule = pick('fine-tuning', recipe, RULES)
  request = RecipeRequest(
    name=recipe,
    dataset=dataset,
    model=model,
    variant=variant or '',
    steps=steps,
    image_size=image_size,
    num_examples=num_examples,
  )
  found = rule.make(choose(rule, request))
  if dropout is None:
    return found
  fields = dict(found.model_fields, **common.dropout(model, dropout))
  return dataclasses.replace(found, model_fields=fields)


def recipe_for(
  family: str, dataset: str, model: str, kind: str = 'paper', **options: Any
) -> Recipe:
  """Returns the paper's or the released code's recipe for a family.

  Args:
    family: a key of `FAMILIES`; hybrids are 'vit'.
    dataset, model: see `find`.
    kind: 'paper' or 'code'.
    **options: see `find`.

  Raises:
    InputError: as `find`; or the family or kind is unknown, or the family has
      no recipe of that kind for the data set.
  """
  if family not in FAMILIES or kind not in KINDS:
    raise InputError(
      f'no recipe of {kind=} for {family=}; choose kind from {list(KINDS)} and '
      f'family from {list(FAMILIES)}'
    )
  row = catalogue.find(dataset)
  known = row.name if row else ''
  names = FAMILIES[family][KINDS.index(kind)]
  fitting = [name for name in names if known in _datasets(name, known)]
  if not fitting:
    raise InputError(
      f'no {kind} recipe of {family!r} has settings for {dataset!r}; its '
      f'recipes are {list(names)}'
    )
  return find(fitting[0], dataset, model, **options)


def _datasets(recipe, known):
  allowed = RULES[recipe].datasets
  return (known,) if allowed is None else allowed


def differences(
  family: str, dataset: str, model: str, **options: Any
) -> tuple[SettingDifference, ...]:
  """Returns the settings in which paper and code differ for a data set.

  Args, Raises: see `recipe_for`.
  """
  paper, code = (
    _flat(recipe_for(family, dataset, model, kind, **options)) for kind in KINDS
  )
  return tuple(
    SettingDifference(
      key, paper.get(key), code.get(key), _ids(key, family, dataset)
    )
    for key in dict.fromkeys((*paper, *code))
    if paper.get(key) != code.get(key)
  )


def _flat(recipe):
  """Returns all settings by `SettingDifference.key`, defaults included."""
  settings = {
    k: v for k, v in recipe.settings.items() if k not in ('pp', 'base_lr')
  }
  pp = defaults_of(ImageSettings) | recipe.settings['pp']
  pp['train'] = catalogue.split_of(recipe.dataset, pp['train'])
  return {
    'base_lrs': recipe.base_lrs,
    'tune': recipe.tune,
    **settings,
    **{f'pp.{k}': v for k, v in pp.items()},
    **{f'model.{k}': v for k, v in recipe.model_fields.items()},
  }


def _ids(key, family, dataset):
  by_family = _IDS.get(key, {})
  if dataset.startswith(catalogue.VTAB) and _OF_VTAB in by_family:
    return by_family[_OF_VTAB]
  return by_family.get(family, by_family.get(None, ()))


# Rows of paper/numbers/differences.csv, by setting and by family. None is any
# other family, `_OF_VTAB` any family on a VTAB task.
_OF_VTAB = 'VTAB'
_IDS = {
  'base_lrs': {'vit': ('pvc-02',), 'augreg': ('pvc-02',)},
  'tune': {'vit': ('pvc-03',), 'augreg': ('pvc-02',)},
  'pp.train': {None: ('pvc-03',), 'bit': ('pvc-55',), _OF_VTAB: ('pvc-79',)},
  'pp.inception_crop': {None: ('pvc-05',)},
  'pp.resize': {None: ('pvc-05',), 'bit': ('pvc-50',)},
  'pp.crop': {None: ('pvc-10',), 'bit': ('pvc-50',)},
  'preprocessing': {None: ('pvc-06',)},
  'optim_dtype': {None: ('pvc-12',)},
  'model.dropout_rate': {'vit': ('pvc-08',)},
  'decay_steps': {'bit': ('pvc-52',)},
  'total_steps': {'deit': ('pvc-73',)},
}
