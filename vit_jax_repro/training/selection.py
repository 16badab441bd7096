"""Training a part of a model: which parameters, and their tree.

Only the trained parameters have gradients, moments and averages. The others are
constants of the objective, so a backward pass ends at the first layer that is
trained, and no device sums gradients of the others. The frozen statistics of
batch normalisation are in the tree of the parameters and are never trained.
"""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages
from vit_jax_repro.training import layer_decay
from vit_jax_repro.weights import trees
from vit_jax_repro.weights.adapt import HEADS

ALL, HEAD = 'all', 'head'
_LAST = 'last:'


def select(
  params: Mapping[str, Any], model: nn.Module, train: str
) -> frozenset[str] | None:
  """Returns the paths of the parameters to train; None for all of them.

  Statistics of norms are no parameters.

  Args:
    params: the parameters of `model`, or their shapes.
    model: the model.
    train: 'all'; 'head', for the classifier or for both classifiers of a
      distilled model; 'last:N', for the last N blocks and all layers after
      them; or a regular expression that is searched in the paths, such as
      'MlpBlock' or '^head/bias$'.

  Raises:
    InputError: the text selects nothing, or more blocks than the model has.
  """
  names = {n for n in trees.flatten(params) if not trees.is_statistic(n)}
  if train in ('', ALL):
    return None
  if train == HEAD:
    chosen = {name for name in names if name.startswith(HEADS)}
  elif train.startswith(_LAST):
    chosen = _last(names, model, train)
  else:
    chosen = _matching(names, train)
  return None if len(chosen) == len(names) else frozenset(chosen)


def part(params: Any, names: frozenset[str] | None) -> Any:
  """Returns the tree of the named parameters; all of them for None.

  Statistics of norms are no parameters.
  """
  flat = trees.flatten(params)
  if names is None:
    names = frozenset(name for name in flat if not trees.is_statistic(name))
    if len(names) == len(flat):
      return params
  return trees.nest({name: flat[name] for name in flat if name in names})


def merged(params: Any, changed: Any) -> Any:
  """Returns the parameters with those of a part replaced.

  Args:
    params: a tree of parameters.
    changed: the tree of a part of them, as from `part`, or a whole tree.
  """
  if jax.tree.structure(params) == jax.tree.structure(changed):
    return changed
  return trees.nest(trees.flatten(params) | trees.flatten(changed))


def _last(names, model, train):
  """Returns the names of the last blocks and of what comes after them."""
  layers = layer_decay.layers_of(model)
  number = train.removeprefix(_LAST)
  if not number.isdecimal() or not 1 <= int(number) <= layers.num_blocks:
    raise InputError(
      f'config.train={train!r}: the model has {layers.num_blocks} blocks; '
      f'choose last:1 to last:{layers.num_blocks}'
    )
  first = layers.num_blocks + 1 - int(number)
  numbers = {name: layers.number(name) for name in names}
  if None in numbers.values():
    raise InputError(
      f'config.train={train!r} cannot divide stacked blocks; set '
      '--config.model.scan=False'
    )
  return {n for n, layer in numbers.items() if layer and layer >= first}


def _matching(names, train):
  """Returns the names in which a regular expression is found."""
  try:
    chosen = {name for name in names if re.search(train, name)}
  except re.error as error:
    raise InputError(
      f'config.train={train!r} is no regular expression ({error}); choose '
      f'{ALL}, {HEAD}, last:N or an expression for paths of parameters'
    ) from None
  if not chosen:
    some = messages.listed(
      {re.sub(r'\d+', '0', name).rpartition('/')[0] or name for name in names}
    )
    raise InputError(
      f'config.train={train!r} is found in no path of a parameter; choose '
      f'{ALL}, {HEAD}, last:N or an expression for paths such as {some}'
    )
  return chosen
