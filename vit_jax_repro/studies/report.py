"""The result of a study as tables, for the terminal and in Markdown."""

import dataclasses
from collections.abc import Mapping

from vit_jax_repro.output import reports, sections
from vit_jax_repro.studies.outcome import (
  LOCALITY,
  MIN_SEEDS,
  MOST_SEEDS,
  UNDECIDED,
  Judgement,
  Side,
  deviation,
)


@dataclasses.dataclass(frozen=True)
class StudyResult:
  """The result of a study, the contents of study.json."""

  name: str
  title: str
  size: str
  num_seeds: int
  sides: tuple[Side, ...]
  judgements: tuple[Judgement, ...]
  published: Mapping[str, str]  # side: the paper's number, if there is one
  dataset: str  # of the accuracies
  test: str  # split of the accuracies
  published_on: str  # data set of the papers' numbers; '' if there is none


def header(result: StudyResult) -> list[str]:
  """Returns the columns of the table of sides.

  The papers' numbers are of another data set, so both are named.
  """
  accuracy = f'test accuracy here, on {result.dataset}'
  columns = ['side', 'learning rate', accuracy, 'each seed']
  if any(side.localities for side in result.sides):
    columns.append('locality')
  if result.published:
    columns.append(f'paper, on {result.published_on}')
  return columns


def rows(result: StudyResult) -> list[list[str]]:
  """Returns a row of cells for each side."""
  columns = header(result)
  cells = []
  for side in result.sides:
    row = [
      side.name,
      f'{side.base_lr:g}',
      f'{side.mean:.1%} ± {side.spread:.1%}',
      '  '.join(f'{accuracy:.1%}' for accuracy in side.accuracies),
    ]
    if 'locality' in columns:
      values = side.localities
      mean = sum(values) / len(values)
      row.append(f'{mean:.2f} ± {deviation(values):.2f}')
    if result.published:
      row.append(result.published.get(side.name, ''))
    cells.append(row)
  return cells


def sentences(result: StudyResult) -> list[str]:
  """Returns one line for each claim.

  For example 'Claim: It helps (ViT paper, D.4). Verdict: undecided, difference
  -4.7 ± 4.6 points (95 %, 5 seeds); 7 seeds would probably decide it; ...'.
  """
  return [
    f'Claim: {each.claim} ({each.source}). Verdict: {"; ".join(_parts(each))}'
    for each in result.judgements
  ]


def _parts(judged):
  """Yields the verdict with its interval, and what more seeds would show."""
  count = f'{judged.num_seeds} seed{"s" if judged.num_seeds > 1 else ""}'
  difference = f'{judged.verdict}, difference {_amount(judged, sign="+")}'
  if judged.half_width is None:
    yield f'{difference}{_unit(judged)} ({count}; a verdict needs {MIN_SEEDS})'
    return
  half, margin = _amount(judged, judged.half_width), _margin(judged)
  yield f'{difference} ± {half}{_unit(judged)} (95 %, {count})'
  if judged.kind == 'alike':
    yield f'alike means within ± {margin}'
  if judged.power is None:
    yield 'all seeds have the same difference'
    return
  if judged.verdict == UNDECIDED:
    yield (
      f'{judged.seeds_needed} seeds would probably decide it'
      if judged.seeds_needed
      else f'even {MOST_SEEDS:,} seeds would probably not decide it'
    )
  truth = '0' if judged.kind == 'alike' else margin
  power = 'over 99%' if judged.power > 0.99 else f'{judged.power:.0%}'
  yield f'power {power} if the true difference is {truth}'


def _margin(judged):
  return f'{_amount(judged, judged.margin)}{_unit(judged)}'


def _amount(judged, value=None, sign=''):
  """Returns a difference in points, or a locality with two decimals."""
  value = judged.difference if value is None else value
  if judged.measure == LOCALITY:
    return f'{value:{sign}z.2f}'
  return f'{100 * value:{sign}z.1f}'


def _unit(judged):
  return '' if judged.measure == LOCALITY else ' points'


def markdown(result: StudyResult) -> str:
  """Returns the whole result as a Markdown text."""
  # The size of a shortened study is such as 'digits with 2 of 5 seeds'.
  size, _, changed = result.size.partition(' ')
  plan = f'`configs/studies.py:{result.name},{size}` {changed}'.strip()
  lines = [
    f'# {result.title}',
    '',
    f'{plan}, {result.num_seeds} seeds: mean ± standard deviation.',
    '',
    *sections.table(header(result), rows(result)),
    '',
    *(f'- {sentence}' for sentence in sentences(result)),
  ]
  return '\n'.join(lines) + '\n'


def show(result: StudyResult) -> None:
  """Prints the result."""
  reports.table(header(result), rows(result), title=result.title)
  for sentence in sentences(result):
    print(sentence)
