"""Known causes of differences between ports and the reference.

A cause is a substitution on the reference's side: a field of the model, or a
change of the parameters. Sources of the values: timm 1.0, transformers 5 and
facebookresearch/deit, as installed, and the defaults of PyTorch and Keras.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from vit_jax_repro.comparison import position_rules
from vit_jax_repro.models.layers import GELUS
from vit_jax_repro.weights import layouts, positions, trees

# 1e-12: transformers; 1e-6: the original, timm; 1e-5: PyTorch; 1e-3: Keras.
NORM_EPSILONS = (1e-12, 1e-6, 1e-5, 1e-3)
WEIGHT_STANDARDIZATIONS = (
  ('std_plus_eps', 1e-5),  # the hybrids' original
  ('sqrt_var_plus_eps', 1e-10),  # BiT's original
  ('sqrt_var_plus_eps', 1e-8),  # timm, transformers
  ('sqrt_var_plus_eps', 1e-6),  # timm's StdConv2d by default
  ('sqrt_var_plus_eps', 1e-5),
)
POOL_PADDINGS = {
  'same': 'minus infinity, at the far side (TensorFlow SAME)',
  'symmetric': 'minus infinity, one pixel on every side (PyTorch)',
  'zeros': 'zeros, one pixel on every side (BiT)',
}
PORT_WEIGHTS = "the port's own, see the table of weights"
PORT_WEIGHTS_BUT_HEAD = (
  "the port's own but for its head, see the table of weights"
)
_PROJECTIONS = ('query', 'key', 'value')


@dataclasses.dataclass(frozen=True)
class Cause:
  """A possible difference between a port and the reference."""

  topic: str  # 'GELU form', ...; two causes of a topic exclude each other
  port: str  # value or behaviour of the port
  reference: str  # value or behaviour of the reference
  # (model, params) -> (model, params), without changes in place.
  substitute: Callable[[Any, Mapping[str, Any]], tuple[Any, Mapping[str, Any]]]

  def __str__(self) -> str:
    return f'{self.topic}: {self.port}, not {self.reference}'


@dataclasses.dataclass(frozen=True)
class ResizedPositions:
  """Position embeddings that were resized for the comparison.

  The resizing rule can be a cause only if there was a resize.
  """

  embeddings: np.ndarray  # [1, T + N, D], before resizing
  source_grid: tuple[int, int]
  grid: tuple[int, int]
  num_tokens: int  # T


def known(
  model: nn.Module,
  params: Mapping[str, Any],
  resized: ResizedPositions | None = None,
) -> list[Cause]:
  """Returns the causes that apply to a model.

  Args:
    model: the reference.
    params: its parameters.
    resized: its position embeddings before resizing, if they were resized.
  """
  flat = trees.flatten(params)
  found = [*_field_causes(model, flat)]
  if any('/query/' in name for name in flat):
    found += _order_causes()
  if getattr(model, 'representation_size', None) == getattr(
    model, 'hidden_size', 0
  ):
    found.append(
      Cause('pre_logits', 'left out', 'a tanh layer', _without_pre_logits)
    )
  if resized is not None:
    found += [
      Cause(
        'position embeddings resized',
        rule,
        'bilinear, corners aligned',
        _Repositioned(resized, rule),
      )
      for rule in position_rules.RULES
    ]
  return found


def port_weights(params: Mapping[str, Any], text: str = PORT_WEIGHTS) -> Cause:
  """Returns the port's own weights as a cause.

  Args:
    params: the port's parameters in the form that the reference takes.
    text: name of the weights.
  """
  return Cause(
    'weights',
    text,
    "the file's",
    lambda model, _: (model, params),
  )


def _field_causes(model, flat):
  """Yields the causes that change a field of the model."""
  fields = {
    name: getattr(model, name)
    for name in (
      'gelu',
      'layer_norm_eps',
      'group_norm_eps',
      'weight_standardization',
      'weight_standardization_eps',
      'pool_padding',
    )
    if hasattr(model, name)
  }
  topics = {'gelu': 'GELU form', 'layer_norm_eps': 'LayerNorm epsilon'}
  values = {'gelu': tuple(GELUS), 'layer_norm_eps': NORM_EPSILONS}
  if 'conv_root/kernel' in flat or 'root_block/conv/kernel' in flat:
    topics |= {'group_norm_eps': 'GroupNorm epsilon'}
    values |= {'group_norm_eps': NORM_EPSILONS}
    yield from _convolution_causes(fields)
  for field, topic in topics.items():
    if field in fields:
      for value in values[field]:
        if value != fields[field]:
          yield _field_cause(topic, {field: value}, fields)


def _convolution_causes(fields):
  for form, eps in WEIGHT_STANDARDIZATIONS:
    changed = {
      'weight_standardization': form,
      'weight_standardization_eps': eps,
    }
    if any(fields[name] != value for name, value in changed.items()):
      yield _field_cause(
        'weight standardisation', changed, fields, _standardization
      )
  for padding in sorted(POOL_PADDINGS.keys() - {fields['pool_padding']}):
    changed = {'pool_padding': padding}
    yield _field_cause('pool padding', changed, fields, POOL_PADDINGS.get)


def _field_cause(topic, changed, fields, shown=str):
  return Cause(
    topic,
    shown(*changed.values()),
    shown(*(fields[name] for name in changed)),
    lambda model, params: (model.clone(**changed), params),
  )


def _standardization(form, eps):
  return {
    'std_plus_eps': f'w / (std + {eps:g})',
    'sqrt_var_plus_eps': f'w / sqrt(var + {eps:g})',
  }[form]


def _order_causes():
  """Yields exchanges of query, key and value, and a fusion head by head."""
  for order in itertools.permutations(_PROJECTIONS):
    if order != _PROJECTIONS:
      yield Cause(
        'q/k/v order',
        ', '.join(order),
        ', '.join(_PROJECTIONS),
        _Reordered(order),
      )
  yield Cause(
    'q/k/v order',
    'the fused projection split into heads first',
    'into query, key, value first',
    _split_by_heads,
  )


@dataclasses.dataclass(frozen=True)
class _Reordered:
  """Replaces query, key and value by the projections named in `order`."""

  order: tuple[str, ...]

  def __call__(self, model, params):
    flat = trees.flatten(params)
    changed = dict(flat)
    for part, other in zip(_PROJECTIONS, self.order, strict=True):
      for name in flat:
        if f'/{part}/' in name:
          changed[name] = flat[name.replace(f'/{part}/', f'/{other}/')]
    return model, trees.nest(changed)


def _split_by_heads(model, params):
  """Reads the fused [q, k, v] x heads x d as heads x [q, k, v] x d."""
  flat = trees.flatten(params)
  changed = dict(flat)
  for name in flat:
    if '/query/' in name:
      parts = [name.replace('/query/', f'/{part}/') for part in _PROJECTIONS]
      fused = np.stack([flat[p] for p in parts], axis=-3)  # [..., 3, A, d]
      heads = fused.reshape(*fused.shape[:-3], fused.shape[-2], 3, -1)
      changed |= {p: heads[..., i, :] for i, p in enumerate(parts)}
  return model, trees.nest(changed)


def _without_pre_logits(model, params):
  params = {k: v for k, v in params.items() if k != 'pre_logits'}
  return model.clone(representation_size=None), params


@dataclasses.dataclass(frozen=True)
class _Repositioned:
  """Resizes the file's position embeddings by a port's rule."""

  resized: ResizedPositions
  rule: str

  def __call__(self, model, params):
    flat = trees.flatten(params)
    name = positions.name_in(flat) or layouts.POSITIONS
    flat[name] = position_rules.resize(
      self.resized.embeddings,
      self.resized.grid,
      source_grid=self.resized.source_grid,
      num_tokens=self.resized.num_tokens,
      rule=self.rule,
    )
    return model, trees.nest(flat)
