"""Sides and claims of a study, and the verdicts on claims."""

import math
import statistics

import pytest

from vit_jax_repro.studies import outcome
from vit_jax_repro.studies.outcome import FAILS, HOLDS, UNDECIDED, Claim

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


def test_judge_computes_the_difference_and_its_spread():
  a, b = (0.9, 0.8), (0.5, 0.3)
  got = judged('more', a, b)
  assert got.difference == pytest.approx(0.85 - 0.4)
  assert got.spread == pytest.approx(
    math.sqrt(statistics.variance(a) + statistics.variance(b))
  )
  assert (got.claim, got.source) == ('text', 'source')
  weights = {'a': 1.0, 'b': -2.0}
  got = outcome.judge(Claim('', '', weights), sides(a=a, b=b))
  assert got.difference == pytest.approx(0.85 - 0.8)
  assert got.spread == pytest.approx(
    math.sqrt(statistics.variance(a) + 4 * statistics.variance(b))
  )


@pytest.mark.parametrize(
  ('kind', 'difference', 'verdict'),
  [  # the spread is 0.02
    ('more', 0.03, HOLDS),
    ('more', 0.019, UNDECIDED),
    ('more', -0.019, UNDECIDED),
    ('more', -0.03, FAILS),
    ('differs', 0.03, HOLDS),
    ('differs', -0.03, HOLDS),
    ('differs', 0.019, UNDECIDED),
    ('alike', 0.029, HOLDS),  # the margin is 0.05
    ('alike', -0.029, HOLDS),
    ('alike', 0.04, UNDECIDED),
    ('alike', 0.06, UNDECIDED),
    ('alike', 0.071, FAILS),
    ('alike', -0.071, FAILS),
  ],
)
def test_judge_returns_the_verdict_of_each_kind_of_claim(
  kind, difference, verdict
):
  half = 0.02 / math.sqrt(2)  # standard deviation 0.02
  a = [0.5 + difference - half, 0.5 + difference + half]
  got = judged(kind, a, [0.5, 0.5], margin=0.05)
  assert got.spread == pytest.approx(0.02)
  assert got.verdict.startswith(verdict)
  assert ': ' in got.verdict or got.verdict != UNDECIDED


def test_judge_leaves_a_claim_with_one_seed_undecided():
  assert judged('more', (0.9,), (0.1,)).verdict.startswith(
    f'{UNDECIDED}: one seed'
  )


def test_judge_of_equal_sides_finds_them_alike_and_not_more():
  assert judged('more', (0.5, 0.5), (0.5, 0.5)).verdict.startswith(UNDECIDED)
  assert judged('alike', (0.5, 0.5), (0.5, 0.5)).verdict == HOLDS


def test_judge_returns_none_for_a_side_without_runs():
  claim = Claim('', '', {'a': 1.0, 'c': -1.0})
  assert outcome.judge(claim, sides(a=(0.5, 0.6), b=(0.1, 0.2))) is None


def test_judge_accepts_a_margin_relative_to_another_difference():
  made = sides(a=(0.6, 0.6), b=(0.5, 0.5), c=(0.1, 0.1))
  for margin, verdict in ((0.2, FAILS), (0.3, HOLDS)):  # 0.08 and 0.12
    claim = Claim(
      '',
      '',
      {'a': 1.0, 'b': -1.0},
      kind='alike',
      margin=margin,
      gap={'c': 1.0, 'b': -1.0},
    )
    assert outcome.judge(claim, made).verdict == verdict
  assert outcome.judge(claim, made[:2]) is None


def test_judge_compares_localities_of_position_embeddings():
  claim = Claim('', '', {'a': 1.0, 'b': -1.0}, measure=outcome.LOCALITY)
  a, b = (
    outcome.side(name, 0.1, (0.5, 0.5), localities=localities)
    for name, localities in (('a', (0.8, 0.8)), ('b', (0.2, 0.4)))
  )
  assert outcome.judge(claim, [a, b]).difference == pytest.approx(0.5)
