"""The published numbers as rows: value, source, and the way to check it.

`numbers/tables.csv` has a line for each published table, with the name of the
file that holds its rows. Cells that are equal in all rows of a table are only
in this line (the columns of `_SHARED`), and so is a `remark` on the table.

Only numbers, names of files and settings come from the sources. The notes are
ours. The id of a row never changes.
"""

import collections
import csv
import dataclasses
import functools
import importlib.resources
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages

INFERENCE = 'checkable-inference'  # a released fine-tuned file is evaluated
FINETUNE = 'checkable-finetune'  # a released pre-trained file is fine-tuned
NOT = 'not-checkable'  # `blocker` is the reason
STATUSES = (INFERENCE, FINETUNE, NOT)

COST = 'tpuv3_core_days'
METRICS = {
  'top1_pct': 'top-1',
  'top5_pct': 'top-5',
  '5shot_linear_top1_pct': 'top-1, linear on 5 images a class',
  'vtab_group_mean_top1_pct': 'top-1, mean of the tasks of a group',
  'vtab_mean_top1_pct': 'top-1, mean of 19 tasks',
  'image_to_text_pct': 'image-to-text retrieval',
  COST: 'TPUv3 core-days',
}

_TASKS = {'natural': 7, 'specialized': 4, 'structured': 8}  # of VTAB's groups
_SHARED = ('source', 'confidence', 'second_source', 'note')
_NUMBERS = ('exaflops', 'std', 'value_min', 'value_max')


@dataclasses.dataclass(frozen=True)
class Row:
  """A published number; '' or None in fields that the source does not state."""

  id: str
  table: str
  model: str  # the source's name, with the variant of this row
  family: str  # ViT, hybrid, BiT, DeiT, LiT or EfficientNet
  pretrain_dataset: str
  epochs: str  # of pre-training: '300', '30 or 90'
  exaflops: float | None  # of pre-training
  finetune_dataset: str  # '' if nothing was fine-tuned
  train_examples: str  # of fine-tuning: 'full', '5 per class', 'train[:99%]'
  resolution: int | None  # side in pixels
  eval_dataset: str
  split: str
  metric: str  # one of METRICS
  value: float  # in per cent; core-days for COST
  decimals: int  # printed in the source
  std: float | None  # over runs, in per cent
  value_min: float | None  # of several runs, in per cent
  value_max: float | None
  checkpoint: str  # path in the bucket; with `{`, `*` or `<` several files fit
  status: str  # one of STATUSES
  blocker: str  # a key of verdict.BLOCKERS, if the status is NOT
  note: str
  confidence: str  # 'two-sources': two publications or transcriptions agree
  second_source: str
  source: str

  @property
  def published(self) -> str:
    """Returns '99.50 ± 0.06', '55.8 (52.5 to 60.2)' or '83.1'."""
    value = f'{self.value:.{self.decimals}f}'
    if self.std is not None:
      return f'{value} ± {self.std:.{self.decimals}f}'
    if self.value_min is not None:
      digits = f'.{self.decimals}f'
      return f'{value} ({self.value_min:{digits}} to {self.value_max:{digits}})'
    return value

  @property
  def num_tasks(self) -> int:
    """Returns the number of data sets that the value is a mean over, or 1."""
    if self.metric == 'vtab_mean_top1_pct':
      return sum(_TASKS.values())
    if self.metric == 'vtab_group_mean_top1_pct':
      return next(
        n for group, n in _TASKS.items() if group in self.eval_dataset
      )
    return 1


@dataclasses.dataclass(frozen=True)
class Table:
  """A published table, or another source of numbers."""

  name: str
  file: str  # in numbers/, without .csv
  prefix: str  # beginning of the ids of its rows
  title: str  # in our words
  source: str
  remark: str
  counts: Mapping[str, int]  # status: number of rows

  @property
  def num_rows(self) -> int:
    """Returns the number of rows of the table."""
    return sum(self.counts.values())

  def short(self, row: Row) -> str:
    """Returns the id of a row without the prefix of the table."""
    return row.id.removeprefix(self.prefix)


def read_csv(name: str) -> list[dict[str, str]]:
  """Returns the lines of numbers/NAME.csv."""
  assert __package__
  folder = importlib.resources.files(__package__).joinpath('numbers')
  text = folder.joinpath(f'{name}.csv').read_text('utf-8')
  return list(csv.DictReader(text.splitlines()))


@functools.cache
def rows() -> tuple[Row, ...]:
  """Returns all published numbers, table by table."""
  lines = read_csv('tables')
  found = {line['table']: [] for line in lines}
  shared = {
    line['table']: {name: line[name] for name in _SHARED if line[name]}
    for line in lines
  }
  for name in dict.fromkeys(line['file'] for line in lines):
    for line in read_csv(name):
      found[line['table']].append(_row(line | shared[line['table']]))
  return tuple(row for each in found.values() for row in each)


@functools.cache
def tables() -> tuple[Table, ...]:
  """Returns all published tables."""
  counts = collections.defaultdict(lambda: dict.fromkeys(STATUSES, 0))
  sources = {}
  for row in rows():
    counts[row.table][row.status] += 1
    sources[row.table] = row.source
  return tuple(
    Table(
      name=line['table'],
      file=line['file'],
      prefix=line['prefix'],
      title=line['title'],
      source=sources[line['table']],
      remark=line['remark'],
      counts=counts[line['table']],
    )
    for line in read_csv('tables')
  )


def named(name: str) -> Table:
  """Returns the table with a name, or with a part of a name that is unique.

  Raises:
    InputError: no table or several match.
  """
  by_name = {each.name: each for each in tables()}
  return by_name[messages.pick(name, by_name, 'table', '`list` has all names')]


def select(
  table: str | None = None,
  pattern: str | None = None,
  status: str | None = None,
  dataset: str | None = None,
  model: str | None = None,
  ids: Iterable[str] | None = None,
) -> list[Row]:
  """Returns the rows that meet all given conditions.

  Args:
    table: name of their table, see `named`.
    pattern: pattern for the id, the model, the data set of the evaluation or
      the weights file; see `messages.fits`.
    status: one of STATUSES.
    dataset: pattern for the data set of the evaluation.
    model: pattern for the model.
    ids: names of rows, see `find`.

  Raises:
    InputError: no row is left, or a name or the status is unknown.
  """
  if status is not None and status not in STATUSES:
    raise InputError(f'{status=} must be one of {", ".join(STATUSES)}')
  found: Sequence[Row] = rows() if ids is None else [find(each) for each in ids]
  if table is not None:
    name = named(table).name
    found = [row for row in found if row.table == name]
  for wanted, texts in (
    (pattern, lambda r: (r.id, r.model, r.eval_dataset, r.checkpoint)),
    (dataset, lambda r: (r.eval_dataset,)),
    (model, lambda r: (r.model,)),
  ):
    if wanted is not None:
      found = [row for row in found if messages.fits(wanted, *texts(row))]
  found = [row for row in found if status in (None, row.status)]
  if not found:
    given = dict(
      table=table, pattern=pattern, status=status, dataset=dataset, model=model
    )
    given = ', '.join(f'{k}={v!r}' for k, v in given.items() if v is not None)
    raise InputError(f'no row fits {given}; `show TABLE` has the rows of one')
  return list(found)


def find(row: str) -> Row:
  """Returns the row with an id, or with a unique end or part of an id.

  Raises:
    InputError: no row or several match.
  """
  by_id = {each.id: each for each in rows()}
  remedy = '`show TABLE` has the ids of its rows'
  return by_id[messages.pick(row, by_id, 'row', remedy)]


def _row(line):
  value = line['value']
  numbers = {
    name: float(line[name]) if line[name] else None for name in _NUMBERS
  }
  resolution = int(line['resolution']) if line['resolution'] else None
  decimals = len(value.partition('.')[2])
  fields: dict[str, Any] = {
    **line,
    **numbers,
    'resolution': resolution,
    'value': float(value),
    'decimals': decimals,
  }
  return Row(**fields)
