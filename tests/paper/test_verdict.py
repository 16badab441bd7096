"""The rule for agreement of a measurement with a published number."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from vit_jax_repro.paper import table, verdict

pytestmark = pytest.mark.quick

ROW = dataclasses.replace(
  table.find('vit-table-5-vit-l-16-imagenet-21k-30-or-90ep-imagenet'),
  value=85.15,
  decimals=2,
)


def measured(*accuracies, num_examples=50_000):
  return verdict.Measurement(accuracies, num_examples)


@pytest.mark.parametrize(
  'correct, number', [(0, 20), (20, 20), (1, 7), (6131, 6149), (42_610, 50_000)]
)
def test_interval_of_one_run_is_the_exact_binomial_one(correct, number):
  expected = stats.binomtest(correct, number).proportion_ci(0.95, 'exact')
  found = measured(correct / number, num_examples=number).interval()
  np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_interval_of_several_runs_includes_their_spread():
  runs = (0.91, 0.93, 0.92)
  one = measured(0.92, num_examples=10_000).interval()
  t = stats.sem(runs) * stats.t.ppf(0.975, df=2)
  expected = [
    0.92 - math.hypot(0.92 - one[0], t),
    0.92 + math.hypot(one[1] - 0.92, t),
  ]
  found = measured(*runs, num_examples=10_000).interval()
  np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_interval_counts_the_images_of_several_runs_once():
  one, three = measured(0.9), measured(0.9, 0.9, 0.9)
  np.testing.assert_allclose(three.interval(), one.interval(), rtol=1e-12)


def test_interval_of_a_mean_over_tasks():
  tasks = (measured(0.5, num_examples=100), measured(0.8, num_examples=400))
  mean = verdict.Measurement(tasks=tasks)
  assert mean.accuracy == pytest.approx(0.65)
  down = math.hypot(*(t.accuracy - t.interval()[0] for t in tasks)) / 2
  up = math.hypot(*(t.interval()[1] - t.accuracy for t in tasks)) / 2
  np.testing.assert_allclose(mean.interval(), (0.65 - down, 0.65 + up))


def test_interval_of_a_mean_over_tasks_has_the_spread_of_the_seeds_means():
  """Kind of fault: seeds whose errors are taken as other tasks'."""
  tasks = (
    measured(0.5, 0.6, num_examples=10**9),
    measured(0.8, 0.7, num_examples=10**9),
  )
  mean = verdict.Measurement(tasks=tasks)
  assert mean.runs == pytest.approx((0.65, 0.65))
  np.testing.assert_allclose(mean.interval(), (0.65, 0.65), atol=1e-4)
  with pytest.raises(ValueError, match='tasks have 1 or 2 accuracies; give as'):
    verdict.Measurement(tasks=(tasks[0], measured(0.5)))


def test_intervals_stay_between_0_and_1():
  runs = (1.0, 0.9, 1.0)
  low, high = measured(*runs, num_examples=10).interval()
  assert 0 < low < high == 1
  low, high = measured(0.0, 0.1, 0.0, num_examples=10).interval()
  assert 0 == low < high < 1


@pytest.mark.parametrize(
  'fields, accuracy, expected',
  [
    # 50,000 images at 85 %: 0.31 points on each side.
    ({}, 0.8515, 'agrees'),
    ({}, 0.8540, 'agrees'),
    ({}, 0.8490, 'agrees'),
    ({}, 0.8560, 'differs by +0.45 points (2.8 sigma)'),
    ({}, 0.8470, 'differs by -0.45 points (2.8 sigma)'),
    # 4.3 * 1.155 standard deviations of three published runs: 0.25 and 0.99.
    ({'std': 0.05}, 0.8560, 'differs by +0.45 points (2.1 sigma)'),
    ({'std': 0.08}, 0.8560, 'agrees'),
    ({'std': 0.2}, 0.8560, 'published too coarsely to tell'),
    # 2.83 * 1.095 / 2.48 times the range of five runs: 0.12, 0.5, 1.5.
    ({'value_min': 85.1, 'value_max': 85.2}, 0.8560, 'differs by +0.45 points '
     '(2.5 sigma)'),
    ({'value_min': 85.0, 'value_max': 85.4}, 0.8560, 'agrees'),
    ({'value_min': 84.8, 'value_max': 86.0}, 0.8450,
     'published too coarsely to tell'),
    ({'value': 85.0, 'decimals': 0}, 0.8575, 'agrees'),
    ({'value': 85.0}, 0.8575, 'differs by +0.75 points (4.7 sigma)'),
  ],
)  # fmt: skip
def test_judge_returns_verdicts(fields, accuracy, expected):
  row = dataclasses.replace(ROW, **fields)
  assert str(verdict.judge(row, measured(accuracy))) == expected


@pytest.mark.parametrize(
  'runs, images, fields, expected',
  [
    # Half-widths: 14 points; 1.4; 1.0 and 0.7 (missed in 50 % and 8 %).
    ((0.85,), 30, {}, 'too few images to tell'),
    ((0.85,), 2500, {}, 'too few images to tell'),
    ((0.85,), 5000, {}, 'too few images to tell'),
    ((0.85,), 11_000, {}, 'agrees'),
    ((0.99,), 1500, {'value': 99.0}, 'agrees'),
    # Of two runs Student's t is 12.7; five of the same spread are enough.
    ((0.849, 0.851), 50_000, {}, 'too few seeds to tell'),
    ((0.849, 0.851, 0.849, 0.851, 0.85), 50_000, {}, 'agrees'),
    ((0.849, 0.851), 300, {}, 'too few images to tell'),
    ((0.85,), 50_000, {'decimals': -1}, 'published too coarsely to tell'),
  ],
)
def test_judge_does_not_agree_where_one_point_would_be_missed(
  runs, images, fields, expected
):
  """Kind of fault: agreement that only shows how little was measured."""
  row = dataclasses.replace(ROW, **({'value': 85.0} | fields))
  found = verdict.judge(row, measured(*runs, num_examples=images))
  assert str(found) == expected
  assert (found.kind == verdict.CANNOT_TELL) == (expected != 'agrees')
  # A large difference is found all the same.
  far = dataclasses.replace(row, value=30.0, decimals=1)
  assert verdict.judge(far, measured(*runs, num_examples=images)).kind == (
    verdict.DIFFERS
  )


def test_judge_agrees_if_the_interval_touches_the_rounded_number():
  low, high = (100 * end for end in measured(0.8).interval())
  for end, outwards in ((low, -1), (high, 1)):
    at = dataclasses.replace(ROW, value=end + outwards * 0.00499)
    beyond = dataclasses.replace(ROW, value=end + outwards * 0.00501)
    assert verdict.judge(at, measured(0.8)).kind == verdict.AGREES
    assert verdict.judge(beyond, measured(0.8)).kind == verdict.DIFFERS


def test_judge_returns_differs_only_above_1_96_sigmas():
  differing = 0
  spreads = ({}, {'std': 0.4}, {'value_min': 89.5, 'value_max': 90.1})
  for spread, decimals, accuracy, number in itertools.product(
    spreads, (0, 1, 2), np.linspace(0.85, 0.95, 11), (500, 10_000, 10**7)
  ):
    row = dataclasses.replace(ROW, value=90.0, decimals=decimals, **spread)
    found = verdict.judge(row, measured(float(accuracy), num_examples=number))
    differs = found.kind == verdict.DIFFERS
    assert differs == (found.sigmas > 1.96) == (found.p_value < 0.05)
    differing += differs
    assert found.points == pytest.approx(100 * accuracy - 90)
  assert differing > 100


def test_judge_all_corrects_for_the_number_of_tested_rows():
  """Kind of fault: one false alarm in twenty right rows."""
  rows = table.select('ViT Table 5')[:30]
  close = {row.id: measured(row.value / 100) for row in rows}
  # 0.35 points at 85 %: p = 0.03.
  odd = dataclasses.replace(ROW, value=85.0)
  measurements = close | {odd.id: measured(0.8535)}
  alone = verdict.judge(odd, measurements[odd.id])
  assert alone.kind == verdict.DIFFERS and alone.p_value == alone.corrected
  assert alone.p_value == pytest.approx(0.03, abs=0.003)
  others = [row for row in rows if row.id != odd.id]
  judged = verdict.judge_all([odd, *others], measurements)
  assert str(judged[odd.id]) == 'agrees (but p = 0.031 by itself)'
  assert judged[odd.id].p_value == alone.p_value
  assert judged[odd.id].corrected == pytest.approx(
    min(1, alone.p_value * (1 + len(others)))
  )
  # Rows that were not measured do not count.
  judged = verdict.judge_all([odd, *others], {odd.id: measurements[odd.id]})
  assert judged[odd.id] == alone
  assert {judged[row.id].kind for row in others} <= {
    verdict.NOT_RUN, verdict.NOT_CHECKABLE,
  }  # fmt: skip


def test_comparison_adds_the_spread_of_both_sides():
  """Kind of fault: runs behind a number that do not count, or count twice."""
  runs = (0.91, 0.93, 0.92)  # standard deviation 1 point
  odd = dict(std=0.3), dict(value_min=80.0, value_max=82.48)
  for fields, expected in (
    # The published number is a fourth run.
    ({}, [(math.sqrt(4 / 3), 2)]),
    (odd[0], [(0.3 / math.sqrt(3), 2), (1 / math.sqrt(3), 2)]),
    (odd[1], [(1 / math.sqrt(5), 3.83), (1 / math.sqrt(3), 2)]),
  ):
    row = dataclasses.replace(ROW, **fields)
    found = verdict.comparison(row, measured(*runs)).spreads
    np.testing.assert_allclose(found, expected, rtol=1e-9)
  # One run of ours has the published spread.
  for fields, expected in (
    ({}, []),
    (odd[0], [(0.3 * math.sqrt(4 / 3), 2)]),
    (odd[1], [(math.sqrt(6 / 5), 3.83)]),
  ):
    row = dataclasses.replace(ROW, **fields)
    found = verdict.comparison(row, measured(0.9)).spreads
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_judge_without_a_measurement():
  assert str(verdict.judge(ROW)) == 'not run'
  blocked = table.find('vit-table-6-vit-b-32-jft-300m-7ep-imagenet')
  assert str(verdict.judge(blocked)) == 'not checkable: JFT-300M weights'
  # A user may have the weights.
  assert str(verdict.judge(blocked, measured(0.8073))) == 'agrees'
  cost = table.find('vit-h-14-jft-300m-pre-training-cost-tpuv3-core-days')
  assert str(verdict.judge(cost, measured(0.9))) == 'not checkable: a cost'


@pytest.mark.parametrize('blocker', verdict.BLOCKERS)
def test_blockers_have_a_short_and_a_long_reason(blocker):
  few, sentences = verdict.BLOCKERS[blocker]
  assert len(few) < 40 and 'Needed: ' in sentences and sentences.endswith('.')


@pytest.mark.parametrize(
  'values, message',
  [
    (((85.15,), 100), 'accuracy 85.15 must be a fraction, 0 to 1'),
    (((-0.1,), 100), 'accuracy -0.1 must be'),
    (((float('nan'),), 100), 'accuracy nan must be'),
    (((True,), 100), 'accuracy True must be'),
    (((None,), 100), 'accuracy None must be'),
    (((0.5,), 0), 'num_examples 0 must be a whole number over 0'),
    (((0.5,), 10.5), 'num_examples 10.5 must be'),
    (((0.5,), None), 'num_examples None must be'),
    (((), 100), 'has accuracies, or tasks'),
  ],
)
def test_measurement_rejects_impossible_values(values, message):
  with pytest.raises(ValueError, match=message):
    verdict.Measurement(*values)
