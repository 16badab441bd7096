"""Which known causes explain the differences of a port.

Each cause is substituted on the reference's side; the one after which the
reference agrees with the port is named. Where several are at work, they are
found one after the other, the one that closes most of the gap first.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax_repro.comparison import activations, differences
from vit_jax_repro.comparison.activations import LOGITS
from vit_jax_repro.comparison.causes import Cause

_MOST_CAUSES = 5
# A cause must shrink the differences at least to exp(-0.1) = 90 %, on average
# over the layers that are outside: with a second cause of the same size at
# work, matching one of them takes away a part only.
_LEAST_GAIN = 0.1
# What alone makes the differences so many times larger is not tried on top of
# another cause: the two would have to cancel.
_MOST_WORSE = 3


@dataclasses.dataclass(frozen=True)
class CauseTrial:
  """One cause, tried on the reference."""

  cause: Cause
  effect: float  # on the reference, in units of the tolerance, at its worst
  remaining: float  # differences.total_excess from the port, with it
  worst: float  # the port's largest difference in tolerances, with it

  @property
  def distinguishable(self) -> bool:
    """Whether these weights and images show the cause at all."""
    return self.effect > 1

  @property
  def closes(self) -> bool:
    return self.remaining == 0


@dataclasses.dataclass(frozen=True)
class Diagnosis:
  """What explains a port's differences."""

  layers: tuple[differences.LayerDifference, ...]
  trials: tuple[CauseTrial, ...]  # every cause alone, what explains most first
  named: tuple[Cause, ...]  # that together bring the two nearest, main first
  alternatives: tuple[Cause, ...]  # that do as well as the last one named
  remaining: tuple[differences.LayerDifference, ...]  # with the named ones
  # Activations of the reference that the port has not in this shape: (name,
  # why), see `differences.not_compared`.
  not_compared: tuple[tuple[str, str], ...]
  has_head: bool  # the reference has, so that logits are to be compared

  @property
  def complete(self) -> bool:
    """Logits were compared, if there are any."""
    return not self.has_head or LOGITS not in dict(self.not_compared)

  @property
  def agrees(self) -> bool:
    """All layers and the logits are within tolerance, nothing substituted."""
    return self.complete and differences.first_outside(self.layers) is None

  @property
  def explained(self) -> bool:
    """They are once the causes are matched."""
    return self.complete and differences.first_outside(self.remaining) is None

  @property
  def indistinguishable(self) -> tuple[Cause, ...]:
    """Causes whose effect is under the noise, so that nothing can be said."""
    return tuple(t.cause for t in self.trials if not t.distinguishable)


class Examiner:
  """The reference, ready to be varied and compared with a port.

  Attributes:
    reference: {name: array}, what the reference gives for the images.
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
    """Runs the reference; arguments as for `activations.run`."""
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
    """Tries every cause alone, then adds causes while that helps.

    Args:
      port: {name of the reference: the port's activation} on the same images,
        computed in the same dtype.
      causes: from `causes.known`.
      last_resort: one that says less, such as `causes.port_weights`; tried
        (alone, then with the others added) if those do not explain the port.
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
    """Names causes, beginning with the best of `ranked`, until all is well."""
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
  """By how much the differences shrink: mean logarithm of the layers' ones."""
  return (before - after) / max(sum(not d.within for d in layers), 1)
