"""`Recipe`, `RecipeRequest` and `Rule`, with the arithmetic they share."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vit_jax_repro.data import catalogue
from vit_jax_repro.errors import InputError

# A value of `Recipe.model_fields`: the model's own width.
HIDDEN_SIZE = 'hidden_size'


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Settings by which a source trains or fine-tunes a model on a data set.

  Fields:
    name, variant: arguments of `find`; variant is '' if there is only one.
    source: paper and section, or repository and file.
    dataset: for jobs.train; '' if the user has to choose it.
    settings: for jobs.train, without pretrained_dir and model. Its base_lr is
      the middle one of `base_lrs`, the larger of two.
    model_fields: fields of the model that the source sets. HIDDEN_SIZE means
      the width of the model.
    base_lrs: learning rates that the source chooses from; often only one.
    tune: splits for that choice, dict(train=..., test=...); None: no choice.
    notes: one line for each setting that the source omits, with the value
      taken here; pvc-NN is a row of paper/numbers/differences.csv.
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
    """Returns a model's fields, updated by those of the recipe.

    Args:
      model: fields such as `models.variant` returns. A field of its
        `transformer` group is updated in that group.
    """
    group = model.get('transformer', {})
    grouped = {k: v for k, v in self.model_fields.items() if k in group}
    fields = {
      k: model[HIDDEN_SIZE] if v == HIDDEN_SIZE else v
      for k, v in self.model_fields.items()
      if k not in group
    }
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
    """Returns the requested number of updates; by default the first of totals.

    Raises:
      InputError: `steps` is not one of `totals`.
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

  @property
  def row(self) -> catalogue.DataSet:
    """Returns the data set's row of the catalogue.

    Raises:
      InputError: the catalogue does not have the data set.
    """
    row = catalogue.find(self.dataset)
    if row is None:
      raise InputError(
        f'recipe {self.name!r} needs a data set of the catalogue, not '
        f'{self.dataset!r}; choose from {sorted(catalogue.DATA_SETS)}'
      )
    return row

  def examples(self, split: str) -> int:
    """Returns the number of training images, as given or from the catalogue.

    Raises:
      InputError: the number is not given and the catalogue does not have it.
    """
    number = self.num_examples or num_examples(self.dataset, split)
    if number is None:
      raise InputError(
        f'recipe {self.name!r} depends on the number of training images, which '
        f'is not known for {self.dataset!r}; give num_examples'
      )
    return number


@dataclasses.dataclass(frozen=True)
class Rule:
  """A function from requests to recipes, and the requests that it accepts.

  Fields:
    make: returns the Recipe of a RecipeRequest.
    datasets: names in the catalogue; None: any data set.
    variants: returns the variants for a request, the default first; () if
      `make` parses and checks the variant itself.
  """

  make: Callable[[RecipeRequest], Recipe]
  datasets: tuple[str, ...] | None = None
  variants: Callable[[RecipeRequest], tuple[str, ...]] = lambda _: ('',)


def variants(*names: str) -> Callable[[RecipeRequest], tuple[str, ...]]:
  """Returns a function that returns `names` for every request."""
  return lambda _: names


def build(
  request: RecipeRequest,
  source: str,
  settings: Mapping[str, Any],
  base_lrs: Sequence[float],
  *,
  model_fields: Mapping[str, Any] | None = None,
  tune: Mapping[str, str] | None = None,
  notes: tuple[str, ...] = (),
) -> Recipe:
  """Returns the Recipe for a request.

  Args:
    request: the data set, the model and the variant.
    source: the citation of the settings.
    settings: without dataset and base_lr.
    base_lrs: the learning rates to choose from, ascending.
    model_fields, tune, notes: see `Recipe`.
  """
  return Recipe(
    name=request.name,
    variant=request.variant,
    source=source,
    dataset=request.dataset,
    settings=dict(
      settings, dataset=request.dataset, base_lr=base_lrs[len(base_lrs) // 2]
    ),
    model_fields=model_fields or {},
    base_lrs=tuple(base_lrs),
    tune=tune,
    notes=notes,
  )


def steps(epochs: float, num_examples: int, batch: int) -> int:
  """Returns the number of updates in `epochs`, rounded down.

  Source: big_vision, utils.py.
  """
  return int(epochs * num_examples / batch)


_TERM = re.compile(r'(\w+)(?:\[(?:(\d+)(%?))?:(?:(\d+)(%?))?\])?')


def num_examples(dataset: str, split: str) -> int | None:
  """Returns the number of examples in a split; None if it is not known.

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
    InputError: the table has no such name.
  """
  if name not in table:
    raise InputError(f'unknown {kind} recipe {name!r}; choose from {[*table]}')
  return table[name]


def choose(rule: Rule, request: RecipeRequest) -> RecipeRequest:
  """Returns the request with the rule's default variant filled in.

  Raises:
    InputError: the rule does not have this variant or this data set.
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
