"""The check of a published number: file, data, preprocessing, recipe.

A row of `paper.table` becomes a Check. What its source leaves open is not
guessed: `Check.pick` lists what to choose, and the choice is an argument.
"""

import dataclasses
import os
import re
from collections.abc import Mapping

from vit_jax_repro.data import catalogue
from vit_jax_repro.errors import InputError
from vit_jax_repro.models import variants
from vit_jax_repro.paper.table import Row
from vit_jax_repro.published import catalogue as published
from vit_jax_repro.recipes import rules
from vit_jax_repro.recipes.recipe import Recipe, num_examples
from vit_jax_repro.reproduction import row_sources
from vit_jax_repro.reproduction.row_sources import EvaluationData

EVALUATE, FINE_TUNE = 'evaluate', 'fine-tune'
# Where a row does not say at how many pixels its files were evaluated: the
# scale of all families but BiT, which has a rule.
_SIZE = 224
_DEFAULT_READING = 'vit_jax'
_TIMM = re.compile(r'timm eval: (bicubic|bilinear), crop_pct ([\d.]+)')
_METRICS = {
  'top1_pct': 'accuracy',
  'top5_pct': 'top5_accuracy',
  'vtab_mean_top1_pct': 'accuracy',
  'vtab_group_mean_top1_pct': 'accuracy',
}


@dataclasses.dataclass(frozen=True)
class Check:
  """The check of one row.

  Of several data sets the measurement is the mean over them, of several files
  for one data set the mean over these.
  """

  row: Row
  kind: str  # EVALUATE or FINE_TUNE
  files: tuple[str, ...]  # published names; with '<task>': one for each task
  model: str  # published name of the architecture
  datasets: tuple[str, ...]  # that the number is of
  split: str
  metric: str  # 'accuracy' or 'top5_accuracy'
  image_sizes: tuple[int, ...]  # pixels, of each data set
  preprocessing: str
  head: str = 'both'  # of distilled models: 'class', 'distillation'
  # For each data set those to try, the best on their held-out part taken; the
  # data set that one trains on may be another.
  recipes: tuple[tuple[Recipe, ...], ...] = ()
  pick: tuple[str, ...] = ()  # what must be chosen before this can run
  notes: tuple[str, ...] = ()
  # What is in the place of what the row names, 'data' and 'recipe'.
  substituted: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @property
  def is_fine_tuned(self) -> bool:
    """Returns whether the check trains."""
    return self.kind == FINE_TUNE

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
    row: one that can be checked.
    weights: a published name, where the row leaves several.
    dataset: a folder or name, where TFDS has none for the row, or in place of
      the one that it names, which the check records. The training data stay.
    recipe: a key of `finetuning.RULES`, in place of the row's own, which the
      check records.

  Raises:
    InputError: the row cannot be checked, with the reason; a choice that is
      none, or that the row does not leave.
  """
  if row.status == 'not-checkable':
    raise InputError(
      f'{row.id} cannot be checked ({row.blocker}); `reproduce show '
      f'--row={row.id}` says why'
    )
  target = row_sources.evaluation_data(row.eval_dataset)
  named = row_sources.weights_of(row.checkpoint)
  files = _files(row, named, weights)
  names = _datasets(row, target, dataset)
  preprocessing, notes = _reading(row)
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
    # Not a folder that is evaluated in the place of what the row names.
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
    notes += (f'the recipe is of other data: {less}',)
  return dataclasses.replace(
    check,
    recipes=recipes,
    image_sizes=tuple(tried[0].settings['pp']['crop'] for tried in recipes),
    preprocessing=first.settings.get('preprocessing', _DEFAULT_READING),
    notes=notes,
    substituted=substituted,
  )


def _model(files, checkpoint):
  """Returns the published name of the files' architecture."""
  if files and '<task>' not in files[0]:
    return published.find(files[0]).model
  last = checkpoint.rpartition('/')[2]
  name = re.match(r'(BiT-[SM]-R\d+x\d+|\w+)', last)[1]
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


def _reading(row):
  """Returns (preprocessing, notes) that a file is evaluated with."""
  if row.table.startswith('timm'):
    method, crop_pct = _TIMM.match(row.note).groups()
    base = 'deit' if row.family == 'DeiT' else 'timm'
    more = '' if method == 'bicubic' else f',interpolation={method}'
    return f'{base}:crop_pct={float(crop_pct):g}{more}', ()
  if row.family == 'DeiT':
    return 'deit', ()
  if row.checkpoint.startswith('big_vision/'):
    return 'big_vision', ()
  if row.checkpoint.startswith('distill/'):
    note = 'read as big_vision does: the source names the size alone'
    return 'big_vision', (note,)
  if row.eval_dataset == 'ObjectNet':
    note = "the paper's crop, resized or by bounding box, is up to the images"
    return 'bit', (note,)
  if row.family == 'BiT':
    return 'bit', ()
  if 'PyTorch' in row.model:
    note = 'the source squashed with antialiasing, which nothing here does'
    return _DEFAULT_READING, (note,)
  return _DEFAULT_READING, ()


_ALL_OF_VTAB = 'VTAB (full data)'
_VTAB_1K = 1000  # training images


def _files(
  row: Row, named: row_sources.Weights, chosen: str | None
) -> tuple[str, ...]:
  """Returns the files of a row; () if one must be chosen and none is.

  Raises:
    InputError: the choice is no published file, or none that the row leaves.
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
      f'--weights={chosen}: {row.id} leaves {", ".join(named.choices)}; choose '
      'one of them'
    )
  if not row_sources.fits(row.checkpoint, name):
    raise InputError(
      f'--weights={chosen}: {row.id} is of {row.checkpoint}; choose such a file'
    )
  return (name,)


def _datasets(
  row: Row, target: EvaluationData, chosen: str | None
) -> tuple[str, ...]:
  """Returns the data sets of a row; () if one must be chosen and none is.

  Raises:
    InputError: another data set than the row's, or one in place of several.
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
      f'--dataset={chosen}: {row.id} is of {row.eval_dataset}; give a folder '
      'with its images, or leave --dataset out'
    )
  return (chosen,)


def _substituted_data(
  target: EvaluationData, names: tuple[str, ...]
) -> dict[str, str]:
  """Returns {'data': what is in the place of the data set that a row names}."""
  if not target.datasets or names == target.datasets:
    return {}
  (name,) = names
  is_folder = name.startswith(('/', '.', '~'))
  return {
    'data': os.path.abspath(os.path.expanduser(name)) if is_folder else name
  }


def _less_data(row: Row, recipe: Recipe) -> str:
  """Returns why a recipe trains on less data than its row of VTAB, or ''."""
  split = recipe.settings['pp']['train']
  less = num_examples(recipe.dataset, split) == _VTAB_1K
  if not row.eval_dataset.startswith(_ALL_OF_VTAB) or not less:
    return ''
  return f'which trains on {split}, {_VTAB_1K} images and not all'
