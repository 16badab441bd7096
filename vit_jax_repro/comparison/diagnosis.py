"""The diagnosis of a port: the known causes that explain its differences.

Each cause is substituted on the reference's side. The cause that makes the
reference agree with the port is named. If several causes act together, they are
found one after the other, beginning with the one that closes most of the gap.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax_repro.comparison import activations, differences
from vit_jax_repro.comparison.activations import LOGITS
from vit_jax_repro.comparison.causes import Cause

_MOST_CAUSES = 5
# A cause must reduce the differences by at least 10 % (exp(-0.1)), on average
# over the layers outside their tolerance. The bound is this weak because
# matching one of two causes of the same size removes only part of a difference.
_LEAST_GAIN = 0.1
# A cause that alone increases the largest difference more than this many times
# is not tried on top of another cause: it could help only by cancelling it.
_MOST_WORSE = 3


@dataclasses.dataclass(frozen=True)
class CauseTrial:
  """The result of substituting one cause on the reference."""

  cause: Cause
  effect: float  # largest change of the reference, in units of the tolerance
  remaining: float  # differences.total_excess from the port afterwards
  worst: float  # largest difference from the port afterwards, in tolerances

  @property
  def distinguishable(self) -> bool:
    """Returns whether these weights and images show the cause at all."""
    return self.effect > 1

  @property
  def closes(self) -> bool:
    """Returns whether the cause alone explains all differences."""
    return self.remaining == 0


@dataclasses.dataclass(frozen=True)
class Diagnosis:
  """The differences of a port, and the causes that explain them."""

  layers: tuple[differences.LayerDifference, ...]
  trials: tuple[CauseTrial, ...]  # of each cause alone, the best one first
  named: tuple[Cause, ...]  # causes that together explain most, main one first
  # Causes that explain as much as the last named one.
  alternatives: tuple[Cause, ...]
  remaining: tuple[differences.LayerDifference, ...]  # with `named` substituted
  # (name, reason) of the reference's activations that the port does not have in
  # this shape, see `differences.not_compared`.
  not_compared: tuple[tuple[str, str], ...]
  has_head: bool  # whether the reference has a head, and so logits to compare

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

  @property
  def indistinguishable(self) -> tuple[Cause, ...]:
    """Returns the causes whose effect is below the noise."""
    return tuple(t.cause for t in self.trials if not t.distinguishable)


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
  ):
    """Runs the reference; for the arguments see `activations.run`."""
    self._start = model, params
    self._images = images
    self._dtype = dtype
    self.reference = self._run(*self._start)
    self.tolerances = activations.tolerances(
      self.reference, model, params, images, dtype=dtype
    )

  def diagnose(
    self,
    port: Mapping[str, np.ndarray],
    causes: Sequence[Cause],
    last_resort: Cause | None = None,
  ) -> Diagnosis:
    """Returns the diagnosis: every cause alone, then more while they help.

    Args:
      port: {name of the reference: the port's activation} on the same images,
        computed in the same dtype.
      causes: causes from `causes.known`.
      last_resort: a less specific cause, such as `causes.port_weights`. It is
        tried, alone and then with the others added, if `causes` do not explain
        the port.
    """
    layers = self._compare(self.reference, port)
    trials = [self._try(port, cause) for cause in causes]
    trials = tuple(sorted(trials, key=_rank))
    limit = _MOST_WORSE * differences.worst(layers)
    causes = [trial.cause for trial in trials if trial.worst <= limit]
    found = self._explain(port, causes, trials)
    if found.remaining and last_resort is not None:
      first = self._try(port, last_resort)
      other = self._explain(port, causes, [first])
      if _gain(found.remaining, other.remaining, layers) >= _LEAST_GAIN:
        found = other
    return Diagnosis(
      tuple(layers),
      trials,
      found.named,
      found.alternatives,
      tuple(self._compare(self._variant(found.named), port)),
      differences.not_compared(self.reference, port),
      bool(getattr(self._start[0], 'num_classes', None)),
    )

  def _explain(self, port, causes, ranked):
    """Returns causes that explain the port, beginning with the best `ranked`.

    Adds causes while there are differences and the next cause reduces them.
    """
    layers = self._compare(self.reference, port)
    found = _Explanation((), (), differences.total_excess(layers))
    while found.remaining and ranked and len(found.named) < _MOST_CAUSES:
      best, *others = ranked
      if _gain(found.remaining, best.remaining, layers) < _LEAST_GAIN:
        break
      equals = tuple(t.cause for t in others if t.closes and best.closes)
      named = (*found.named, best.cause)
      found = _Explanation(named, equals, best.remaining)
      topics = {cause.topic for cause in named}
      rest = [cause for cause in causes if cause.topic not in topics]
      ranked = []
      if found.remaining:
        ranked = sorted((self._try(port, c, named) for c in rest), key=_rank)
    return found

  def _try(self, port, cause, matched=()):
    outputs = self._variant((*matched, cause))
    found = self._compare(outputs, port)
    effect = self._compare(self.reference, outputs)
    return CauseTrial(
      cause,
      differences.worst(effect),
      differences.total_excess(found),
      differences.worst(found),
    )

  def _variant(self, causes):
    model, params = self._start
    for cause in causes:
      model, params = cause.substitute(model, params)
    return self._run(model, params)

  def _run(self, model, params):
    return activations.run(model, params, self._images, dtype=self._dtype)

  def _compare(self, outputs, others):
    return differences.compare(outputs, others, self.tolerances)


@dataclasses.dataclass(frozen=True)
class _Explanation:
  named: tuple[Cause, ...]
  alternatives: tuple[Cause, ...]
  remaining: float  # differences.total_excess


def _rank(trial):
  return trial.remaining, trial.worst


def _gain(before, after, layers):
  """Returns the mean reduction of the logarithm of a layer's difference."""
  return (before - after) / max(sum(not d.within for d in layers), 1)
