"""The diagnosis of a port: the known causes that explain its differences.

Each cause is substituted on the reference's side. Causes are named only if with
them every compared layer is within its tolerance and without any of them not
all are, or if one of them reduces the largest difference `GREAT_GAIN` times.
The search follows the order of computation: it tries what acts where the first
difference is.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax_repro.comparison import (
  activations,
  differences,
  structural_causes,
)
from vit_jax_repro.comparison.activations import LOGITS, Variant
from vit_jax_repro.comparison.causes import Cause
from vit_jax_repro.comparison.differences import LayerDifference

GREAT_GAIN = 100
_MOST_CAUSES = 4  # besides those that are read off the port
_BEAM = 4  # sets of causes that are extended
# Where no cause corrects the first difference, those that reduce it to this
# part are extended: two causes may act at the same place.
_REDUCED = 0.9
# An activation that is off by more than this fraction, while a later one
# agrees, is no counterpart of the reference's.
_UNLIKE = 0.01
_UNLIKE_REASON = 'other values, while a later layer agrees'


@dataclasses.dataclass(frozen=True)
class Diagnosis:
  """The differences of a port, and the causes that explain them."""

  layers: tuple[LayerDifference, ...]
  # Causes that together explain all, or a part: see `remaining`.
  named: tuple[Cause, ...]
  # Sets of causes that explain as much as `named`.
  alternatives: tuple[tuple[Cause, ...], ...]
  remaining: tuple[LayerDifference, ...]  # with `named` substituted
  # (name, reason) of the reference's activations that the port does not have in
  # this shape, see `differences.not_compared`.
  not_compared: tuple[tuple[str, str], ...]
  has_head: bool  # whether the reference has a head, and so logits to compare
  tried: tuple[Cause, ...]  # alone or together with others
  # Small causes whose effect is below the noise.
  indistinguishable: tuple[Cause, ...]
  order: tuple[str, ...]  # names of the reference's activations

  @property
  def complete(self) -> bool:
    """Returns whether the logits were compared, if there are any."""
    return not self.has_head or LOGITS not in dict(self.not_compared)

  @property
  def agrees(self) -> bool:
    """Returns whether all layers and logits are within their tolerances."""
    return self.complete and differences.first_outside(self.layers) is None

  @property
  def explained(self) -> bool:
    """Returns whether all is within tolerance with the causes substituted."""
    return self.complete and differences.first_outside(self.remaining) is None


class Examiner:
  """Compares variants of the reference with a port.

  Attributes:
    reference: {name: array}, the reference's activations on the images.
    tolerances: {name: absolute value}.
  """

  def __init__(
    self,
    model: Any,
    params: Mapping[str, Any],
    images: np.ndarray,
    *,
    dtype: str = 'float32',
    show: Callable[[str], Any] = str,
  ):
    """Runs the reference.

    Args:
      model, params, images, dtype: see `activations.run`.
      show: called with one line on what is done next.
    """
    self._start = Variant(model, params, images)
    self._dtype = dtype
    self._show = show
    self._effects: dict[Cause, float] = {}
    self.reference = activations.run_variant(self._start, dtype=dtype)
    show('reference in float64, for the tolerances')
    self.tolerances = activations.tolerances(
      self.reference, model, params, images, dtype=dtype
    )

  def diagnose(
    self,
    port: Mapping[str, np.ndarray],
    causes: Sequence[Cause],
    read_off: Sequence[Cause] = (),
  ) -> Diagnosis:
    """Returns the diagnosis.

    Args:
      port: {name of the reference: the port's activation} on the same images,
        computed in the same dtype.
      causes: causes from `causes.known`.
      read_off: causes that are facts of the port, such as an epsilon of its
        modules or its own weights. They are part of every set that is tried.
        They are named only where they are needed.
    """
    unlike = self._unlike(port)
    port = {name: array for name, array in port.items() if name not in unlike}
    search = _Search(self, port, causes, tuple(read_off))
    layers = search.differences(())
    named, others = search.explain()
    left_out = dict(differences.not_compared(self.reference, port))
    left_out |= dict.fromkeys(
      (name for name in left_out if name in unlike), _UNLIKE_REASON
    )
    if 'pre_logits' not in self._start.params:  # the input of the head
      left_out.pop('pre_logits', None)
    small = [c for c in (*read_off, *causes) if c.is_small]
    unique = {str(c): c for c in small if c.topic != 'weights'}
    return Diagnosis(
      tuple(layers),
      named,
      others,
      tuple(search.differences(named)),
      tuple(left_out.items()),
      bool(getattr(self._start.model, 'num_classes', None)),
      search.tried,
      tuple(c for c in unique.values() if self._effect(c) <= 1),
      tuple(self.reference),
    )

  def variant(self, causes: Sequence[Cause]) -> Variant:
    """Returns the reference with causes substituted."""
    variant = self._start
    for cause in causes:
      variant = cause.substitute(variant)
    return variant

  def compare(
    self, causes: Sequence[Cause], port: Mapping[str, np.ndarray]
  ) -> list[LayerDifference]:
    """Returns the differences of a port from a variant of the reference."""
    outputs = self.reference
    if causes:
      self._show(f'trying {"; ".join(cause.topic for cause in causes)}')
      outputs = activations.run_variant(self.variant(causes), dtype=self._dtype)
    if len(causes) == 1 and causes[0].is_small:
      change = differences.compare(outputs, self.reference, self.tolerances)
      self._effects[causes[0]] = differences.worst(change)
    return differences.compare(outputs, port, self.tolerances)

  def _effect(self, cause):
    """Returns the largest change that a cause makes, in tolerances."""
    if cause not in self._effects:
      self.compare([cause], self.reference)
    return self._effects[cause]

  def _unlike(self, port):
    """Returns names of activations unlike the reference's, though later agree.

    Such an activation was recognised wrongly, or the port divides the
    computation into other steps.
    """
    unlike = set()
    agrees = norm_agrees = False  # whether a later layer, or norm, agrees
    for layer in reversed(self.compare((), port)):
      name = layer.name
      if not layer.within and layer.relative > _UNLIKE:
        # A norm shows no mean and scale of its input, but all the rest.
        hidden = norm_agrees and differences.alike_but_scale(
          self.reference[name], port[name], _UNLIKE
        )
        if agrees or (norm_agrees and not hidden):
          unlike.add(name)
      elif layer.within and self._varies(name):
        # Attention and MLP do not hold all that the layers before them give.
        norm_agrees |= name.endswith(activations.NORMS)
        agrees |= not name.endswith(activations.PARTS)
    return unlike

  def _varies(self, name):
    """Returns whether an activation depends on the images or the token."""
    array = self.reference[name]
    rows = array.reshape(-1, array.shape[-1])
    return float(np.ptp(rows, axis=0).max()) > self.tolerances[name]


class _Search:
  """The search for sets of causes that explain a port."""

  def __init__(self, examiner, port, causes, read_off):
    self._examiner = examiner
    self._port = port
    self._read_off = read_off
    known = {cause.topic for cause in read_off}
    self._causes = [c for c in causes if c.topic not in known]
    self._order = {name: i for i, name in enumerate(examiner.reference)}
    self._found = {}

  @property
  def tried(self):
    """Returns all causes that were substituted."""
    found = itertools.chain.from_iterable(
      key for key, _ in self._found.values()
    )
    return tuple(dict.fromkeys(found))

  def differences(self, causes):
    """Returns the differences with causes substituted."""
    key = frozenset(map(id, causes))
    if key not in self._found:
      layers = self._examiner.compare(causes, self._port)
      self._found[key] = tuple(causes), layers
    return self._found[key][1]

  def explain(self):
    """Returns causes to name, and sets that explain as much."""
    before = self.differences(())
    if differences.first_outside(before) is None:
      return (), ()
    sets = self._closing()
    if not sets:
      names = self._before_gain(before)
      singles = [
        (cause,)
        for cause in (*self._read_off, *self._causes)
        if cause.is_small or any(map(cause.acts_on, names))
      ]
      sets = [s for s in singles if not self._outside(s)]
    if not sets:
      great = [s for s in singles if self._is_great(s)]
      sets = sorted(great, key=lambda s: differences.worst(self.differences(s)))
      sets = sets[:1]
    sets = list({frozenset(map(str, s)): s for s in sets}.values())
    return (sets[0], tuple(sets[1:])) if sets else ((), ())

  def _closing(self):
    """Returns the smallest sets found with which all layers agree."""
    states = [self._read_off]
    for _ in range(1 + _MOST_CAUSES):
      closing = [s for s in states if not self._outside(s)]
      if closing:
        return [self._minimal(s) for s in closing]
      grown = {}
      for state in states:
        new = self._extended(state)
        # A set may be reached in several orders.
        grown |= {frozenset(map(id, s)): s for s in new}
      states = list(grown.values())
      closed = [s for s in states if not self._outside(s)]
      states = closed or sorted(states, key=self._rank)[:_BEAM]
    return []

  def _extended(self, state):
    """Returns the state with each cause that brings it forward."""
    layers = self.differences(state)
    place = self._place(layers)
    topics = {cause.topic for cause in state}
    # With post-norm a norm comes after the part that it precedes in the order.
    after = int(structural_causes.POST_NORM in topics)
    names = self._names(layers, place + after)
    sets = [
      (*state, cause)
      for cause in self._causes
      if cause.topic not in topics
      and (cause.is_small or any(map(cause.acts_on, names)))
    ]
    forward = [s for s in sets if self._place(self.differences(s)) > place]
    if forward:
      return forward
    first = differences.first_outside(layers)
    assert first is not None
    return [
      s for s in sets if self._excess(s, first.name) < _REDUCED * first.excess
    ]

  def _before_first(self, layers):
    """Returns the names after the last layer that agrees, up to the first."""
    return self._names(layers, self._place(layers))

  def _before_gain(self, layers):
    """Returns the names where a cause of a great gain may act.

    A cause that acts only after the first difference leaves that one.
    """
    worst = max(layers, key=lambda layer: layer.excess)
    first = differences.first_outside(layers)
    assert first is not None
    if first.excess * GREAT_GAIN > worst.excess:
      return self._before_first(layers)
    return self._names(layers, self._order[worst.name])

  def _names(self, layers, end):
    """Returns the names after the last layer that agrees, up to a place."""
    first = self._place(layers)
    places = [self._order[layer.name] for layer in layers if layer.within]
    start = max((p for p in places if p < first), default=-1)
    return [name for name, p in self._order.items() if start < p <= end]

  def _place(self, layers):
    first = differences.first_outside(layers)
    return len(self._order) if first is None else self._order[first.name]

  def _excess(self, causes, name):
    layers = {layer.name: layer for layer in self.differences(causes)}
    return layers[name].excess if name in layers else np.inf

  def _outside(self, causes):
    """Returns whether layers differ, or fewer are compared than before."""
    layers = self.differences(causes)
    fewer = len(layers) < len(self.differences(()))
    return fewer or differences.first_outside(layers) is not None

  def _rank(self, causes):
    layers = self.differences(causes)
    return -self._place(layers), differences.total_excess(layers)

  def _minimal(self, causes):
    """Leaves out each cause without which all layers agree as well."""
    for cause in causes:
      fewer = tuple(c for c in causes if c is not cause)
      if not self._outside(fewer):
        return self._minimal(fewer)
    return causes

  def _is_great(self, causes):
    """Returns whether causes reduce the largest difference very much.

    They may not increase any difference.
    """
    before, after = self.differences(()), self.differences(causes)
    known = {layer.name: layer for layer in after}
    if any(
      layer.name not in known
      or not (
        known[layer.name].within or known[layer.name].excess <= layer.excess
      )
      for layer in before
    ):
      return False
    worst = differences.worst(before)
    return np.isfinite(worst) and worst >= GREAT_GAIN * differences.worst(after)
