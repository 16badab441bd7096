"""What a study comes to: its sides, and whether claims hold.

The rule: a claim is about a sum of sides' means with weights, most often the
difference of two. Its spread is the root of the summed squares of weight times
standard deviation over seeds: what the difference of two single runs varies
by. Nothing is said where the difference is within the spread.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

ACCURACY, LOCALITY = 'accuracy', 'locality'
HOLDS, FAILS, UNDECIDED = 'holds', 'does not hold', 'undecided'


@dataclasses.dataclass(frozen=True)
class Side:
  """One side of a comparison, at the learning rate that served it best."""

  name: str
  base_lr: float
  accuracies: tuple[float, ...]  # of the test split, a fraction for each seed
  mean: float  # of the accuracies
  spread: float  # standard deviation over the seeds
  # How position embeddings resemble each other, for each seed; see
  # `position_similarity`. () where the study does not ask for it.
  localities: tuple[float, ...] = ()
  # Of each learning rate, the mean on the held-out split; {} without a choice.
  held_out: Mapping[str, float] = dataclasses.field(default_factory=dict)
  runs: tuple[str, ...] = ()  # folders of the last training, for each seed

  def values(self, measure: str) -> tuple[float, ...]:
    return self.accuracies if measure == ACCURACY else self.localities


@dataclasses.dataclass(frozen=True)
class Claim:
  """What a paper says of a study.

  Fields:
    text: the claim, in our words.
    source: paper and section.
    weights: side: its weight in the sum.
    kind: 'more', the sum is above 0; 'alike', its size is at most `margin`;
      'differs', it is not 0.
    margin: of 'alike'; ours, as the papers name none. A part of the size of
      `gap`, another sum, if there is one.
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
  """A claim, held against what was measured."""

  claim: str
  source: str
  difference: float
  spread: float
  verdict: str  # HOLDS, FAILS, or UNDECIDED and why


def side(
  name: str, base_lr: float, accuracies: Sequence[float], **more
) -> Side:
  """A Side with its mean and spread."""
  return Side(
    name=name,
    base_lr=base_lr,
    accuracies=tuple(accuracies),
    mean=statistics.mean(accuracies),
    spread=deviation(accuracies),
    **more,
  )


def judge(claim: Claim, sides: Sequence[Side]) -> Judgement | None:
  """Whether a claim holds; None if a side that it is about was not run."""
  values = {each.name: each.values(claim.measure) for each in sides}
  if not claim.weights.keys() | claim.gap.keys() <= values.keys():
    return None
  terms = [(weight, values[name]) for name, weight in claim.weights.items()]
  difference = _total(claim.weights, values)
  spread = math.hypot(*(weight * deviation(v) for weight, v in terms))
  margin = claim.margin * (abs(_total(claim.gap, values)) if claim.gap else 1)
  if any(len(v) < 2 for _, v in terms):
    verdict = f'{UNDECIDED}: one seed says nothing of the spread'
  else:
    verdict = _verdict(claim.kind, difference, spread, margin)
  return Judgement(claim.text, claim.source, difference, spread, verdict)


def deviation(values: Sequence[float]) -> float:
  """The standard deviation; 0 of one value."""
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
    return f'{UNDECIDED}: the spread reaches over the margin'
  if size <= spread:
    return f'{UNDECIDED}: the difference is within the spread'
  return HOLDS if kind == 'differs' or difference > 0 else FAILS
