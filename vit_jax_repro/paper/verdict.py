"""The verdict on whether a measurement agrees with a published number.

The rule. A measurement has an interval of 95 %:

- One run has the exact binomial (Clopper-Pearson) interval of its number of
  correct images. The exact interval is used and not Wilson's, because it always
  contains the true rate at least as often as it claims, also near 100 % and on
  small test sets.
- Several runs with different seeds have an interval around their mean. Each
  side of it adds two parts in quadrature. One part is the binomial interval of
  the mean on the test set, whose images are the same in all runs and so count
  once. The other is Student's t at k - 1 degrees of freedom times the standard
  deviation of the k runs over the root of k.
- A mean over tasks has the intervals of the tasks, added in quadrature and
  divided by their number.

A published number has an interval, too: half a unit of its last digit on each
side, beyond 1.96 published standard deviations or the range from the lowest to
the highest published run. Measurement and published number agree if the two
intervals have a point in common.

Otherwise they differ by `points`, measured minus published, in percentage
points, and by `sigmas`: those points over the standard deviation of both sides
together. That standard deviation is the root of the sum of three squares, over
1.96:

- the half-width of the measurement's interval, on the side of the published
  number;
- 1.96 published standard deviations, or the distance from the published number
  to the end of its range, on the side of the measurement;
- half a unit of the last published digit.

Two numbers that differ therefore differ by more than 1.96 sigmas.

Limits. Numbers on the same images are not independent, so the verdicts of a
table are not independent either. The same weights on the same images should
agree far better than the interval requires. The spread between the training
runs of an author is part of the rule only where it is published.
"""

import dataclasses
import math
import numbers
import statistics
from collections.abc import Sequence

from scipy import special

from vit_jax_repro.errors import InputError
from vit_jax_repro.paper import table

LEVEL = 0.95
_TAIL = (1 - LEVEL) / 2
_Z = float(special.ndtri(1 - _TAIL))  # 1.96

AGREES, DIFFERS = 'agrees', 'differs'
NOT_CHECKABLE, NOT_RUN = 'not checkable', 'not run'
KINDS = (AGREES, DIFFERS, NOT_CHECKABLE, NOT_RUN)

RULE = (
  "Agrees: the measurement's 95 % interval (exact binomial; with several seeds "
  'their spread, too) and the published number with its spread and rounding '
  'have a point in common.'
)

# {blocker of a row: (the reason in a few words, the reason and the need)}.
BLOCKERS = {
  'jft-weights-private': (
    'JFT-300M weights',
    'The weights come from JFT-300M, a private data set, and were never '
    'released. Needed: those weights, or the data set and the compute to '
    'pre-train on it.',
  ),
  'weights-unreleased-public-data': (
    'weights never released',
    'The weights were never released, but the training data are public. '
    'Needed: training from scratch by the published recipe.',
  ),
  'dedup-list-unreleased': (
    'list of duplicates never released',
    'The test images that have near-duplicates in the pre-training set are '
    'left out, and their list was never released. Needed: that list.',
  ),
  'cost-figure': (
    'a cost',
    'A cost of pre-training in TPUv3 core-days, not an accuracy. Needed: that '
    'training on that hardware.',
  ),
  'other-work': (
    'a system of other work',
    "Another work's system, reprinted for comparison. Needed: its "
    'architecture, which is not among the models here, and its weights.',
  ),
  'weights-in-scenic-format': (
    "weights in Scenic's format",
    'The weights were released as a checkpoint of Scenic only, not as a '
    'weights file. Needed: its conversion.',
  ),
}


@dataclasses.dataclass(frozen=True)
class Measurement:
  """A measured accuracy.

  Raises:
    InputError: an accuracy is not between 0 and 1, `num_examples` is not a
      positive integer, or there are neither accuracies nor tasks, or both.
  """

  accuracies: tuple[float, ...] = ()  # fractions of 1, one for each seed
  num_examples: int = 0  # test images, the same for all seeds
  # For a mean over tasks, its parts; `accuracies` is then empty.
  tasks: 'tuple[Measurement, ...]' = ()

  def __post_init__(self):
    if bool(self.accuracies) == bool(self.tasks):
      raise InputError('a measurement has accuracies, or tasks that have them')
    for accuracy in self.accuracies:
      if not _is_number(numbers.Real, accuracy) or not 0 <= accuracy <= 1:
        raise InputError(f'accuracy {accuracy!r} must be a fraction, 0 to 1')
    number = self.num_examples
    whole = _is_number(numbers.Integral, number) and number > 0
    if self.accuracies and not whole:
      raise InputError(f'num_examples {number!r} must be a whole number over 0')

  @property
  def accuracy(self) -> float:
    """Returns the mean over seeds, or over tasks."""
    parts = [task.accuracy for task in self.tasks] or self.accuracies
    return statistics.fmean(parts)

  def interval(self) -> tuple[float, float]:
    """Returns both ends of its interval by the rule, as fractions of 1."""
    if self.tasks:
      sides = [_sides(task.accuracy, *task.interval()) for task in self.tasks]
      down, up = (
        math.hypot(*side) / len(sides) for side in zip(*sides, strict=True)
      )
    else:
      bounds = binomial_interval(
        self.accuracy * self.num_examples, self.num_examples
      )
      spread = _spread_of_mean(self.accuracies)
      sides = _sides(self.accuracy, *bounds)
      down, up = (math.hypot(side, spread) for side in sides)
    return max(0.0, self.accuracy - down), min(1.0, self.accuracy + up)


@dataclasses.dataclass(frozen=True)
class Verdict:
  """The outcome of a check of a row."""

  kind: str  # one of KINDS
  points: float | None = None  # measured minus published, percentage points
  sigmas: float | None = None  # the same in standard deviations, unsigned
  blocker: str = ''  # a key of BLOCKERS, if the kind is NOT_CHECKABLE

  def __str__(self) -> str:
    if self.kind == DIFFERS:
      return f'differs by {self.points:+.2f} points ({self.sigmas:.1f} sigma)'
    if self.blocker:
      return f'{self.kind}: {BLOCKERS[self.blocker][0]}'
    return self.kind


def judge(row: table.Row, measurement: Measurement | None = None) -> Verdict:
  """Returns the verdict on a row.

  A measurement gets a verdict even if the weights of the row were never
  released. A cost never gets one.
  """
  if measurement is None or row.metric == table.COST:
    if row.status == table.NOT:
      return Verdict(NOT_CHECKABLE, blocker=row.blocker)
    return Verdict(NOT_RUN)
  measured = 100 * measurement.accuracy
  points = measured - row.value
  low, high = (100 * end for end in measurement.interval())
  published_low, published_high = published_interval(row)
  sigma = _sigma(row, measured, high if points < 0 else low)
  agrees = low <= published_high and published_low <= high
  return Verdict(
    AGREES if agrees else DIFFERS, points=points, sigmas=abs(points) / sigma
  )


def published_interval(row: table.Row) -> tuple[float, float]:
  """Returns both ends of the interval of a published number, in its unit."""
  rounding = 0.5 * _unit(row)
  low = high = row.value
  if row.value_min is not None:
    low, high = row.value_min, row.value_max
  elif row.std is not None:
    low, high = row.value - _Z * row.std, row.value + _Z * row.std
  return low - rounding, high + rounding


def binomial_interval(correct: float, number: int) -> tuple[float, float]:
  """Returns Clopper and Pearson's two-sided interval of LEVEL for a rate.

  Args:
    correct: number of correct images; a mean of several runs need not be whole.
    number: number of images.
  """
  wrong = number - correct
  low = float(special.betaincinv(correct, wrong + 1, _TAIL)) if correct else 0.0
  high = (
    float(special.betaincinv(correct + 1, wrong, 1 - _TAIL))
    if wrong > 0
    else 1.0
  )
  return low, high


def _is_number(kind, value):
  return isinstance(value, kind) and not isinstance(value, bool)


def _sides(middle, low, high):
  return middle - low, high - middle


def _spread_of_mean(accuracies: Sequence[float]) -> float:
  """Returns half the interval of the mean of runs; 0 for a single run."""
  number = len(accuracies)
  if number < 2:
    return 0.0
  t = float(special.stdtrit(number - 1, 1 - _TAIL))
  return t * statistics.stdev(accuracies) / math.sqrt(number)


def _sigma(row, measured, end):
  """Returns the standard deviation of the difference, in points.

  See the rule. `end` is the end of the measurement's interval on the side of
  the published number.
  """
  low, high = published_interval(row)
  rounding = 0.5 * _unit(row)
  spread = high - row.value if measured > row.value else row.value - low
  return math.hypot(end - measured, spread - rounding, rounding) / _Z


def _unit(row):
  """Returns the unit of the last printed digit."""
  return 10.0**-row.decimals
