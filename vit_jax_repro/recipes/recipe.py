"""What a recipe is, what it is asked for, and the arithmetic in common."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from vit_jax_repro.data import catalogue
from vit_jax_repro.errors import InputError


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How a source trains or fine-tunes a model on a data set.

  Fields:
    name, variant: as `find` takes them; '' where there is no other variant.
    source: paper and section, or repository and file.
    dataset: as jobs.train takes it; '' where the user has to say.
    settings: what jobs.train takes, without pretrained_dir and model. Its
      base_lr is the upper middle of `base_lrs`.
    model_fields: fields of the model that the source sets.
    base_lrs: the rates that the source chooses from; one: no choice.
    tune: splits for that choice, dict(train=..., test=...); None: no choice.
    notes: what the source leaves open and what was chosen, one line each;
      pvc-NN is a row of paper/numbers/differences.csv.
  """

  name: str
  variant: str
  source: str
  dataset: str
  settings: Mapping[str, Any]
  model_fields: Mapping[str, Any]
  base_lrs: tuple[float, ...]
  tune: Mapping[str, str] | None
  notes: tuple[str, ...]

  def architecture(self, model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's mapping of fields with those of the recipe.

    Args:
      model: such as models.variant gives it; fields in its `transformer`
        group are replaced there.
    """
    group = model.get('transformer', {})
    grouped = {k: v for k, v in self.model_fields.items() if k in group}
    fields = {k: v for k, v in self.model_fields.items() if k not in group}
    if grouped:
      fields['transformer'] = dict(group, **grouped)
    return dict(model, **fields)


@dataclasses.dataclass(frozen=True)
class Task:
  """What a recipe is asked for; see the `find` of either module."""

  name: str
  dataset: str
  model: str
  variant: str
  steps: int | None = None
  num_examples: int | None = None
  image_size: int | None = None
  batch: int | None = None

  def schedule(self, *totals: int) -> int:
    """The number of updates that is asked for, of those that there are.

    Raises:
      InputError: it is none of them.
    """
    if self.steps not in (None, *totals):
      raise InputError(
        f'recipe {self.name!r} has no schedule of {self.steps} steps for '
        f'{self.dataset!r}; choose from {list(totals)}'
      )
    return self.steps or totals[0]

  @property
  def known(self) -> str:
    """The data set's name in the catalogue, '' if it is not there."""
    row = catalogue.find(self.dataset)
    return row.name if row else ''

  def examples(self, split: str) -> int:
    """The number of training images, as told or from the catalogue.

    Raises:
      InputError: neither knows it.
    """
    number = self.num_examples or num_examples(self.dataset, split)
    if number is None:
      raise InputError(
        f'{self.name!r} depends on how many training images {self.dataset!r} '
        'has, which is not known; give num_examples'
      )
    return number


@dataclasses.dataclass(frozen=True)
class Rule:
  """A recipe before it is asked for a task.

  Fields:
    make: the function from a Task to a Recipe.
    datasets: names in the catalogue; None: any data set.
    variants: from a task to the source's alternatives for it, the default
      first; none at all: `make` reads them.
  """

  make: Callable[[Task], Recipe]
  datasets: tuple[str, ...] | None = None
  variants: Callable[[Task], tuple[str, ...]] = lambda _: ('',)


def variants(*names: str) -> Callable[[Task], tuple[str, ...]]:
  """The same variants for every task."""
  return lambda _: names


def build(task: Task, source: str, settings, base_lrs, **fields: Any) -> Recipe:
  """A Recipe for a task.

  Args:
    task, source: what is asked for, and where the answer stands.
    settings: without dataset and base_lr.
    base_lrs: the rates to choose from, ascending.
    **fields: model_fields, tune and notes where there are any.
  """
  return Recipe(
    name=task.name,
    variant=task.variant,
    source=source,
    dataset=task.dataset,
    settings=dict(
      settings, dataset=task.dataset, base_lr=base_lrs[len(base_lrs) // 2]
    ),
    base_lrs=tuple(base_lrs),
    **dict(dict(model_fields={}, tune=None, notes=()), **fields),
  )


def steps(epochs: float, num_examples: int, batch: int) -> int:
  """Updates in so many epochs, rounded down as in big_vision (utils.py)."""
  return int(epochs * num_examples / batch)


_TERM = re.compile(r'(\w+)(?:\[(?:(\d+)(%?))?:(?:(\d+)(%?))?\])?')


def num_examples(dataset: str, split: str) -> int | None:
  """The number of examples of a split, by the catalogue; None: not there.

  Args:
    dataset: a name in the catalogue, or any other.
    split: such as 'train', 'train[:98%]', 'minitrain', 'train800+val200'.
  """
  row = catalogue.find(dataset)
  if row is None:
    return None
  total = 0
  for term in catalogue.split_of(dataset, split).split('+'):
    match = _TERM.fullmatch(term)
    size = match and row.sizes.get(match[1])
    if not size:
      return None
    begin = _place(match[2], match[3], size, 0)
    total += max(_place(match[4], match[5], size, size) - begin, 0)
  return total


def _place(number, percent, size, default):
  if number is None:
    return default
  if percent:  # rounded to the closest, as TFDS does
    return round(size * int(number) / 100)
  return min(int(number), size)


def pick(kind: str, name: str, table: Mapping[str, Rule]) -> Rule:
  """The rule of a name.

  Raises:
    InputError: there is none.
  """
  if name not in table:
    raise InputError(f'unknown {kind} recipe {name!r}; choose from {[*table]}')
  return table[name]


def choose(rule: Rule, task: Task) -> Task:
  """The task with the rule's default variant filled in.

  Raises:
    InputError: the rule has no such variant, or not this data set.
  """
  if rule.datasets is not None and task.known not in rule.datasets:
    raise InputError(
      f'recipe {task.name!r} has no settings for the data set '
      f'{task.dataset!r}; choose from {list(rule.datasets)}'
    )
  allowed = rule.variants(task)
  if not allowed:
    return task
  if task.variant and task.variant not in allowed:
    raise InputError(
      f'recipe {task.name!r} has no variant {task.variant!r} for '
      f'{task.dataset!r} and {task.model!r}; choose from {list(allowed)}'
    )
  return dataclasses.replace(task, variant=task.variant or allowed[0])
