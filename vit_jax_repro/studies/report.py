"""The result of a study as tables, for the terminal and in Markdown."""

import dataclasses
from collections.abc import Mapping

from vit_jax_repro.output import reports, sections
from vit_jax_repro.studies.outcome import Judgement, Side, deviation


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


def header(result: StudyResult) -> list[str]:
  """Returns the columns of the table of sides."""
  columns = ['side', 'learning rate', 'test accuracy', 'each seed']
  if any(side.localities for side in result.sides):
    columns.append('locality')
  if result.published:
    columns.append('paper')
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
    if 'paper' in columns:
      row.append(result.published.get(side.name, ''))
    cells.append(row)
  return cells


def sentences(result: StudyResult) -> list[str]:
  """Returns one line for each claim."""
  return [
    f'{each.claim} ({each.source}): {each.verdict}; the difference is '
    f'{each.difference:+.3f} ± {each.spread:.3f}'
    for each in result.judgements
  ]


def markdown(result: StudyResult) -> str:
  """Returns the whole result as a Markdown text."""
  # The size of a shortened study is such as 'digits with 2 of 3 seeds'.
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
