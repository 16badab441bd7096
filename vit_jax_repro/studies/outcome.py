"""The outcome of a study: its sides, and whether claims hold.

A claim is about a weighted sum of the sides, most often the difference of two.
All sides have the same seeds, so each seed has a sum of its own. The mean of
these sums has a 95 % interval by Student's t. A claim holds if it is true for
the whole interval, it fails if it is false for the whole interval, and else it
is undecided.
"""

import bisect
import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from vit_jax_repro.paper import significance

ACCURACY, LOCALITY = 'accuracy', 'locality'
HOLDS, FAILS, UNDECIDED = 'holds', 'fails', 'undecided'
TOO_FEW = 'too few seeds'
MIN_SEEDS = 3  # for a verdict
PROBABLY = 0.8  # chance of a verdict with `Judgement.seeds_needed`
_NO_SPREAD = 1e-9  # less is a rounding error of equal sums
MOST_SEEDS = 1000  # that are tried for it


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
    margin: the smallest sum that matters. The papers give none; it is ours.
      The kind 'alike' is judged by it, for the others it only determines the
      power.
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
  """The verdict on a claim.

  Fields:
    claim, source, kind, measure: of the Claim.
    verdict: HOLDS, FAILS, UNDECIDED or TOO_FEW.
    num_seeds: number of seeds.
    difference: mean of the sums of the seeds, as a fraction of 1.
    half_width: of its 95 % interval; None if there are too few seeds, as the
      following fields.
    margin: the margin of the claim, in the same unit.
    power: chance that as many seeds with the same spread decide the claim if
      the true sum is 0 ('alike') or the margin (the other kinds); None if all
      seeds have the same sum, as when two sides are the same runs.
    seeds_needed: for UNDECIDED, the number of seeds that would decide the claim
      with a chance of PROBABLY if the measured difference and spread are the
      true ones; None if MOST_SEEDS would not, or if `power` is None.
  """

  claim: str
  source: str
  kind: str
  measure: str
  verdict: str
  num_seeds: int
  difference: float
  half_width: float | None = None
  margin: float | None = None
  power: float | None = None
  seeds_needed: int | None = None


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
  sums = _sums(claim.weights, values)
  number, difference = len(sums), statistics.fmean(sums)
  found = Judgement(
    claim.text, claim.source, claim.kind, claim.measure, TOO_FEW, number,
    difference,
  )  # fmt: skip
  if number < MIN_SEEDS:
    return found
  margins = np.full(number, claim.margin)
  if claim.gap:
    gaps = _sums(claim.gap, values)
    margins = claim.margin * np.sign(np.mean(gaps)) * gaps
  verdict = _verdict(claim.kind, sums, margins)
  margin, spread = float(np.mean(margins)), statistics.stdev(sums)
  power = needed = None
  if spread > _NO_SPREAD:
    low, high = _regions(claim.kind, margin)[0]
    truth = 0.0 if claim.kind == 'alike' else margin
    power = chance_within(truth, spread, number, low, high)
  if verdict == UNDECIDED and power is not None:
    needed = _seeds_needed(claim.kind, difference, spread, margin, number)
  return dataclasses.replace(
    found,
    verdict=verdict,
    half_width=_half_width(sums),
    margin=margin,
    power=power,
    seeds_needed=needed,
  )


def chance_within(
  mean: float, spread: float, number: int, low: float, high: float
) -> float:
  """Returns how often the 95 % interval of a mean lies between two values.

  Args:
    mean, spread: true mean and standard deviation, above 0, of a seed's sum.
    number: number of seeds.
    low, high: the two values; may be infinite.
  """
  error = spread / math.sqrt(number)
  estimates = significance.estimate_quantiles(number - 1)
  width = significance.t_quantile(number - 1) * error * estimates
  inside = special.ndtr((high - width - mean) / error) - special.ndtr(
    (low + width - mean) / error
  )
  return float(np.maximum(inside, 0).mean())


def deviation(values: Sequence[float]) -> float:
  """Returns the standard deviation; 0 for a single value."""
  return statistics.stdev(values) if len(values) > 1 else 0.0


def _sums(weights, values):
  """Returns the weighted sum of the sides for each seed."""
  sides = [np.array(values[name]) for name in weights]
  return np.einsum('s,sn->n', list(weights.values()), np.stack(sides))


def _half_width(sums):
  degrees = len(sums) - 1
  spread = statistics.stdev(sums) / math.sqrt(len(sums))
  return float(significance.t_quantile(degrees) * spread)


def _verdict(kind, sums, margins):
  """Returns the verdict; sums and margins are those of each seed."""
  if kind == 'alike':
    lowest, highest = _interval(sums + margins), _interval(sums - margins)
    if lowest[0] >= 0 >= highest[1]:
      return HOLDS
    return FAILS if lowest[1] < 0 or highest[0] > 0 else UNDECIDED
  low, high = _interval(sums)
  if low > 0 or (kind == 'differs' and high < 0):
    return HOLDS
  return FAILS if high < 0 else UNDECIDED


def _interval(sums):
  middle, half = statistics.fmean(sums), _half_width(sums)
  return middle - half, middle + half


def _regions(kind, margin):
  """Returns the ranges in which an interval decides; the first: it holds."""
  if kind == 'alike':
    return (-margin, margin), (margin, math.inf), (-math.inf, -margin)
  return (0.0, math.inf), (-math.inf, 0.0)


def _seeds_needed(kind, mean, spread, margin, number):
  def decided(seeds):  # it grows with the number of seeds
    return sum(
      chance_within(mean, spread, seeds, *region)
      for region in _regions(kind, margin)
    )

  tried = range(number + 1, MOST_SEEDS + 1)
  at = bisect.bisect_left(tried, PROBABLY, key=decided)
  return tried[at] if at < len(tried) else None
