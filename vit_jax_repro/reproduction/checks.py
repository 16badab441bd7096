"""The check of a published number: file, data, preprocessing, recipe.

`resolve` turns a row of `paper.table` into a Check. It does not guess what the
row's source omits: `Check.pick` lists the missing choices, and the caller gives
them as arguments. A choice that contradicts the row is an error, and one that
replaces a part of the row is recorded in `Check.substituted`.
"""

import dataclasses
import os
import re
from collections.abc import Mapping

from vit_jax_repro.data import catalogue
from vit_jax_repro.errors import InputError
from vit_jax_repro.models import variants
from vit_jax_repro.output import locations
from vit_jax_repro.paper.table import Row
from vit_jax_repro.published import catalogue as published
from vit_jax_repro.recipes import rules
from vit_jax_repro.recipes.recipe import Recipe, num_examples
from vit_jax_repro.reproduction import row_sources
from vit_jax_repro.reproduction.row_sources import EvaluationData

EVALUATE, FINE_TUNE = 'evaluate', 'fine-tune'
# Image size of a row that does not state it. BiT has a rule instead.
_SIZE = 224
_DEFAULT_PREPROCESSING = 'vit_jax'
_ALL_OF_VTAB = 'VTAB (full data)'  # prefix of `eval_dataset`
_VTAB_1K = 1000  # training images
_TIMM = re.compile(r'^timm eval: (bicubic|bilinear), crop_pct ([\d.]+)')
_MODEL = re.compile(r'^(BiT-[SM]-R\d+x\d+|\w+)')
# Families whose images are scaled by ImageNet's mean and deviation.
_IMAGENET_MEAN = ('DeiT', 'EfficientNet')
_METRICS = {
  'top1_pct': 'accuracy',
  'top5_pct': 'top5_accuracy',
  'vtab_mean_top1_pct': 'accuracy',
  'vtab_group_mean_top1_pct': 'accuracy',
}


@dataclasses.dataclass(frozen=True)
class Check:
  """The check of one row.

  The measurement is the mean over the data sets, and over the files of each
  data set.
  """

  row: Row
  kind: str  # EVALUATE or FINE_TUNE
  files: tuple[str, ...]  # published names, with '<task>' for a VTAB task
  model: str  # published name of the architecture
  datasets: tuple[str, ...]  # evaluated data sets
  split: str
  metric: str  # 'accuracy' or 'top5_accuracy'
  image_sizes: tuple[int, ...]  # pixels, for each data set
  preprocessing: str
  head: str = 'both'  # of distilled models: 'class', 'distillation'
  # For each data set the recipes to try, of which the best on its held-out part
  # is used. A recipe may train on another data set.
  recipes: tuple[tuple[Recipe, ...], ...] = ()
  pick: tuple[str, ...] = ()  # choices that are needed before the check can run
  notes: tuple[str, ...] = ()
  # Replacements of what the row names, with the keys 'data' and 'recipe'.
  substituted: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @property
  def is_fine_tuned(self) -> bool:
    """Returns whether the check trains."""
    return self.kind == FINE_TUNE

  @property
  def is_zero_shot(self) -> bool:
    """Returns whether the classes are texts, for an image-text model."""
    return self.model in variants.LITS

  def file_for(self, file: str, dataset: str) -> str:
    """Returns the published name of one of `files` for one of `datasets`."""
    return file.replace('<task>', dataset.removeprefix(catalogue.VTAB))


def resolve(
  row: Row,
  *,
  weights: str | None = None,
  dataset: str | None = None,
  recipe: str | None = None,
) -> Check:
  """Returns the check of a row.

  Args:
    row: a row that can be checked.
    weights: a published name, if the row allows several.
    dataset: a folder or name to evaluate, if TFDS does not have the row's data
      set, or to replace it. The check records a replacement. The data set for
      training does not change.
    recipe: a key of `finetuning.RULES` that replaces the row's own recipe. The
      check records it.

  Raises:
    InputError: the row cannot be checked (the message has the reason), or a
      choice is unknown or not possible for the row.
  """
  if row.status == 'not-checkable':
    raise InputError(
      f'{row.id} cannot be checked ({row.blocker}); `reproduce show '
      f'--row={row.id}` explains the reason'
    )
  target = row_sources.evaluation_data(row.eval_dataset)
  named = row_sources.weights_of(row.checkpoint)
  files = _files(row, named, weights)
  names = _datasets(row, target, dataset)
  preprocessing, notes = _preprocessing(row)
  kind = EVALUATE if row.status == 'checkable-inference' else FINE_TUNE
  check = Check(
    row=row,
    kind=kind,
    files=files,
    model=_model(files or named.choices, row.checkpoint),
    datasets=names,
    split=target.split,
    metric=_METRICS[row.metric],
    image_sizes=tuple(
      row.resolution or _size(row, name) for name in target.datasets or names
    ),
    preprocessing=preprocessing,
    head=_head(row),
    notes=notes,
    substituted=_substituted_data(target, names),
    pick=tuple(
      f'--{flag}: {what}'
      for flag, given, what in (
        ('weights', files, named.pick),
        ('dataset', names, target.pick),
      )
      if not given
    ),
  )
  return check if kind == EVALUATE else _with_recipes(check, recipe)


def _with_recipes(check, recipe):
  choice, own = row_sources.recipe_of(check.row), True
  if recipe not in (None, choice.name):
    own = bool(choice.pick)
    choice = row_sources.RecipeChoice(recipe)
  if choice.pick:
    pick = f'--recipe: {choice.pick}'
    return dataclasses.replace(check, pick=(*check.pick, pick))
  recipes = tuple(
    row_sources.recipes_for(
      check.row,
      choice,
      row_sources.trained_on(check.row.finetune_dataset, dataset),
      check.model,
    )
    # A folder that replaces the row's data set is evaluated, not trained on.
    for dataset in row_sources.evaluation_data(check.row.eval_dataset).datasets
    or check.datasets
  )
  if not recipes:
    return check
  first = recipes[0][0]
  substituted, notes = dict(check.substituted), (*check.notes, *first.notes)
  if not own:
    substituted['recipe'] = choice.name
  less = _less_data(check.row, first)
  if less:
    substituted['recipe'] = f'{choice.name}, {less}'
    notes += (f'the recipe is for other data: {less}',)
  return dataclasses.replace(
    check,
    recipes=recipes,
    image_sizes=tuple(tried[0].settings['pp']['crop'] for tried in recipes),
    preprocessing=first.settings.get('preprocessing', _DEFAULT_PREPROCESSING),
    notes=notes,
    substituted=substituted,
  )


def _model(files, checkpoint):
  """Returns the published name of the files' architecture."""
  if files and '<task>' not in files[0]:
    return published.find(files[0]).model
  last = checkpoint.rpartition('/')[2]
  name = row_sources.require_match(_MODEL, last)[1]
  return variants.canonical_name(name.partition('-i')[0])


def _head(row):
  for head in ('class', 'distillation'):
    if row.model.endswith(f'{head} token only'):
      return head
  return 'both'


def _size(row, dataset):
  if row.family != 'BiT':
    return _SIZE
  _, crop = rules.resolution(*rules.image_size(dataset))
  return crop


def _preprocessing(row):
  """Returns (preprocessing, notes) for the evaluation of a row's files."""
  if row.table.startswith('timm'):
    method, crop_pct = row_sources.require_match(_TIMM, row.note).groups()
    base = 'deit' if row.family in _IMAGENET_MEAN else 'timm'
    more = '' if method == 'bicubic' else f',interpolation={method}'
    return f'{base}:crop_pct={float(crop_pct):g}{more}', ()
  if row.family in ('DeiT', 'LiT', 'EfficientNet'):
    return row.family.lower(), ()
  if row.checkpoint.startswith('big_vision/'):
    return 'big_vision', ()
  if row.checkpoint.startswith('distill/'):
    note = (
      "preprocessing of big_vision, because the source states only the images' "
      'size'
    )
    return 'big_vision', (note,)
  if row.eval_dataset == 'ObjectNet':
    note = (
      'the paper resizes the images or crops them by bounding box; prepare the '
      'images in the folder accordingly'
    )
    return 'bit', (note,)
  if row.family == 'BiT':
    return 'bit', ()
  if 'PyTorch' in row.model:
    note = (
      'the source resized to a square with antialiasing; no preprocessing here '
      'does that'
    )
    return _DEFAULT_PREPROCESSING, (note,)
  return _DEFAULT_PREPROCESSING, ()


def _files(
  row: Row, named: row_sources.Weights, chosen: str | None
) -> tuple[str, ...]:
  """Returns the files of a row; () if a choice is needed and not given.

  Raises:
    InputError: the choice is not a published file, or not possible for the row.
  """
  if chosen is None:
    return named.files
  name = published.find(chosen).name
  if named.files:
    if named.files == (name,):
      return named.files
    raise InputError(
      f'--weights={chosen}: {row.id} names {", ".join(named.files)}; leave '
      '--weights out'
    )
  if named.choices:
    if name in {published.find(choice).name for choice in named.choices}:
      return (name,)
    raise InputError(
      f'--weights={chosen}: {row.id} allows {", ".join(named.choices)}; choose '
      'one of them'
    )
  if not row_sources.fits(row.checkpoint, name):
    raise InputError(
      f'--weights={chosen}: {row.id} needs a file that matches {row.checkpoint}'
    )
  return (name,)


def _datasets(
  row: Row, target: EvaluationData, chosen: str | None
) -> tuple[str, ...]:
  """Returns the data sets of a row; () if a choice is needed and not given.

  Raises:
    InputError: the choice is another known data set than the row's, or one data
      set for a mean over several.
  """
  if chosen is None:
    return target.datasets
  if len(target.datasets) > 1:
    raise InputError(
      f'--dataset={chosen}: {row.id} is a mean over {len(target.datasets)} '
      'tasks; leave --dataset out'
    )
  known = catalogue.find(chosen)
  if known is not None and known.name not in {
    name.partition(':')[0] for name in target.datasets
  }:
    raise InputError(
      f'--dataset={chosen}: {row.id} was measured on {row.eval_dataset}; give '
      'a folder with its images, or leave --dataset out'
    )
  return (chosen,)


def _substituted_data(
  target: EvaluationData, names: tuple[str, ...]
) -> dict[str, str]:
  """Returns {'data': name or path} of a data set that replaces the row's."""
  if not target.datasets or names == target.datasets:
    return {}
  (name,) = names
  is_folder = locations.is_path(name)
  return {
    'data': os.path.abspath(os.path.expanduser(name)) if is_folder else name
  }


def _less_data(row: Row, recipe: Recipe) -> str:
  """Returns a remark on a recipe with less data than its VTAB row, or ''."""
  split = recipe.settings['pp']['train']
  less = num_examples(recipe.dataset, split) == _VTAB_1K
  if not row.eval_dataset.startswith(_ALL_OF_VTAB) or not less:
    return ''
  return f'which trains on {split}, {_VTAB_1K} of the images'
