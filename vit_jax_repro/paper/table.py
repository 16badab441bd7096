"""The published numbers as rows: what, where it stands, how to check it.

`numbers/tables.csv` has a line for each published table, and the name of the
file with its rows. What is the same in all rows of a table stands there alone
(the columns of `_SHARED`), and so does what the rows do not say: `remark`.

Only numbers, names of files and settings are the sources'; the notes are ours.
A row's id never changes.
"""

import collections
import csv
import dataclasses
import functools
import importlib.resources
from collections.abc import Iterable, Mapping, Sequence

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages

INFERENCE = 'checkable-inference'  # a released fine-tuned file is evaluated
FINETUNE = 'checkable-finetune'  # a released pre-trained file is fine-tuned
NOT = 'not-checkable'  # `blocker` says why
STATUSES = (INFERENCE, FINETUNE, NOT)

COST = 'tpuv3_core_days'
METRICS = {
  'top1_pct': 'top-1',
  'top5_pct': 'top-5',
  '5shot_linear_top1_pct': 'top-1, linear on 5 images a class',
  'vtab_group_mean_top1_pct': 'top-1, mean of the tasks of a group',
  'vtab_mean_top1_pct': 'top-1, mean of 19 tasks',
  COST: 'TPUv3 core-days',
}

_TASKS = {'natural': 7, 'specialized': 4, 'structured': 8}  # of VTAB's groups
_SHARED = ('source', 'confidence', 'second_source', 'note')
_NUMBERS = ('exaflops', 'std', 'value_min', 'value_max')


@dataclasses.dataclass(frozen=True)
class Row:
  """One published number; '' or None for what is not stated."""

  id: str
  table: str
  model: str  # as the source calls it, with the variant that the row is of
  family: str  # ViT, hybrid, BiT, DeiT or other
  pretrain_dataset: str
  epochs: str  # of pre-training: '300', '30 or 90'
  exaflops: float | None  # of pre-training
  finetune_dataset: str  # '' if nothing was fine-tuned
  train_examples: str  # of fine-tuning: 'full', '5 per class', 'train[:99%]'
  resolution: int | None  # pixels of a side
  eval_dataset: str
  split: str
  metric: str  # one of METRICS
  value: float  # in per cent; core-days for COST
  decimals: int  # that the source prints
  std: float | None  # over runs, in per cent
  value_min: float | None  # of several runs, in per cent
  value_max: float | None
  checkpoint: str  # below the bucket; with one of `{*<` it has to be picked
  status: str  # one of STATUSES
  blocker: str  # of NOT: a key of verdict.BLOCKERS
  note: str
  confidence: str  # 'two-sources': two publications or transcriptions agree
  second_source: str
  source: str

  @property
  def published(self) -> str:
    """'99.50 ± 0.06', '55.8 (52.5 to 60.2)', '83.1'."""
    value = f'{self.value:.{self.decimals}f}'
    if self.std is not None:
      return f'{value} ± {self.std:.{self.decimals}f}'
    if self.value_min is not None:
      digits = f'.{self.decimals}f'
      return f'{value} ({self.value_min:{digits}} to {self.value_max:{digits}})'
    return value

  @property
  def num_tasks(self) -> int:
    """How many data sets the number is a mean over; 1: it is of one."""
    if self.metric == 'vtab_mean_top1_pct':
      return sum(_TASKS.values())
    if self.metric == 'vtab_group_mean_top1_pct':
      return next(
        n for group, n in _TASKS.items() if group in self.eval_dataset
      )
    return 1


@dataclasses.dataclass(frozen=True)
class Table:
  """One published table, or another place with numbers."""

  name: str
  file: str  # of numbers/, without .csv
  prefix: str  # that the ids of its rows begin with
  title: str  # what it is about, in our words
  source: str
  remark: str
  counts: Mapping[str, int]  # status: number of rows

  @property
  def num_rows(self) -> int:
    return sum(self.counts.values())

  def short(self, row: Row) -> str:
    """A row's id without what all rows of the table have."""
    return row.id.removeprefix(self.prefix)


def read_csv(name: str) -> list[dict[str, str]]:
  """The lines of numbers/NAME.csv."""
  folder = importlib.resources.files(__package__).joinpath('numbers')
  text = folder.joinpath(f'{name}.csv').read_text('utf-8')
  return list(csv.DictReader(text.splitlines()))


@functools.cache
def rows() -> tuple[Row, ...]:
  """All published numbers, table by table."""
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
  """All published tables."""
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
  """The table of a name, or of a part that no other has.

  Raises:
    InputError: no table or several are called so.
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
  """The rows for which all that is given holds.

  Args:
    table: see `named`.
    pattern: see naming.fits; for the id, the model, the data set it is
      evaluated on, or the weights file.
    status: one of STATUSES.
    dataset, model: patterns for these alone.
    ids: see `find`.

  Raises:
    InputError: nothing is left, a name is unknown, or the status is.
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
  """The row of an id, or of an end or part of it that no other row has.

  Raises:
    InputError: no row or several are called so.
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
  return Row(
    **{
      **line,
      **numbers,
      'resolution': resolution,
      'value': float(value),
      'decimals': decimals,
    }
  )
