"""What a person chooses for a check, where its row leaves that open."""

import os

from vit_jax_repro.data import catalogue
from vit_jax_repro.paper.table import Row
from vit_jax_repro.published import catalogue as published
from vit_jax_repro.recipes.recipe import Recipe, num_examples
from vit_jax_repro.reproduction import weight_names
from vit_jax_repro.reproduction.data_sets import Target

_ALL_OF_VTAB = 'VTAB (full data)'
_VTAB_1K = 1000  # training images


def files(
  row: Row, named: weight_names.Weights, chosen: str | None
) -> tuple[str, ...]:
  """The files of a row; () if one must be chosen and none is.

  Raises:
    ValueError: the choice is no published file, or none that the row leaves.
  """
  if chosen is None:
    return named.files
  name = published.find(chosen).name
  if named.files:
    if named.files == (name,):
      return named.files
    raise ValueError(
      f'--weights={chosen}: {row.id} names {", ".join(named.files)}; leave '
      '--weights out'
    )
  if named.choices:
    if name in {published.find(choice).name for choice in named.choices}:
      return (name,)
    raise ValueError(
      f'--weights={chosen}: {row.id} leaves {", ".join(named.choices)}; choose '
      'one of them'
    )
  if not weight_names.fits(row.checkpoint, name):
    raise ValueError(
      f'--weights={chosen}: {row.id} is of {row.checkpoint}; choose such a file'
    )
  return (name,)


def datasets(row: Row, target: Target, chosen: str | None) -> tuple[str, ...]:
  """The data sets of a row; () if one must be chosen and none is.

  Raises:
    ValueError: another data set than the row's, or one in place of several.
  """
  if chosen is None:
    return target.datasets
  if len(target.datasets) > 1:
    raise ValueError(
      f'--dataset={chosen}: {row.id} is a mean over {len(target.datasets)} '
      'tasks; leave --dataset out'
    )
  known = catalogue.find(chosen)
  if known is not None and known.name not in {
    name.partition(':')[0] for name in target.datasets
  }:
    raise ValueError(
      f'--dataset={chosen}: {row.id} is of {row.eval_dataset}; give a folder '
      'with its images, or leave --dataset out'
    )
  return (chosen,)


def data(target: Target, names: tuple[str, ...]) -> dict[str, str]:
  """{'data': what is in the place of the data set that a row names}."""
  if not target.datasets or names == target.datasets:
    return {}
  (name,) = names
  is_folder = name.startswith(('/', '.', '~'))
  return {
    'data': os.path.abspath(os.path.expanduser(name)) if is_folder else name
  }


def less_data(row: Row, recipe: Recipe) -> str:
  """How a recipe trains on less than a number of all of VTAB; '' if not so."""
  split = recipe.settings['pp']['train']
  less = num_examples(recipe.dataset, split) == _VTAB_1K
  if not row.eval_dataset.startswith(_ALL_OF_VTAB) or not less:
    return ''
  return f'which trains on {split}, {_VTAB_1K} images and not all'
