"""Intervals and p-values, and the rates of both errors by simulation."""

import dataclasses
import pathlib

import numpy as np
import pytest
from scipy import special, stats

from vit_jax_repro.paper import significance, verdict
from vit_jax_repro.paper.significance import ALPHA, Comparison

pytestmark = pytest.mark.quick

DOCS = pathlib.Path(__file__).parents[2] / 'docs' / 'paper.md'
NUMBER = 10_000  # simulated measurements
IMAGES = 50_000
TRUTH = 85.0  # per cent
SPREAD = 0.15  # standard deviation of the runs of one recipe, in points
TASKS = np.linspace(35, 95, 7)  # per cent; a group of VTAB has seven tasks
TASK_IMAGES = (10_000, 2_000, 6_000) * 2 + (20_000,)

# For each kind of row: measured seeds, published runs (1: a single number, 3:
# mean and standard deviation, 5: mean and range), tasks.
KINDS = {
  'one run, a number': (1, 1, 1),
  'one run, mean ± deviation': (1, 3, 1),
  'one run, mean and range': (1, 5, 1),
  'three seeds, a number': (3, 1, 1),
  'five seeds, a number': (5, 1, 1),
  'five seeds, mean ± deviation': (5, 3, 1),
  'five seeds, mean and range': (5, 5, 1),
  'seven tasks, one run, a number': (1, 1, 7),
  'seven tasks, one run, mean ± deviation': (1, 3, 7),
  'seven tasks, five seeds, a number': (5, 1, 7),
}
ERRORS = (0.0, 0.5, 1.0, 3.0)  # points


def true_rates(tasks):
  """Returns the true accuracies in per cent [tasks], and numbers of images."""
  if tasks == 1:
    return np.array([TRUTH]), (IMAGES,)
  return TASKS, TASK_IMAGES


def spread(seeds, published):
  """Returns the standard deviation of runs; 0 if no spread is ever known."""
  return 0.0 if seeds == published == 1 else SPREAD


def simulated(seeds, published, tasks, error):
  """Returns NUMBER measurements that are wrong by `error` points.

  Runs of one recipe have normal errors of their own. All measured runs share
  their test images, of which the number of correct ones is binomial.
  """
  rng = np.random.default_rng(18)
  deviation = spread(seeds, published)
  truth, images = true_rates(tasks)
  theirs = truth.mean() + deviation * rng.normal(size=(published, NUMBER))
  ours = deviation * rng.normal(size=(seeds, NUMBER))
  shift = (error + ours.mean(axis=0)) / 100
  counts = rng.binomial(
    np.array(images)[:, None], truth[:, None] / 100, (tasks, NUMBER)
  )
  return Comparison(
    np.clip(counts / np.array(images)[:, None] + shift, 0, 1),
    images,
    value=theirs.mean(axis=0),
    rounding=0.005,
    spreads=verdict.spreads(
      seeds,
      ours.std(axis=0, ddof=1) if seeds > 1 else 0.0,
      std=theirs.std(axis=0, ddof=1) if published == 3 else None,
      width=np.ptp(theirs, axis=0) if published == 5 else None,
    ),
  )


def called_different(found):
  """Returns the fraction of simulated measurements with p < ALPHA."""
  distance = np.abs(found.points) - found.rounding
  return np.mean(distance > found.half_width(ALPHA))


def stated(seeds, published, tasks, error):
  """Returns the fraction that `Comparison.miss_rate` states."""
  deviation = spread(seeds, published)
  truth, images = true_rates(tasks)
  return 1 - Comparison(
    truth / 100,
    images,
    value=truth.mean(),
    rounding=0.005,
    spreads=verdict.spreads(
      seeds,
      deviation,
      std=deviation if published == 3 else None,
      width=2.48 * deviation if published == 5 else None,
    ),
  ).miss_rate(error)


@pytest.mark.parametrize('error', ERRORS)
@pytest.mark.parametrize('kind', KINDS)
def test_half_width_has_the_stated_rates_of_both_errors(kind, error):
  """Kind of fault: a wrong formula for the spread of a difference.

  Four standard deviations of the simulation, and 0.6 points for the normal
  approximation of the stated rate.
  """
  expected = float(stated(*KINDS[kind], error))
  sampling = np.sqrt(expected * (1 - expected) / NUMBER)
  for sign in (1, -1) if error else (1,):
    found = called_different(simulated(*KINDS[kind], sign * error))
    assert abs(found - expected) < 4 * sampling + 0.006
    if not error:
      assert 0.01 < found < ALPHA


@pytest.mark.parametrize('kind', KINDS)
def test_docs_state_the_rates_of_both_errors(kind):
  """Kind of fault: a table of rates that the code does not have."""
  false, *found = (100 * stated(*KINDS[kind], error) for error in ERRORS)
  missed = ' | '.join(f'{100 - each:.1f}' for each in found)
  assert f'| {kind} | {false:.1f} | {missed} |' in DOCS.read_text()


def test_half_width_ignores_a_spread_between_trainings_that_is_unknown():
  """Kind of fault: a limit of one training that docs/paper.md misstates."""
  rng = np.random.default_rng(18)
  found = simulated(1, 1, 1, 0.0)
  ours, theirs = SPREAD * rng.normal(size=(2, NUMBER))
  trained = dataclasses.replace(
    found, rates=found.rates + ours / 100, value=found.value + theirs
  )
  assert called_different(trained) == pytest.approx(0.23, abs=0.02)
  assert 'then 23 % of right numbers differ' in DOCS.read_text()


@pytest.mark.parametrize(
  ('correct', 'images', 'value'),
  [
    (42_610, 50_000, 84.9),
    (42_610, 50_000, 85.6),
    (100, 100, 98.0),
    (0, 50, 3.0),
    (9000, 10_000, 88.0),
  ],
)
def test_p_value_of_one_run_is_twice_the_binomial_tail(correct, images, value):
  """Kind of fault: a p-value that is not of the stated distribution."""
  found = Comparison(np.array([correct / images]), (images,), value, 0.005)
  if 100 * correct / images > value:
    tail = stats.binom.sf(correct - 1, images, (value + 0.005) / 100)
  else:
    tail = stats.binom.cdf(correct, images, (value - 0.005) / 100)
  assert float(found.p_value()) == pytest.approx(2 * tail, rel=1e-6)


def test_p_value_is_below_a_level_where_the_half_width_is_exceeded():
  """Kind of fault: p-values and intervals that contradict each other."""
  found = simulated(3, 1, 1, 0.3)
  few = dataclasses.replace(
    found,
    rates=found.rates[:, :300],
    value=found.value[:300],
    spreads=tuple((part[:300], degrees) for part, degrees in found.spreads),
  )
  p_values = few.p_value()
  distance = np.abs(few.points) - few.rounding
  for alpha in (0.01, 0.05, 0.3):
    exceeded = distance > few.half_width(alpha)
    np.testing.assert_array_equal(p_values < alpha, exceeded)
    assert exceeded.any() and not exceeded.all()


def test_p_value_is_1_within_the_rounding_and_small_far_away():
  """Kind of fault: a p-value outside of its range."""
  rates = np.array([[0.85004, 0.1, 0.0, 1.0]])
  found = Comparison(rates, (50_000,), 85.0, 0.005).p_value()
  assert found[0] == 1
  assert ((found[1:] >= 1e-300) & (found[1:] < 1e-200)).all()


@pytest.mark.parametrize(
  'correct, number', [(0, 20), (20, 20), (1, 7), (61, 80)]
)
@pytest.mark.parametrize('alpha', [0.3, 0.05, 1e-4])
def test_binomial_interval_is_the_exact_one(correct, number, alpha):
  """Kind of fault: ends of the interval that were exchanged or cut off."""
  expected = stats.binomtest(correct, number).proportion_ci(1 - alpha, 'exact')
  found = significance.binomial_interval(correct, number, alpha)
  np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


def test_t_quantile_is_students_and_the_normal_one():
  """Kind of fault: degrees of freedom that do not count."""
  assert significance.t_quantile(2) == pytest.approx(4.302653, abs=1e-6)
  assert significance.t_quantile(4) == pytest.approx(2.776445, abs=1e-6)
  assert significance.t_quantile(np.inf) == pytest.approx(1.959964, abs=1e-6)
  assert significance.t_quantile(np.inf, 0.01) == pytest.approx(2.575829)


def test_estimate_quantiles_are_those_of_standard_deviations():
  """Kind of fault: quantiles of the variance, or of other degrees."""
  found = significance.estimate_quantiles(4)
  runs = np.random.default_rng(0).normal(size=(5, 100_000)).std(0, ddof=1)
  assert found.mean() == pytest.approx(runs.mean(), abs=0.005)
  assert found.std() == pytest.approx(runs.std(), abs=0.01)
  assert special.chdtr(4, 4 * found**2).max() < 1


@pytest.mark.parametrize('wrong', [0, 20, 50])
def test_false_discoveries_are_at_most_one_in_twenty(wrong):
  """Kind of fault: a level that is not corrected for the number of rows.

  There are 400 studies of 60 rows each, of which `wrong` are wrong by half a
  point. Up to 5 % of the right rows would differ without the correction.
  """
  rng = np.random.default_rng(7)
  truth = np.repeat([0.855, 0.85], [wrong, 60 - wrong])
  counts = rng.binomial(IMAGES, truth, (400, 60))
  tails = (stats.binom.cdf(counts, IMAGES, 0.85),
           stats.binom.sf(counts - 1, IMAGES, 0.85))  # fmt: skip
  p_values = np.minimum(1, 2 * np.minimum(*tails))
  differs = np.array(
    [verdict.false_discoveries(row.tolist()) for row in p_values]
  )
  differs = differs < ALPHA
  false = differs[:, wrong:].sum(axis=1) / np.maximum(1, differs.sum(axis=1))
  assert false.mean() < ALPHA + 4 * false.std() / 20
  assert np.mean(p_values[:, wrong:] < ALPHA) == pytest.approx(0.047, abs=0.006)
  if wrong:
    assert differs[:, :wrong].mean() > 0.7
    assert false.mean() > 0.2 * ALPHA * (60 - wrong) / 60


def test_false_discoveries_are_benjamini_and_hochbergs():
  """Kind of fault: a correction by another procedure, or in another order."""
  assert verdict.false_discoveries([0.04, 0.001, 0.03, 0.9]) == pytest.approx(
    [0.16 / 3, 0.004, 0.16 / 3, 0.9]
  )
  assert verdict.false_discoveries([]) == []
