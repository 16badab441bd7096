"""The outcome of a study: its sides, and whether claims hold.

A claim is about a weighted sum of the sides' means, most often the difference
of two sides. The spread of the sum is the root of the summed squares of weight
times standard deviation over the seeds. For two sides, this is the standard
deviation of the difference between two single runs. There is no verdict if the
difference is within the spread.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

ACCURACY, LOCALITY = 'accuracy', 'locality'
HOLDS, FAILS, UNDECIDED = 'holds', 'does not hold', 'undecided'


@dataclasses.dataclass(frozen=True)
class Side:
  """One side of a comparison, at its best learning rate."""

  name: str
  base_lr: float
  accuracies: tuple[float, ...]  # of the test split, a fraction for each seed
  mean: float  # of the accuracies
  spread: float  # standard deviation over the seeds
  # `trainings.locality` of the position embeddings, for each seed; () if the
  # study does not measure it.
  localities: tuple[float, ...] = ()
  # Learning rate: mean accuracy on the held-out split. {} if there was only one
  # learning rate.
  held_out: Mapping[str, float] = dataclasses.field(default_factory=dict)
  runs: tuple[str, ...] = ()  # folders of the last training, for each seed

  def values(self, measure: str) -> tuple[float, ...]:
    """Returns the values of ACCURACY or LOCALITY, one for each seed."""
    return self.accuracies if measure == ACCURACY else self.localities


@dataclasses.dataclass(frozen=True)
class Claim:
  """A statement of a paper that a study tests.

  Fields:
    text: the claim, in our words.
    source: paper and section.
    weights: {side: weight in the sum}.
    kind: 'more': the sum is above 0; 'alike': its absolute value is at most
      `margin`; 'differs': it is not 0.
    margin: for 'alike'. The papers give no margin; this one is ours.
    gap: {side: weight} of another sum. If it is given, `margin` is a fraction
      of the absolute value of that sum.
    measure: ACCURACY or LOCALITY.
  """

  text: str
  source: str
  weights: Mapping[str, float]
  kind: str = 'more'
  margin: float = 0.01
  gap: Mapping[str, float] = dataclasses.field(default_factory=dict)
  measure: str = ACCURACY


@dataclasses.dataclass(frozen=True)
class Judgement:
  """The verdict on a claim."""

  claim: str
  source: str
  difference: float
  spread: float
  verdict: str  # HOLDS, FAILS, or UNDECIDED and why


def side(
  name: str, base_lr: float, accuracies: Sequence[float], **more: Any
) -> Side:
  """Returns a Side with the mean and the spread of its accuracies.

  Args:
    name, base_lr, accuracies: fields of Side.
    **more: further fields of Side.
  """
  return Side(
    name=name,
    base_lr=base_lr,
    accuracies=tuple(accuracies),
    mean=statistics.mean(accuracies),
    spread=deviation(accuracies),
    **more,
  )


def judge(claim: Claim, sides: Sequence[Side]) -> Judgement | None:
  """Returns whether a claim holds; None if one of its sides was not run."""
  values = {each.name: each.values(claim.measure) for each in sides}
  if not claim.weights.keys() | claim.gap.keys() <= values.keys():
    return None
  terms = [(weight, values[name]) for name, weight in claim.weights.items()]
  difference = _total(claim.weights, values)
  spread = math.hypot(*(weight * deviation(v) for weight, v in terms))
  margin = claim.margin * (abs(_total(claim.gap, values)) if claim.gap else 1)
  if any(len(v) < 2 for _, v in terms):
    verdict = f'{UNDECIDED}: one seed gives no spread'
  else:
    verdict = _verdict(claim.kind, difference, spread, margin)
  return Judgement(claim.text, claim.source, difference, spread, verdict)


def deviation(values: Sequence[float]) -> float:
  """Returns the standard deviation; 0 for a single value."""
  return statistics.stdev(values) if len(values) > 1 else 0.0


def _total(weights, values):
  return sum(w * statistics.mean(values[name]) for name, w in weights.items())


def _verdict(kind, difference, spread, margin):
  size = abs(difference)
  if kind == 'alike':
    if size + spread <= margin:
      return HOLDS
    if size - spread > margin:
      return FAILS
    return f'{UNDECIDED}: the margin is within the spread'
  if size <= spread:
    return f'{UNDECIDED}: the difference is within the spread'
  return HOLDS if kind == 'differs' or difference > 0 else FAILS
