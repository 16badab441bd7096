"""Known causes of differences between ports and the reference.

A cause is a substitution on the reference's side: of a field of the model, of
parameters, or of what a module returns (`structural_causes`). Sources of the
values: timm 1.0, transformers 5 and facebookresearch/deit, as installed, and
the defaults of PyTorch and Keras.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from vit_jax_repro.comparison import structural_causes
from vit_jax_repro.comparison.activations import Variant
from vit_jax_repro.comparison.substitution import ATTENTION, POSITIONS
from vit_jax_repro.models.efficientnet import ACTIVATIONS
from vit_jax_repro.models.layers import GELUS
from vit_jax_repro.models.positions import RESIZINGS
from vit_jax_repro.weights import layouts, position_rules, positions, trees

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
PADDINGS = {
  'same': 'at the far side if the total is odd (TensorFlow SAME)',
  'symmetric': '(k - 1) / 2 pixels on every side (PyTorch)',
}
PORT_WEIGHTS = "the port's own, see the table of weights"
PORT_WEIGHTS_BUT_HEAD = (
  "the port's own but for its head, see the table of weights"
)
_PROJECTIONS = ('query', 'key', 'value')


@dataclasses.dataclass(frozen=True, eq=False)
class Cause:
  """A possible difference between a port and the reference."""

  topic: str  # 'GELU form', ...; two causes of a topic exclude each other
  port: str  # value or behaviour of the port
  reference: str  # value or behaviour of the reference
  substitute: Callable[[Variant], Variant]  # without changes in place
  # Regular expression for the names of activations whose computation it
  # changes, to be found anywhere in a name.
  acts: str = ''
  # Its effect may be below the tolerance where it acts, and show only later.
  is_small: bool = False

  def __str__(self) -> str:
    return f'{self.topic}: {self.port}, not {self.reference}'

  def acts_on(self, name: str) -> bool:
    """Returns whether it changes the computation of a named activation."""
    return re.search(self.acts, name) is not None


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
  constants: Mapping[str, Any] | None = None,
) -> list[Cause]:
  """Returns the causes that apply to a model.

  Args:
    model: the reference.
    params: its parameters.
    resized: its position embeddings before resizing, if they were resized.
    constants: {field: value} that is known of the port, see
      `torch_facts.constants`. Other values of these fields are left out.
  """
  flat = trees.flatten(params)
  constants = constants or {}
  found = [*_field_causes(model, flat, constants)]
  if any('/query/' in name for name in flat):
    found += _order_causes()
  if getattr(model, 'representation_size', None) == getattr(
    model, 'hidden_size', 0
  ):
    found.append(
      Cause(
        'pre_logits',
        'left out',
        'a tanh layer',
        _without_pre_logits,
        'pre_logits|logits$',
      )
    )
  if resized is not None:
    found += [
      Cause(
        'position embeddings resized',
        shown,
        RESIZINGS[model.position_resizing],
        _Repositioned(resized, rule),
        POSITIONS,
        is_small=True,
      )
      for rule, shown in RESIZINGS.items()
      if rule != model.position_resizing
    ]
  found += [
    Cause(*row)
    for row in structural_causes.rows(model, flat)
    if row[0] != 'activation' or _may_be(row[1], constants)
  ]
  return found


def read_off(causes: list[Cause], constants: Mapping[str, Any]) -> list[Cause]:
  """Returns the causes that are known facts of the port.

  Args:
    causes: result of `known` with the same constants.
    constants: see `known`.
  """
  topics = {TOPICS[field] for field in constants if field in TOPICS}
  if 'gelu' in constants:
    topics.add('activation')
  return [cause for cause in causes if cause.topic in topics]


def _may_be(shown, constants):
  value = constants.get('gelu')
  known_name = structural_causes.ACTIVATIONS.get(value, (None,))[0]
  return 'gelu' not in constants or known_name == shown


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
    lambda variant: variant._replace(params=params),
    is_small=True,
  )


_NORMS = '(/LayerNorm_[01]|_norm|block[0-9]+|gn_root|MixerBlock_[0-9]+)$'
_UNITS = '(stem|block[0-9]+/unit[0-9]+|top)$'
_CONVS = '(conv_root|root_block|block[0-9]+)$'


class _Field(NamedTuple):
  """A field of a model that ports may have with another value."""

  topic: str
  values: Iterable[Any]
  acts: str  # see `Cause`
  shown: Callable[[Any], Any] = str


_FIELDS = {
  'pool_padding': _Field(
    'pool padding', sorted(POOL_PADDINGS), _CONVS, POOL_PADDINGS.get
  ),
  'gelu': _Field('GELU form', GELUS, structural_causes.MLPS),
  'layer_norm_eps': _Field('LayerNorm epsilon', NORM_EPSILONS, _NORMS),
  'group_norm_eps': _Field('GroupNorm epsilon', NORM_EPSILONS, _NORMS),
  'batch_norm_eps': _Field('batch norm epsilon', NORM_EPSILONS, _UNITS),
  'activation': _Field('activation', sorted(ACTIVATIONS), _UNITS),
  'padding': _Field(
    'padding of the convolutions', sorted(PADDINGS), _UNITS, PADDINGS.get
  ),
}
_OF_RESNETS = ('pool_padding', 'group_norm_eps')
TOPICS = {  # of the fields that `torch_facts.constants` reads
  name: _FIELDS[name].topic
  for name in ('gelu', 'layer_norm_eps', 'group_norm_eps', 'batch_norm_eps')
}


def _field_causes(model, flat, constants):
  """Yields the causes that change a field of the model."""
  has_resnet = 'conv_root/kernel' in flat or 'root_block/conv/kernel' in flat
  if has_resnet:
    yield from _standardization_causes(model)
  for name, field in _FIELDS.items():
    if not hasattr(model, name) or (name in _OF_RESNETS and not has_resnet):
      continue
    values = field.values
    if name in constants:
      values = (constants[name],)
      if name == 'gelu':
        values = set(values) & GELUS.keys()
    for value in values:
      if value != getattr(model, name):
        yield _field_cause(
          field.topic, {name: value}, model, field.acts, field.shown
        )


def _standardization_causes(model):
  for form, eps in WEIGHT_STANDARDIZATIONS:
    changed = {
      'weight_standardization': form,
      'weight_standardization_eps': eps,
    }
    if any(getattr(model, name) != value for name, value in changed.items()):
      topic = 'weight standardisation'
      yield _field_cause(topic, changed, model, _CONVS, _standardization)


def _field_cause(topic, changed, model, acts, shown):
  return Cause(
    topic,
    shown(*changed.values()),
    shown(*(getattr(model, name) for name in changed)),
    lambda variant: variant._replace(model=variant.model.clone(**changed)),
    acts,
    is_small=True,
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
        functools.partial(_reordered, order),
        ATTENTION,
      )
  yield Cause(
    'q/k/v order',
    'the fused projection split into heads first',
    'into query, key, value first',
    _split_by_heads,
    ATTENTION,
  )


def _reordered(order, variant):
  """Replaces query, key and value by the projections named in `order`."""
  flat = trees.flatten(variant.params)
  changed = dict(flat)
  for part, other in zip(_PROJECTIONS, order, strict=True):
    for name in flat:
      if f'/{part}/' in name:
        changed[name] = flat[name.replace(f'/{part}/', f'/{other}/')]
  return variant._replace(params=trees.nest(changed))


def _split_by_heads(variant):
  """Reads the fused [q, k, v] x heads x d as heads x [q, k, v] x d."""
  flat = trees.flatten(variant.params)
  changed = dict(flat)
  for name in flat:
    if '/query/' in name:
      parts = [name.replace('/query/', f'/{part}/') for part in _PROJECTIONS]
      fused = np.stack([flat[p] for p in parts], axis=-3)  # [..., 3, A, d]
      heads = fused.reshape(*fused.shape[:-3], fused.shape[-2], 3, -1)
      changed |= {p: heads[..., i, :] for i, p in enumerate(parts)}
  return variant._replace(params=trees.nest(changed))


def _without_pre_logits(variant):
  params = {k: v for k, v in variant.params.items() if k != 'pre_logits'}
  model = variant.model.clone(representation_size=None)
  variant = variant._replace(model=model, params=params)
  return variant._replace(seen=(*variant.seen, _with_same_tanh))


def _with_same_tanh(named):
  """Names the input of the head as the port does, which has no tanh."""
  return named | {'pre_logits_tanh': named['pre_logits']}


@dataclasses.dataclass(frozen=True)
class _Repositioned:
  """Resizes the file's position embeddings by a port's rule."""

  resized: ResizedPositions
  rule: str

  def __call__(self, variant):
    flat = trees.flatten(variant.params)
    name = positions.name_in(flat) or layouts.POSITIONS
    resized = position_rules.resize(
      self.resized.embeddings,
      self.resized.grid,
      source_grid=self.resized.source_grid,
      num_tokens=self.resized.num_tokens,
      rule=self.rule,
    )
    # The class token has an embedding of zeros if the file has none for it.
    missing = flat[name].shape[1] - resized.shape[1]
    tokens = np.asarray(flat[name])[:, :missing]
    flat[name] = np.concatenate([tokens, resized], axis=1)
    return variant._replace(params=trees.nest(flat))
