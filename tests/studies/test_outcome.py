"""Sides and claims of a study, and the verdicts on claims."""

import math
import statistics

import numpy as np
import pytest
from scipy import stats

from vit_jax_repro.studies import outcome
from vit_jax_repro.studies.outcome import (
  FAILS,
  HOLDS,
  TOO_FEW,
  UNDECIDED,
  Claim,
)

pytestmark = pytest.mark.quick


def sides(**accuracies):
  """Returns sides with these accuracies of seeds."""
  return [outcome.side(name, 0.1, a) for name, a in accuracies.items()]


def judged(kind, a, b, **fields):
  """Judges a claim about the difference of two sides."""
  claim = Claim('text', 'source', {'a': 1.0, 'b': -1.0}, kind=kind, **fields)
  return outcome.judge(claim, sides(a=a, b=b))


def test_side_has_the_mean_and_spread_of_its_seeds():
  (side,) = sides(a=(0.5, 0.7, 0.9))
  assert side.mean == pytest.approx(0.7)
  assert side.spread == pytest.approx(statistics.stdev((0.5, 0.7, 0.9)))
  (single,) = sides(a=(0.5,))
  assert (single.mean, single.spread) == (0.5, 0.0)


def test_judge_has_the_paired_interval_of_students_t():
  """Kind of fault: an interval of unpaired sides, or of a single seed."""
  a, b = (0.90, 0.80, 0.88, 0.70), (0.53, 0.40, 0.50, 0.31)
  got = judged('more', a, b)
  expected = stats.ttest_rel(a, b).confidence_interval(0.95)
  assert got.difference == pytest.approx(np.mean(a) - np.mean(b))
  assert got.difference - got.half_width == pytest.approx(expected.low)
  assert got.difference + got.half_width == pytest.approx(expected.high)
  assert (got.claim, got.source, got.num_seeds) == ('text', 'source', 4)
  weights = {'a': 1.0, 'b': -2.0}
  got = outcome.judge(Claim('', '', weights), sides(a=a, b=b))
  expected = stats.ttest_1samp(np.array(a) - 2 * np.array(b), 0)
  low, high = expected.confidence_interval(0.95)
  assert got.difference == pytest.approx((low + high) / 2)
  assert got.half_width == pytest.approx((high - low) / 2)


@pytest.mark.parametrize(
  ('kind', 'difference', 'verdict'),
  [  # the half-width of the interval is 0.02
    ('more', 0.0201, HOLDS),
    ('more', 0.0199, UNDECIDED),
    ('more', -0.0199, UNDECIDED),
    ('more', -0.0201, FAILS),
    ('differs', 0.0201, HOLDS),
    ('differs', -0.0201, HOLDS),
    ('differs', 0.0199, UNDECIDED),
    ('alike', 0.0299, HOLDS),  # the margin is 0.05
    ('alike', -0.0299, HOLDS),
    ('alike', 0.0301, UNDECIDED),
    ('alike', 0.0699, UNDECIDED),
    ('alike', 0.0701, FAILS),
    ('alike', -0.0701, FAILS),
  ],
)
def test_judge_returns_the_verdict_of_each_kind_of_claim(
  kind, difference, verdict
):
  steps = np.array([-2.0, -1, 0, 1, 2])
  # t is 2.776 at four degrees of freedom
  steps = steps * 0.02 * math.sqrt(5) / (2.776445 * statistics.stdev(steps))
  got = judged(kind, 0.5 + difference + steps, [0.5] * 5, margin=0.05)
  assert got.half_width == pytest.approx(0.02)
  assert (got.verdict, got.kind) == (verdict, kind)
  assert (got.seeds_needed is None) == (verdict != UNDECIDED)


@pytest.mark.parametrize('number', [1, 2])
def test_judge_has_no_verdict_on_few_seeds(number):
  """Kind of fault: a verdict from a spread that nothing can be known about."""
  for kind in ('more', 'alike', 'differs'):
    got = judged(kind, (0.9, 0.91)[:number], (0.1, 0.1)[:number])
    assert got.verdict == TOO_FEW and got.difference > 0.79
    assert got.half_width is got.power is got.seeds_needed is None
  assert judged('more', (0.9, 0.91, 0.92), (0.1, 0.1, 0.1)).verdict == HOLDS


def test_judge_of_equal_sides_finds_them_alike_and_not_more():
  equal = (0.5, 0.5, 0.6)
  more = judged('more', equal, equal)
  assert more.verdict == UNDECIDED
  assert more.seeds_needed is more.power is None
  assert judged('alike', equal, equal).verdict == HOLDS


@pytest.mark.slow
def test_judge_is_right_in_nineteen_of_twenty_studies():
  """Kind of fault: verdicts that hold more often than the level allows.

  There are 600 studies of five seeds. Sides share an error of each seed, as
  when they share their data, so a paired test finds more.
  """
  rng = np.random.default_rng(18)
  errors = 0.02 * rng.normal(size=(600, 3, 5))

  def rates(kind, difference, **fields):
    found = []
    for shared, one, other in errors:
      a = 0.7 + shared + difference + one / 2
      got = judged(kind, a, 0.7 + shared + other / 2, **fields)
      found.append(got.verdict)
    return [found.count(each) / 600 for each in (HOLDS, FAILS, UNDECIDED)]

  spread = 0.01 * math.sqrt(2)
  holds, fails, _ = rates('more', 0.0)
  assert holds == pytest.approx(0.025, abs=0.019)
  assert fails == pytest.approx(0.025, abs=0.019)
  # Just outside of the margin: "alike" holds in 2.5 % at most.
  holds, _, undecided = rates('alike', 0.05, margin=0.05)
  assert holds == pytest.approx(0.025, abs=0.019) and undecided > 0.9
  for kind, truth, low, high in (
    ('more', 0.03, 0.0, math.inf),
    ('alike', 0.0, -0.03, 0.03),
    ('alike', 0.01, -0.03, 0.03),
  ):
    power = outcome.chance_within(truth, spread, 5, low, high)
    holds, *_ = rates(kind, truth, margin=0.03)
    assert 0.5 < power < 0.999
    assert holds == pytest.approx(power, abs=0.05)


def test_judge_states_the_power_for_the_margin():
  """Kind of fault: a power for another difference or number of seeds."""
  a = 0.8 + 0.01 * np.array([-1.5, -0.5, 0, 0.5, 1.5])
  spread = statistics.stdev(a)
  got = judged('more', a, [0.5] * 5, margin=0.02)
  t = 2.776445
  expected = stats.nct.sf(t, 4, 0.02 * math.sqrt(5) / spread)
  assert got.power == pytest.approx(expected, abs=0.005)
  assert got.margin == 0.02
  alike = judged('alike', a, [0.5] * 5, margin=0.02)
  assert alike.power == pytest.approx(
    outcome.chance_within(0.0, spread, 5, -0.02, 0.02)
  )
  # With hardly any spread everything is found, with much of it nothing.
  exact, rough = (judged('alike', 0.5 + s * a, [0.5] * 5) for s in (1e-3, 10))
  assert exact.power == pytest.approx(1, abs=1e-6)
  assert rough.power == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['more', 'alike'])
def test_judge_states_the_seeds_that_would_probably_decide(kind):
  """Kind of fault: a number of seeds with which most claims stay undecided."""
  steps = 0.02 * np.array([-1.5, -0.5, 0, 0.5, 1.5])
  got = judged(kind, 0.51 + steps, [0.5] * 5, margin=0.02)
  assert got.verdict == UNDECIDED and 20 < got.seeds_needed < 60
  rng = np.random.default_rng(18)
  decided = {}
  for number in (got.seeds_needed, got.seeds_needed // 2):
    a = 0.51 + statistics.stdev(steps) * rng.normal(size=(300, number))
    found = [judged(kind, each, [0.5] * number, margin=0.02) for each in a]
    decided[number] = np.mean([each.verdict != UNDECIDED for each in found])
  assert decided[got.seeds_needed] == pytest.approx(0.8, abs=0.08)
  assert decided[got.seeds_needed // 2] < 0.65


def test_judge_returns_none_for_a_side_without_runs():
  claim = Claim('', '', {'a': 1.0, 'c': -1.0})
  assert outcome.judge(claim, sides(a=(0.5, 0.6), b=(0.1, 0.2))) is None


def test_judge_accepts_a_margin_relative_to_another_difference():
  made = sides(a=(0.6, 0.6, 0.6), b=(0.5, 0.5, 0.5), c=(0.1, 0.1, 0.1))
  for margin, verdict in ((0.2, FAILS), (0.3, HOLDS)):  # 0.08 and 0.12
    claim = Claim(
      '',
      '',
      {'a': 1.0, 'b': -1.0},
      kind='alike',
      margin=margin,
      gap={'c': 1.0, 'b': -1.0},
    )
    got = outcome.judge(claim, made)
    assert got.verdict == verdict
    assert got.margin == pytest.approx(0.4 * margin)
  assert outcome.judge(claim, made[:2]) is None


def test_judge_counts_the_spread_of_a_relative_margin():
  """Kind of fault: a margin that is taken as exact though it was measured."""
  claim = Claim(
    '',
    '',
    {'a': 1.0, 'b': -1.0},
    kind='alike',
    margin=0.25,
    gap={'c': 1.0, 'b': -1.0},
  )
  same = dict(a=(0.55, 0.55, 0.55), b=(0.5, 0.5, 0.5))
  sure = outcome.judge(claim, sides(c=(0.78, 0.8, 0.82), **same))
  unsure = outcome.judge(claim, sides(c=(0.6, 0.8, 1.0), **same))
  assert sure.margin == pytest.approx(unsure.margin)
  assert (sure.verdict, unsure.verdict) == (HOLDS, UNDECIDED)


def test_judge_compares_localities_of_position_embeddings():
  claim = Claim('', '', {'a': 1.0, 'b': -1.0}, measure=outcome.LOCALITY)
  a, b = (
    outcome.side(name, 0.1, (0.5, 0.5), localities=localities)
    for name, localities in (('a', (0.8, 0.8)), ('b', (0.2, 0.4)))
  )
  assert outcome.judge(claim, [a, b]).difference == pytest.approx(0.5)
