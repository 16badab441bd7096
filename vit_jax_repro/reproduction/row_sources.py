"""The recipe, the weights file and the data set of a published number.

They are looked up by the columns of its row in paper/numbers: the table, the
checkpoint, and the names of the data sets.
"""

import dataclasses
import itertools
import re

from vit_jax_repro.data import catalogue
from vit_jax_repro.errors import InputError
from vit_jax_repro.paper.table import Row
from vit_jax_repro.published import catalogue as published
from vit_jax_repro.recipes import finetuning
from vit_jax_repro.recipes.recipe import Recipe

_DROPOUT = re.compile(r'fine-tune dropout ([\d.]+)')
_STEPS = re.compile(r'steps/warmup (\d+)/')
_PER_CLASS = re.compile(r'(\d+) per class')
# Recipes by table: arguments of RecipeChoice.
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
_BRACES = re.compile(r'\{([^{}]*)\}')
# augreg/MODEL-DATA-EPOCHSep-lr_0.001-*[--DATASET-steps_20k-lr_*-res_SIZE].npz
_AUGREG = re.compile(
  r'augreg/(?P<model>\w+?)-(?P<data>i1k|i21k)-(?P<epochs>\d+)ep-.*?\*'
  r'(--(?P<adapted>.+)-steps_.*-res_(?P<size>\d+))?\.npz'
)
_TASK = '<task>'
# By the name in paper/numbers: (name for datasets.open_split, split).
_NAMED = {
  'ImageNet': ('imagenet2012', 'validation'),
  'ImageNet ReaL': ('imagenet2012_real', 'validation'),
  'ImageNet-V2 matched-frequency': ('imagenet_v2/matched-frequency', 'test'),
  'CIFAR-10': ('cifar10', 'test'),
  'CIFAR-100': ('cifar100', 'test'),
  'Resisc45': ('resisc45', 'train'),  # the only split of TFDS
  'Oxford-IIIT Pets': ('oxford_iiit_pet', 'test'),
  'Oxford Flowers-102': ('oxford_flowers102', 'test'),
  'Stanford Cars': ('cars196', 'test'),
  'iNaturalist 2018': ('i_naturalist2018', 'validation'),
}
# Data sets that TFDS does not have: (split, folder that the user must give).
_BY_HAND = {
  'ObjectNet': (
    'test',
    'the images of the 113 classes that ObjectNet shares with ImageNet, as '
    'FOLDER/test/CLASS/*.png with the WordNet ids as class names',
  ),
  'iNaturalist 2019': (
    'validation',
    'iNaturalist 2019 as FOLDER/train/CLASS/*.jpg and '
    'FOLDER/validation/CLASS/*.jpg',
  ),
}
_GROUPS = ('natural', 'specialized', 'structured')
# Prefixes of VTAB's tasks in paper/numbers: 1000 training examples, or all.
_VTAB = ('VTAB-1k', 'VTAB (full data)')


@dataclasses.dataclass(frozen=True)
class RecipeChoice:
  """A recipe with the options that its source chose from.

  Either `name` is given or `pick`.
  """

  name: str = ''  # for finetuning.find
  options: tuple[dict, ...] = ({},)  # further arguments of finetuning.find
  pick: str = ''  # the choice that the user must make; '' if there is a name


@dataclasses.dataclass(frozen=True)
class Weights:
  """The weights files of one number.

  Either `files` is given, with several if there were several runs or tasks, or
  `pick` explains how to choose one file. `choices` has the possible files, if
  there are only a few.
  """

  files: tuple[str, ...] = ()  # for published.catalogue.find, or with <task>
  choices: tuple[str, ...] = ()
  pick: str = ''


@dataclasses.dataclass(frozen=True)
class EvaluationData:
  """The evaluation data of a number: one data set, or the tasks of a mean."""

  datasets: tuple[str, ...]  # for datasets.open_split; (): not in TFDS
  split: str
  pick: str = ''  # description of the folder to give if `datasets` is ()


def require_match(pattern: re.Pattern[str], *texts: str) -> re.Match[str]:
  """Returns the first match of a pattern in texts of paper/numbers.

  Raises:
    ValueError: there is no match, so a row of paper/numbers is malformed.
  """
  for text in texts:
    if match := pattern.search(text):
      return match
  raise ValueError(f'no {pattern.pattern!r} in {texts}')


def recipe_of(row: Row) -> RecipeChoice:
  """Returns the recipe of a row that is checked by fine-tuning."""
  table = row.table
  if table in _BY_TABLE:
    return RecipeChoice(*_BY_TABLE[table])
  if table == 'README CIFAR results':
    framework = 'pytorch' if 'PyTorch' in row.model else 'jax'
    return RecipeChoice('bit-readme-cifar', ({'variant': framework},))
  if table == 'README short schedules':
    steps = require_match(_STEPS, row.model)[1]
    return RecipeChoice('README-short', ({'steps': int(steps)},))
  if table.startswith('README expected'):
    rate = require_match(_DROPOUT, row.model, row.note)[1]
    return RecipeChoice('vit_jax-vit.py', ({'dropout': float(rate)},))
  if table.startswith('ViT Table'):
    at_512 = table == 'ViT Table 2' and row.finetune_dataset == 'ImageNet'
    return RecipeChoice('vit-paper-table2-imagenet' if at_512 else 'vit-paper')
  if table.startswith('BiT'):
    return RecipeChoice('bit-hyperrule-paper')
  if table == 'DeiT Table 10':
    return RecipeChoice('deit-finetune-384', ({'image_size': row.resolution},))
  return RecipeChoice(
    pick='the source gives no settings for this row; choose one of '
    f'{", ".join(finetuning.RULES)}'
  )


def recipes_for(
  row: Row, choice: RecipeChoice, dataset: str, model: str
) -> tuple[Recipe, ...]:
  """Returns the recipes to try for a row on one data set.

  A row whose train_examples are '5 per class' trains on `train@5`, see
  data/subsets.py.

  Args:
    row: the row.
    choice: a choice with a name.
    dataset: a name for datasets.open_split.
    model: published name.

  Raises:
    InputError: as finetuning.find; or the row has few images a class and the
      catalogue does not have the data set.
  """
  few = _PER_CLASS.fullmatch(row.train_examples)
  number = None
  if few:
    known = catalogue.find(dataset)
    if known is None:
      raise InputError(
        f'{row.id} trains on {row.train_examples}, but the number of classes '
        f'of {dataset!r} is not known; leave --dataset out'
      )
    number = int(few[1]) * known.num_classes
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


def weights_of(checkpoint: str) -> Weights:
  """Returns the files of a row's `checkpoint`.

  Args:
    checkpoint: a name below a bucket. It may contain `{a|b}` (one of these, the
      source does not state which), `{0,1,2}` (all of these), `<task>` (one for
      each task) and `*` (a pattern of AugReg names).

  Raises:
    InputError: the name is unknown, or not a pattern of AugReg names.
  """
  if _TASK in checkpoint:
    return Weights(files=tuple(_expanded(checkpoint, ',')))
  if '{' in checkpoint:
    choices = tuple(_expanded(checkpoint, '|'))
    return Weights(
      choices=choices,
      pick='the source does not state which of these files it evaluated: '
      + ', '.join(choices),
    )
  if '*' in checkpoint:
    return Weights(pick=_augreg_query(checkpoint))
  return Weights(files=(published.find(checkpoint).name,))


def fits(checkpoint: str, name: str) -> bool:
  """Returns whether a file has a pattern's model, data and resolution.

  Args:
    checkpoint: pattern of AugReg names, with '*'.
    name: name of a published file.

  Raises:
    InputError: `checkpoint` is not such a pattern.
  """
  match = _augreg_pattern(checkpoint)
  start = f'augreg/{match["model"]}-{match["data"]}-{match["epochs"]}ep-'
  if not name.startswith(start):
    return False
  upstream, _, adapted = name.partition('--')
  if not match['adapted']:
    return not adapted and upstream == name
  size = f'-res_{match["size"]}'
  return adapted.startswith(f'{match["adapted"]}-') and adapted.endswith(size)


def evaluation_data(eval_dataset: str) -> EvaluationData:
  """Returns the evaluation data of a number, by the row's `eval_dataset`.

  Raises:
    InputError: the name is unknown.
  """
  if eval_dataset in _NAMED:
    name, split = _NAMED[eval_dataset]
    return EvaluationData((name,), split)
  if eval_dataset in _BY_HAND:
    return EvaluationData((), *_BY_HAND[eval_dataset])
  for prefix in _VTAB:
    if eval_dataset.startswith(prefix):
      tasks = _tasks(eval_dataset.removeprefix(prefix).strip())
      return EvaluationData(tasks, 'test')
  raise InputError(
    f'unknown evaluation data set {eval_dataset!r}; known are '
    f'{sorted(_NAMED | _BY_HAND)} and the tasks of VTAB'
  )


def trained_on(finetune_dataset: str, dataset: str) -> str:
  """Returns the data set on which a model was fine-tuned.

  Args:
    finetune_dataset: the row's; '' if there was no fine-tuning.
    dataset: the data set of the evaluation. For ReaL and V2 this is ImageNet:
      they have other labels or other images for its classes.
  """
  if finetune_dataset in _NAMED:
    return _NAMED[finetune_dataset][0]
  return 'imagenet2012' if dataset.startswith('imagenet') else dataset


def _expanded(name, separator):
  """Returns the names that result from expanding braces, without .npz."""
  parts = _BRACES.split(name.removesuffix('.npz'))
  choices = [
    part.split(separator) if i % 2 else [part] for i, part in enumerate(parts)
  ]
  return [''.join(chosen) for chosen in itertools.product(*choices)]


def _augreg_pattern(checkpoint):
  match = _AUGREG.fullmatch(checkpoint)
  if match is None:
    raise InputError(
      f'checkpoint {checkpoint!r} is not a pattern of AugReg names; name one '
      'file'
    )
  return match


def _augreg_query(checkpoint):
  match = _augreg_pattern(checkpoint)
  data = match['data']
  if (data, match['epochs']) == ('i21k', '30'):
    data = 'i21k_30'  # its name in index.csv
  query = f'--model={match["model"]} --pretrained_on={data}'
  if match['adapted']:
    query += f' --adapted_to={match["adapted"]} --resolution={match["size"]}'
  return (
    "the file with the best upstream accuracy in the bucket's index.csv: "
    f'python -m vit_jax_repro.fetch --augreg {query} --best'
  )


def _tasks(text):
  """Returns the VTAB tasks of a column of Table 9, of a group, or all 19."""
  rows = [row for row in catalogue.DATA_SETS.values() if row.group]
  if text in ('', '(19 tasks)', 'Mean'):
    return tuple(row.name for row in rows)
  group = text.removesuffix(' mean')
  if group in _GROUPS:
    return tuple(row.name for row in rows if row.group == group)
  found = tuple(row.name for row in rows if row.column == text)
  if not found:
    raise InputError(
      f'unknown VTAB task {text!r}; columns are {[row.column for row in rows]}'
    )
  return found
