"""The recipe, the request for one, and shared arithmetic."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from vit_jax_repro.data import catalogue
from vit_jax_repro.errors import InputError


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Settings with which a source trains or fine-tunes a model on a data set.

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
    """Returns a model's mapping of fields with those of the recipe.

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
class RecipeRequest:
  """Request for a recipe; see `finetuning.find` and `pretraining.find`."""

  name: str
  dataset: str
  model: str
  variant: str
  steps: int | None = None
  num_examples: int | None = None
  image_size: int | None = None
  batch: int | None = None

  def schedule(self, *totals: int) -> int:
    """Returns the number of updates that is asked for, of those that there are.

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
    """Returns the data set's name in the catalogue, '' if it is not there."""
    row = catalogue.find(self.dataset)
    return row.name if row else ''

  def examples(self, split: str) -> int:
    """Returns the number of training images, as given or from the catalogue.

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
  """A recipe by name, for any request that it has settings for.

  Fields:
    make: the function from a RecipeRequest to a Recipe.
    datasets: names in the catalogue; None: any data set.
    variants: from a request to the source's alternatives for it, the default
      first; none at all: `make` reads them.
  """

  make: Callable[[RecipeRequest], Recipe]
  datasets: tuple[str, ...] | None = None
  variants: Callable[[RecipeRequest], tuple[str, ...]] = lambda _: ('',)


def variants(*names: str) -> Callable[[RecipeRequest], tuple[str, ...]]:
  """Returns the same variants for every request."""
  return lambda _: names


def build(
  request: RecipeRequest, source: str, settings, base_lrs, **fields: Any
) -> Recipe:
  """Returns a Recipe for a request.

  Args:
    request, source: the task, and the citation of its settings.
    settings: without dataset and base_lr.
    base_lrs: the rates to choose from, ascending.
    **fields: model_fields, tune and notes where there are any.
  """
  return Recipe(
    name=request.name,
    variant=request.variant,
    source=source,
    dataset=request.dataset,
    settings=dict(
      settings, dataset=request.dataset, base_lr=base_lrs[len(base_lrs) // 2]
    ),
    base_lrs=tuple(base_lrs),
    **dict(dict(model_fields={}, tune=None, notes=()), **fields),
  )


def steps(epochs: float, num_examples: int, batch: int) -> int:
  """Returns the updates in epochs, rounded down as in big_vision (utils.py)."""
  return int(epochs * num_examples / batch)


_TERM = re.compile(r'(\w+)(?:\[(?:(\d+)(%?))?:(?:(\d+)(%?))?\])?')


def num_examples(dataset: str, split: str) -> int | None:
  """Returns the catalogue's number of examples; None for unknown splits.

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
  """Returns the rule of a name.

  Raises:
    InputError: there is none.
  """
  if name not in table:
    raise InputError(f'unknown {kind} recipe {name!r}; choose from {[*table]}')
  return table[name]


def choose(rule: Rule, request: RecipeRequest) -> RecipeRequest:
  """Returns the request with the rule's default variant filled in.

  Raises:
    InputError: the rule has no such variant, or not this data set.
  """
  if rule.datasets is not None and request.known not in rule.datasets:
    raise InputError(
      f'recipe {request.name!r} has no settings for the data set '
      f'{request.dataset!r}; choose from {list(rule.datasets)}'
    )
  allowed = rule.variants(request)
  if not allowed:
    return request
  if request.variant and request.variant not in allowed:
    raise InputError(
      f'recipe {request.name!r} has no variant {request.variant!r} for '
      f'{request.dataset!r} and {request.model!r}; choose from {list(allowed)}'
    )
  return dataclasses.replace(request, variant=request.variant or allowed[0])
