"""The verdict on whether a measurement agrees with a published number.

Each measured row tests a null hypothesis: measurement and published number are
runs of one recipe, on test images of one kind. Their difference is then due to
chance, which has these parts:

- The images. One run has the exact binomial (Clopper-Pearson) distribution of
  its number of correct images. All runs share the test images, so the images
  count once, at the mean of the runs. The exact interval is used and not
  Wilson's, because it always contains the true rate at least as often as it
  claims, also near 100 % and on small test sets. A mean over tasks has the
  half-widths of its tasks, added in quadrature and divided by their number.
- The measured runs. With k seeds, Student's t at k - 1 degrees of freedom times
  their standard deviation over the root of k. The seeds of a mean over tasks
  are the means of each seed over the tasks. One seed has no such part.
- The published runs. A published standard deviation is that of three runs,
  whose mean was published: 2 degrees of freedom, over the root of 3. A
  published range is that of five runs; over 2.48 it estimates their standard
  deviation, with 3.8 degrees of freedom, over the root of 5. If neither is
  published, the number is a single run, with the standard deviation of our own
  seeds. One seed of ours also has the published standard deviation.
- The rounding: half a unit of the last published digit.

The half-widths of the first three parts are added in quadrature, and then the
rounding is added. The p-value is the largest level at which they still reach
from the measured to the published number. For one evaluated file it is twice
the exact binomial tail.

A row **differs** if its p-value is below 0.05 after the correction of Benjamini
and Hochberg over all measured rows that are judged together. So of the numbers
that are called different, at most one in twenty is expected to be right, by
`points`, measured minus published, and by `sigmas`, the normal deviate of the
row's own p-value.

Otherwise it **agrees**, unless it **cannot tell**: an error of one point would
be missed in more than one of five cases, since there are too few images, too
few seeds, or the published number is too coarse.

Limits. The verdicts of a table are not independent, as many are on the same
images. The same weights on the same images should agree far better than the
test requires. The spread between trainings is part of the test only where it is
published or measured with several seeds.
"""

import dataclasses
import math
import numbers
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

from vit_jax_repro.errors import InputError
from vit_jax_repro.paper import significance, table
from vit_jax_repro.paper.significance import ALPHA, Numbers

ERROR = 1.0  # points; 'cannot tell' if such an error would be missed
MISSED = 0.2  # in more cases than this
# Runs behind a published standard deviation (ViT Table 2, BiT Table 1) and
# behind a published range (big_vision and BiT's README), by their captions.
STD_RUNS, RANGE_RUNS = 3, 5
# The mean range of 5 normal values over their standard deviation, and the
# degrees of freedom of that estimate: Patnaik, Biometrika 37 (1950).
_RANGE_UNIT, _RANGE_DEGREES = 2.48, 3.83

AGREES, DIFFERS, CANNOT_TELL = 'agrees', 'differs', 'cannot tell'
NOT_CHECKABLE, NOT_RUN = 'not checkable', 'not run'
KINDS = (AGREES, DIFFERS, CANNOT_TELL, NOT_CHECKABLE, NOT_RUN)
FEW_IMAGES = 'too few images to tell'
FEW_SEEDS = 'too few seeds to tell'
COARSE = 'published too coarsely to tell'

RULE = (
  'Differs: chance (images, seeds, published spread, rounding) explains the '
  'difference with p < 0.05, corrected for the number of tested rows. Too few '
  'to tell: an error of one point would be missed in more than one of five '
  'cases. Agrees: neither. A single training may also differ by its own '
  'spread, which only several seeds show.'
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
  'retrieval-score': (
    'a retrieval score',
    'A score of finding the captions of images among those of MS-COCO, not an '
    'accuracy. Needed: an evaluation of retrieval, which is not implemented.',
  ),
  'other-work': (
    'a system of other work',
    "Another work's system, reprinted for comparison. Needed: its weights, "
    'which are not among the published files here.',
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
      positive integer, there are neither accuracies nor tasks, or both, or
      tasks have different numbers of runs.
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
    runs = sorted({len(task.runs) for task in self.tasks})
    if len(runs) > 1:
      raise InputError(
        f'tasks have {" or ".join(map(str, runs))} accuracies; give as many '
        'for each task, one for each seed'
      )

  @property
  def runs(self) -> tuple[float, ...]:
    """Returns the accuracy of each run, the mean over the tasks."""
    if not self.tasks:
      return self.accuracies
    seeds = zip(*(task.runs for task in self.tasks), strict=True)
    return tuple(statistics.fmean(run) for run in seeds)

  @property
  def accuracy(self) -> float:
    """Returns the mean over seeds, or over tasks."""
    return statistics.fmean(self.runs)

  @property
  def deviation(self) -> float:
    """Returns the standard deviation of the runs in points; 0 for one run."""
    return 100 * statistics.stdev(self.runs) if len(self.runs) > 1 else 0.0

  def rates(self) -> tuple[np.ndarray, tuple[int, ...]]:
    """Returns the accuracy and the number of images of each task."""
    tasks = self.tasks or (self,)
    rates = np.array([task.accuracy for task in tasks])
    return rates, tuple(task.num_examples for task in tasks)

  def interval(self) -> tuple[float, float]:
    """Returns both ends of its 95 % interval, as fractions of 1."""
    down, up = significance.half_intervals(*self.rates())
    seeds = 0.0
    if len(self.runs) > 1:
      t = significance.t_quantile(len(self.runs) - 1)
      seeds = t * self.deviation / math.sqrt(len(self.runs))
    low, high = (
      self.accuracy + sign * float(np.hypot(side, seeds)) / 100
      for sign, side in ((-1, down), (1, up))
    )
    return max(0.0, low), min(1.0, high)


@dataclasses.dataclass(frozen=True)
class Verdict:
  """The outcome of a check of a row."""

  kind: str  # one of KINDS
  points: float | None = None  # measured minus published, percentage points
  sigmas: float | None = None  # normal deviate of the p-value
  p_value: float | None = None  # of the row alone
  corrected: float | None = None  # p-value after Benjamini and Hochberg
  reason: str = ''  # FEW_IMAGES, FEW_SEEDS or COARSE, if it cannot tell
  blocker: str = ''  # a key of BLOCKERS, if the kind is NOT_CHECKABLE

  def __str__(self) -> str:
    if self.kind == DIFFERS:
      return f'differs by {self.points:+.2f} points ({self.sigmas:.1f} sigma)'
    if self.blocker:
      return f'{self.kind}: {BLOCKERS[self.blocker][0]}'
    alone = 1.0 if self.p_value is None else self.p_value
    if self.kind == AGREES and alone < ALPHA:
      return f'{self.kind} (but p = {alone:.2g} by itself)'
    return self.reason or self.kind


def judge(row: table.Row, measurement: Measurement | None = None) -> Verdict:
  """Returns the verdict on a row that is judged alone; see `judge_all`."""
  known = {} if measurement is None else {row.id: measurement}
  return judge_all([row], known)[row.id]


def judge_all(
  rows: Sequence[table.Row], measurements: Mapping[str, Measurement]
) -> dict[str, Verdict]:
  """Returns the verdicts on rows by their ids.

  The false discovery rate is controlled over the measured ones. A measurement
  gets a verdict even if the weights of the row were never released. A cost
  never gets one.

  Args:
    rows: the rows.
    measurements: by the id of the row; others are ignored.
  """
  tested = [
    row for row in rows if row.id in measurements and row.metric != table.COST
  ]
  found = {row.id: comparison(row, measurements[row.id]) for row in tested}
  p_values = {row_id: float(each.p_value()) for row_id, each in found.items()}
  corrected = dict(
    zip(p_values, false_discoveries(list(p_values.values())), strict=True)
  )
  verdicts = {}
  for row in rows:
    if row.id not in found:
      blocked = row.status == table.NOT
      verdicts[row.id] = (
        Verdict(NOT_CHECKABLE, blocker=row.blocker)
        if blocked
        else Verdict(NOT_RUN)
      )
      continue
    p_value = p_values[row.id]
    differs = corrected[row.id] < ALPHA
    reason = '' if differs else _too_few(found[row.id], measurements[row.id])
    verdicts[row.id] = Verdict(
      DIFFERS if differs else CANNOT_TELL if reason else AGREES,
      points=float(found[row.id].points),
      sigmas=abs(float(special.ndtri(p_value / 2))),
      p_value=p_value,
      corrected=corrected[row.id],
      reason=reason,
    )
  return verdicts


def comparison(
  row: table.Row, measurement: Measurement
) -> significance.Comparison:
  """Returns the comparison of a measurement with a row, by the rule above."""
  return significance.Comparison(
    *measurement.rates(),
    value=row.value,
    rounding=0.5 * 10.0**-row.decimals,
    spreads=spreads(
      len(measurement.runs),
      measurement.deviation,
      row.std,
      _width(row),
    ),
  )


def spreads(
  runs: int,
  deviation: Numbers,
  std: Numbers | None = None,
  width: Numbers | None = None,
) -> tuple[tuple[Numbers, float], ...]:
  """Returns the parts of a difference that are due to the spread of runs.

  Args:
    runs: number of measured runs.
    deviation: their standard deviation in points, [...].
    std: the published standard deviation, [...], or None.
    width: highest minus lowest published number, [...], or None.

  Returns:
    `significance.Comparison.spreads`.
  """
  published = None
  if std is not None:
    published, number, degrees = std, STD_RUNS, STD_RUNS - 1
  elif width is not None:
    published, number = width / _RANGE_UNIT, RANGE_RUNS
    degrees = _RANGE_DEGREES
  parts = []
  if published is not None:
    # One seed of ours has the spread of the published runs.
    share = 1 / number + (1 if runs == 1 else 0)
    parts.append((published * math.sqrt(share), degrees))
  if runs > 1:
    share = 1 / runs + (1 if published is None else 0)
    parts.append((deviation * math.sqrt(share), runs - 1))
  return tuple(parts)


def false_discoveries(p_values: Sequence[float]) -> list[float]:
  """Returns p-values, corrected by Benjamini and Hochberg's procedure."""
  if not p_values:
    return []
  from scipy import stats  # takes a second

  return stats.false_discovery_control(p_values).tolist()


def _too_few(found, measurement):
  """Returns the reason for which an error of a point may be missed, or ''."""

  def misses(spreads, rounding):
    alone = dataclasses.replace(found, spreads=spreads, rounding=rounding)
    return alone.miss_rate(ERROR) > MISSED

  if misses((), 0.0):
    return FEW_IMAGES
  if len(measurement.runs) > 1 and misses(found.spreads[-1:], 0.0):
    return FEW_SEEDS
  return COARSE if misses(found.spreads, found.rounding) else ''


def _width(row):
  """Returns the width of the published range; None if there is none."""
  if row.value_min is None or row.value_max is None:
    return None
  return row.value_max - row.value_min


def _is_number(kind, value):
  return isinstance(value, kind) and not isinstance(value, bool)
