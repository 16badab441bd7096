"""Figures of numbers: published ones, runs, studies, benchmarks, verdicts.

Each function takes records of paper/points.py or saved_results.py, or objects
with the same attributes, and returns a matplotlib Figure, see `pictures`.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax_repro.analysis import saved_results
from vit_jax_repro.analysis.pictures import (
  COLOURS,
  GREY,
  MARKERS,
  escape_mathtext,
  new,
  placeholder,
  shorten,
)
from vit_jax_repro.output.messages import short

# Dark colours for verdicts on measured numbers, light ones for the others.
VERDICTS = {
  'agrees': COLOURS[0],
  'differs': COLOURS[3],
  'cannot tell': COLOURS[1],
  'not checkable': '#dddddd',
  'not run': '#aaaaaa',
}
# {family of `points.Trained`: name in Figure 5}
_FAMILIES = {'ViT': 'ViT', 'BiT': 'ResNet (BiT)', 'hybrid': 'hybrid'}
_OWN = 'own runs'  # in titles, to distinguish them from the paper's figures


def compute(trained: Sequence[Any]) -> Any:
  """Draws accuracy over pre-training compute (ViT paper, Figure 5).

  Args:
    trained: records of the type `points.Trained`.
  """
  figure = new(10, 5)
  figure.suptitle(
    'Pre-training on JFT-300M, then fine-tuning: numbers published in ViT '
    'Table 6',
    fontsize=10,
    wrap=True,
  )
  figure.supxlabel('14 ep.: 14 epochs; the others 7', size=8)
  for axis, field, title in zip(
    figure.subplots(1, 2),
    ('average', 'imagenet'),
    (
      'mean top-1 accuracy of five data sets (%)',
      'ImageNet top-1 accuracy (%)',
    ),
    strict=True,
  ):
    for (family, label), colour, marker in zip(
      _FAMILIES.items(), COLOURS, MARKERS, strict=False
    ):
      some = sorted(
        (each.exaflops, getattr(each, field))
        for each in trained
        if each.family == family
      )
      axis.plot(
        *np.array(some).T,
        marker,
        color=colour,
        markeredgecolor='white',
        markersize=7,
        label=label,
      )
    axis.set(
      xscale='log', xlabel='pre-training compute (exaFLOPs)', ylabel=title
    )
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc='lower right')
    _name_models(axis, trained, field)
  return figure


def _name_models(axis, trained, field):
  """Writes the models above a panel, each with a line to its point."""
  colours = dict(zip(_FAMILIES, COLOURS, strict=False))
  for i, each in enumerate(sorted(trained, key=lambda each: each.exaflops)):
    axis.annotate(
      each.model + ' (14 ep.)' * (each.epochs == 14),
      (each.exaflops, getattr(each, field)),
      ((i + 0.5) / len(trained), 1.01),
      textcoords='axes fraction',
      rotation=90,
      ha='center',
      va='bottom',
      fontsize=8,
      arrowprops=dict(
        arrowstyle='-',
        relpos=(0.5, 0),
        shrinkA=0,
        color=colours[each.family],
        linewidth=0.6,
        alpha=0.6,
      ),
    )


def curves(runs: Sequence[saved_results.Curves]) -> Any:
  """Draws training loss and accuracy of runs over their steps.

  A loss as logged is faint; the line over it is `smoothed`. The legend has the
  last value of each line.
  """
  figure = new(9, 4.2)
  left, right = figure.subplots(1, 2, sharex=True)
  splits = {
    split: escape_mathtext(short(split))
    for run in runs
    for split in run.evaluated
  }
  datasets = dict.fromkeys(run.dataset for run in runs)
  for run, colour in zip(runs, _colours(len(runs)), strict=True):
    name = escape_mathtext(shorten(run.name))
    if len(datasets) > 1:
      name += f' ({escape_mathtext(shorten(run.dataset or "unknown"))})'
    means = smoothed(run.losses)
    left.plot(run.steps, run.losses, color=colour, linewidth=0.8, alpha=0.25)
    label = f'{name}: {means[-1]:.3g}'
    left.plot(run.steps, means, color=colour, linewidth=1.4, label=label)
    for split, style in zip(splits, _styles(len(splits)), strict=True):
      if split in run.evaluated:
        steps, parts = run.evaluated[split]
        label = name if len(splits) == 1 else f'{name}, {splits[split]}'
        right.plot(
          steps,
          100 * parts,
          style,
          color=colour,
          marker='o',
          markersize=3,
          linewidth=1.2,
          label=f'{label}: {100 * parts[-1]:.1f} %',
        )
  left.set(xlabel='step', ylabel='training loss', ylim=(0, None))
  right.set(xlabel='step', ylabel='accuracy (%)')
  which = f' ({", ".join(splits.values())})' if splits else ''
  left.set_title('Training', fontsize=10)
  right.set_title(f'Evaluation{which}', fontsize=10)
  if splits:
    right.set_ylim(accuracy_limits(runs))
  else:
    placeholder(right, 'not evaluated yet')
  for axis in (left, right):
    axis.grid(alpha=0.3)
    if axis.lines:
      axis.legend(fontsize=8, loc='best')
  about = _about_curves(runs, datasets, right.get_ylim()[0])
  figure.supxlabel(about, size=8, wrap=True)
  return figure


def smoothed(values: np.ndarray) -> np.ndarray:
  """Returns the centred moving mean of logged values.

  Each mean has the values at most `half_window` entries away; near the first
  and the last value there are fewer.
  """
  ones = np.ones(2 * half_window(len(values)) + 1)
  sums = np.convolve(values, ones, 'same')
  return sums / np.convolve(np.ones(len(values)), ones, 'same')


def half_window(number: int) -> int:
  """Returns how many values on each side `smoothed` averages: a twentieth."""
  return number // 20


def accuracy_limits(
  runs: Sequence[saved_results.Curves],
) -> tuple[float, float]:
  """Returns limits in per cent that magnify the second half of the runs.

  Accuracies before it may lie below the axis: early ones are far lower, and
  would leave no room for the differences of the last.
  """
  late = 100 * np.concatenate(
    [
      parts[steps >= steps[-1] / 2]
      for run in runs
      for steps, parts in run.evaluated.values()
    ]
  )
  margin = max(0.15 * (late.max() - late.min()), 0.5)
  return max(late.min() - margin, 0), min(late.max() + margin, 100.1)


def _about_curves(runs, datasets, lowest):
  """Returns the note below the curves: smoothing, axis, how the runs differ."""
  widths = sorted({2 * half_window(len(run.losses)) + 1 for run in runs})
  notes = ['legends: last values']
  if widths != [1]:
    notes[0] = (
      f'loss: mean of {" or ".join(map(str, widths))} logged values around a '
      f'step; faint: as logged; {notes[0]}'
    )
  accuracies = [parts for run in runs for _, parts in run.evaluated.values()]
  if any((100 * parts < lowest).any() for parts in accuracies):
    notes[0] += '; early accuracies lie below the axis'
  if len(datasets) > 1:
    notes.append('the runs have different data sets: do not compare them')
  lengths = sorted({int(run.steps[-1]) for run in runs})
  if len(lengths) > 1:
    notes.append(f'the runs differ in length: {_listed(lengths)} steps')
  return '\n'.join(notes)


def _listed(numbers):
  return f'{", ".join(map(str, numbers[:-1]))} and {numbers[-1]}'


def study(found: saved_results.SavedStudy) -> Any:
  """Draws each side's mean and accuracies per seed, and the study's claims."""
  lines = [f'– {claim}' for claim in found.claims]
  tall = 0.14 * sum(math.ceil(len(line) / 100) for line in lines)
  figure = new(8, 1.5 + 0.38 * len(found.sides) + tall)
  axis = figure.subplots()
  for at, accuracies in enumerate(found.accuracies):
    values = 100 * accuracies
    spread = values.std(ddof=1) if len(values) > 1 else 0
    axis.barh(
      at,
      values.mean(),
      height=0.6,
      color=COLOURS[4],
      xerr=spread or None,
      error_kw=dict(ecolor=GREY, capsize=3),
    )
    axis.plot(values, np.full(len(values), at), 'o', color='k', markersize=3)
  axis.set_yticks(range(len(found.sides)), found.sides)
  axis.invert_yaxis()
  axis.set(xlabel='test accuracy (%)', xlim=(0, 100))
  figure.suptitle(
    f'{found.title}\n{_OWN}, size {found.size}: bars are means, whiskers '
    'standard deviations, dots seeds',
    fontsize=9,
    wrap=True,
  )
  if lines:
    figure.supxlabel('\n'.join(lines), size=8, ha='left', x=0.02, wrap=True)
  return figure


def verdicts(overview: Any) -> Any:
  """Draws the numbers of verdicts, and measured against published numbers.

  Args:
    overview: a record of the type `points.Overview`.
  """
  figure = new(10, 4.6)
  left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
  sources = list(overview.counts)
  begin = np.zeros(len(sources))
  for kind, colour in VERDICTS.items():
    numbers = np.array([overview.counts[each][kind] for each in sources])
    left.barh(
      range(len(sources)),
      numbers,
      left=begin,
      color=colour,
      label=f'{kind}: {numbers.sum()}',
    )
    begin += numbers
  left.set_yticks(range(len(sources)), sources)
  left.invert_yaxis()
  left.set(xlabel='published numbers', xlim=(0, 1.05 * begin.max()))
  left.set_title('Verdicts by source', fontsize=10)
  figure.legend(
    fontsize=8,
    loc='outside lower center',
    ncols=3,
    handlelength=1,
    columnspacing=1,
  )
  _differences(right, overview.checked)
  return figure


def _differences(axis, checked):
  axis.set(xlabel='published (%)', ylabel='measured less published (points)')
  axis.set_title('Measured, with 95 % intervals', fontsize=10)
  if not checked:
    axis.set(xlim=(0, 100), yticks=[])
    placeholder(axis, 'nothing measured yet')
    return
  axis.axhline(0, color=GREY, linewidth=1)
  for kind, marker in zip(list(VERDICTS)[:3], MARKERS, strict=False):
    some = [each for each in checked if each.kind == kind]
    if some:
      published, measured, low, high = np.array(
        [(e.published, e.measured, e.low, e.high) for e in some]
      ).T
      axis.errorbar(
        published,
        measured - published,
        yerr=np.clip([measured - low, high - measured], 0, None),
        fmt=marker,
        color=VERDICTS[kind],
        markersize=5,
        linewidth=1,
        label=kind,
      )
  axis.margins(y=0.1)
  axis.grid(alpha=0.3)


def speeds(measured: saved_results.Measured) -> Any:
  """Draws rows of a benchmark as bars, or as lines over several image sizes."""
  several = len(set(measured.sides)) > 1
  number = len(measured.values)
  figure = new(7.5, 4.2 if several else 1.3 + 0.36 * number)
  axis = figure.subplots()
  errors = np.stack(
    [measured.values - measured.low, measured.high - measured.values]
  ).clip(0)
  spread = bool(errors.any())
  if several:
    names = list(dict.fromkeys(measured.series))
    for name, colour in zip(names, _colours(len(names)), strict=True):
      rows = [i for i, series in enumerate(measured.series) if series == name]
      rows.sort(key=lambda i: measured.sides[i])
      axis.errorbar(
        measured.sides[rows],
        measured.values[rows],
        yerr=errors[:, rows] if spread else None,
        color=colour,
        marker='o',
        markersize=4,
        capsize=3,
        label=name or None,
      )
    axis.set(xlabel='height of the image (pixels)', ylabel=measured.quantity)
    axis.set_yscale('log')
    _few_ticks(axis.yaxis)
    axis.set_xticks(sorted(set(measured.sides.tolist())))
    axis.grid(alpha=0.3, which='both')
    if any(names):
      axis.legend(fontsize=8)
  else:
    axis.barh(
      range(number),
      measured.values,
      height=0.6,
      color=COLOURS[4],
      xerr=errors if spread else None,
      error_kw=dict(ecolor=GREY, capsize=3),
    )
    axis.set_yticks(range(number), measured.labels)
    axis.invert_yaxis()
    axis.set(xlabel=measured.quantity)
  whiskers = '; whiskers: slowest and fastest round' if spread else ''
  title = f'{_OWN}: {measured.shared}{whiskers}'
  figure.suptitle(title, fontsize=9, wrap=True)
  return figure


def scaling(found: saved_results.Scaling) -> Any:
  """Draws the bound of images per second and chip over the number of chips."""
  figure = new(7.5, 4.2)
  axis = figure.subplots()
  names = list(dict.fromkeys(found.series))
  # The marker shows which limit bounds a program.
  markers = dict(zip(('compute', 'memory', 'links'), MARKERS, strict=False))
  for name, colour in zip(names, _colours(len(names)), strict=True):
    rows = [i for i, series in enumerate(found.series) if series == name]
    rows.sort(key=lambda i: found.chips[i])
    axis.plot(found.chips[rows], found.rates[rows], color=colour, label=name)
    for i in rows:
      axis.plot(
        found.chips[i],
        found.rates[i],
        color=colour,
        marker=markers[found.limits[i]],
        markersize=5,
      )
  for limit in dict.fromkeys(found.limits):
    axis.plot([], [], markers[limit], color=GREY, label=f'bounded by {limit}')
  axis.set(
    xlabel='chips', ylabel='images per second of a chip, at most', xscale='log'
  )
  axis.set_xticks(sorted(set(found.chips.tolist())))
  axis.xaxis.set_major_formatter('{x:.0f}')
  axis.xaxis.set_minor_locator(_no_ticks())
  axis.set_ylim(bottom=0)
  axis.grid(alpha=0.3)
  figure.legend(fontsize=8, loc='outside lower center', ncols=2)
  title = f'computed from compiled programs, not measured: {found.shared}'
  figure.suptitle(title, fontsize=9, wrap=True)
  return figure


def _no_ticks():
  from matplotlib import ticker

  return ticker.NullLocator()


def _few_ticks(side):
  """Sets the ticks 1, 2, 5, 10, ... on a logarithmic axis, without powers."""
  from matplotlib import ticker

  side.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  side.set_major_formatter('{x:g}')
  side.set_minor_locator(ticker.NullLocator())


def _colours(number):
  return [COLOURS[i % len(COLOURS)] for i in range(number)]


def _styles(number):
  return [('-', '--', ':', '-.')[i % 4] for i in range(number)]
