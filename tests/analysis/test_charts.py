"""Figures of numbers: values, labels and sources."""

import pickle

import look
import numpy as np
import pytest

from vit_jax_repro.analysis import charts, pictures, saved_results
from vit_jax_repro.paper import points, verdict

pytestmark = pytest.mark.quick


def drawn(figure, tmp_path):
  """Checks a figure and its file; returns the texts of the figure."""
  look.assert_readable(figure)
  narrow = pickle.loads(pickle.dumps(figure))
  pictures.resize(narrow, pictures.COLUMN)
  look.assert_readable(narrow)
  pictures.save(figure, tmp_path / 'a.png')
  look.assert_drawn(tmp_path / 'a.png', figure)
  return look.texts(figure)


def assert_has(text, *wanted):
  """Checks that a text contains all others."""
  assert [each for each in wanted if each not in text] == []


def test_compute_draws_the_published_accuracies(tmp_path):
  figure = charts.compute(points.compute())
  assert_has(
    drawn(figure, tmp_path),
    'numbers published in ViT Table 6',
    'pre-training compute (exaFLOPs)',
    'ImageNet top-1 accuracy (%)',
    'hybrid',
  )
  left, right = figure.axes
  assert left.get_xscale() == right.get_xscale() == 'log'
  lines = {line.get_label(): line.get_xydata() for line in right.lines}
  np.testing.assert_array_equal(lines['ViT'][0], [55, 80.73])
  np.testing.assert_array_equal(lines['ResNet (BiT)'][0], [50, 77.54])
  assert [len(lines[n]) for n in ('ViT', 'ResNet (BiT)', 'hybrid')] == [6, 7, 5]
  for axis in (left, right):
    named = {each.get_text(): each.xy for each in axis.texts}
    assert len(named) == len(points.compute()) == 18
    assert named['ViT-H/14 (14 ep.)'][0] == 4262
    assert named['ResNet50x1'][0] == 50
  assert named['ResNet50x1'][1] == 77.54
  means = {line.get_label(): line.get_xydata() for line in left.lines}
  np.testing.assert_allclose(means['ResNet (BiT)'][0], [50, 89.33], atol=0.01)


def run(name, steps, dataset='', **evaluated):
  """Returns curves whose last accuracy of each split is given."""
  losses = np.linspace(2, 1, len(steps))
  found = {
    split: (np.array(steps[1:]), np.linspace(0.1, last, len(steps) - 1))
    for split, last in evaluated.items()
  }
  return saved_results.Curves(name, np.array(steps), losses, found, dataset)


def test_curves_draw_losses_and_accuracies_of_runs(tmp_path):
  first, second = run('first', [0, 5, 9], test=0.5), run('a$b$', [0, 7, 8])
  figure = charts.curves([first, second])
  text = drawn(figure, tmp_path)
  assert_has(
    text,
    'training loss',
    'step',
    'accuracy (%)',
    'Evaluation (test)',
    'first: 50.0 %',
    r'a\$b\$: 1',
    'the runs differ in length: 8 and 9 steps',
  )
  assert 'data sets' not in text
  left, right = figure.axes
  np.testing.assert_array_equal(left.lines[2].get_xydata()[:, 0], [0, 7, 8])
  np.testing.assert_allclose(right.lines[0].get_xydata(), [[5, 10], [9, 50]])
  assert 'not evaluated yet' in look.texts(charts.curves([second]))
  two = charts.curves([run('one', [0, 5, 9], test=0.5, real=0.7)])
  text = drawn(two, tmp_path)
  assert_has(text, 'one, test: 50.0 %', 'one, real: 70.0 %')
  assert 'length' not in text
  sets = [run('a', [0, 5], 'digits', test=1), run('b', [0, 5], 'pets', test=1)]
  text = drawn(charts.curves(sets), tmp_path)
  assert_has(text, 'a (digits): 10.0 %', 'b (pets)', 'different data sets')


def test_curves_magnify_late_accuracies_and_smooth_losses():
  steps = np.arange(1, 101)
  losses = np.where(steps % 2, 1.0, 0.0)
  parts = np.array([0.1, 0.5, 0.972, 0.978])
  evaluated = {'test': (np.array([10, 40, 50, 100]), parts)}
  figure = charts.curves(
    [saved_results.Curves('run', steps, losses, evaluated, 'digits')]
  )
  left, right = figure.axes
  low, high = right.get_ylim()
  assert low == pytest.approx(96.7) and high == pytest.approx(98.3)
  raw, line = left.lines
  np.testing.assert_array_equal(raw.get_ydata(), losses)
  assert raw.get_alpha() < 0.5 and line.get_alpha() is None
  # 100 values: five on each side, of which the ends have fewer.
  means = line.get_ydata()
  np.testing.assert_allclose(means[5:-5], np.resize([6 / 11, 5 / 11], 90))
  np.testing.assert_allclose(means[:2], [3 / 6, 4 / 7])
  np.testing.assert_allclose(means[-2:], [3 / 7, 3 / 6])
  assert_has(
    look.texts(figure),
    'mean of 11 logged values',
    'run: 0.5',
    'run: 97.8 %',
    'early accuracies lie below the axis',
  )


def test_smoothed_confines_a_value_that_is_not_finite():
  values = np.ones(100)
  values[50] = np.nan
  (places,) = np.isnan(charts.smoothed(values)).nonzero()
  assert places.tolist() == [*range(45, 56)]
  np.testing.assert_array_equal(charts.smoothed(np.array([3.0])), [3])


def test_study_draws_means_seeds_and_claims(tmp_path):
  study = saved_results.SavedStudy(
    'Kinds of models',
    'digits',
    ('a side with quite a long name', 'other'),
    np.array([[0.5, 0.6], [0.8, 0.8]]),
    (f'The other is better{", and more so" * 12}: holds', 'Both work: holds'),
  )
  figure = charts.study(study)
  assert_has(
    drawn(figure, tmp_path),
    'Kinds of models\nown runs, size digits',
    'test accuracy (%)',
    'a side with quite a long name',
    'Both work: holds',
  )
  (axis,) = figure.axes
  assert [bar.get_width() for bar in axis.patches] == pytest.approx([55, 80])
  seeds = [line.get_xdata() for line in axis.lines if line.get_marker() == 'o']
  np.testing.assert_allclose(seeds, [[50, 60], [80, 80]])
  ((whisker,),) = (each.get_segments() for each in axis.collections)
  spread = 50**0.5  # standard deviation of 50 and 60
  np.testing.assert_allclose(whisker[:, 0], [55 - spread, 55 + spread])


def test_verdicts_draw_figures_with_and_without_measurements(tmp_path):
  none = charts.verdicts(points.overview({}))
  assert_has(
    drawn(none, tmp_path),
    'nothing measured yet',
    'published numbers',
    'agrees: 0',
  )
  checked = (
    points.Checked('a', 80.0, 81.0, 80.5, 81.5, verdict.DIFFERS),
    points.Checked('b', 90.0, 90.1, 89.0, 91.0, verdict.AGREES),
  )
  counts = {'ViT paper': dict(zip(verdict.KINDS, (1, 1, 0, 5, 7), strict=True))}
  figure = charts.verdicts(points.Overview(counts, checked))
  text = drawn(figure, tmp_path)
  assert_has(
    text,
    'agrees: 1',
    'not checkable: 5',
    'not run: 7',
    'measured less published (points)',
    'published (%)',
  )
  assert 'nothing measured' not in text
  assert list(charts.VERDICTS) == list(verdict.KINDS)
  lines = figure.axes[1].lines
  dots = [each.get_xydata() for each in lines if each.get_marker() in 'os']
  np.testing.assert_allclose(dots, [[[90, 0.1]], [[80, 1]]])


def measured(sides, labels):
  """Returns measurements of 1, 2, ... for images of these sizes."""
  values = np.arange(1.0, 1 + len(sides))
  return saved_results.Measured(
    'images per second of a device',
    'forward passes, float32',
    tuple(
      f'{label}, {side}' for label, side in zip(labels, sides, strict=True)
    ),
    np.array(sides),
    labels,
    values,
    values - 0.5,
    values + 0.25,
  )


def test_speeds_draw_bars_or_lines_over_the_image_size(tmp_path):
  figure = charts.speeds(measured([224, 224], ('S', 'B')))
  assert_has(
    drawn(figure, tmp_path),
    'own runs: forward passes, float32; whiskers: slowest and fastest round',
    'images per second of a device',
    'S, 224',
  )
  (axis,) = figure.axes
  assert [bar.get_width() for bar in axis.patches] == [1, 2]
  figure = charts.speeds(measured([384, 224, 384, 224], ('S', 'S', 'B', 'B')))
  assert_has(
    drawn(figure, tmp_path), 'height of the image (pixels)', 'own runs'
  )
  lines = [line for line in figure.axes[0].lines if line.get_marker() == 'o']
  np.testing.assert_array_equal(lines[0].get_xydata(), [[224, 2], [384, 1]])
  np.testing.assert_array_equal(lines[1].get_xydata(), [[224, 4], [384, 3]])
