"""Published and measured numbers as data for plots."""

import collections
import dataclasses
import statistics
from collections.abc import Mapping

from vit_jax_repro.paper import table, verdict
from vit_jax_repro.paper.results import Result

# Figure 5 shows ImageNet and an average over five data sets that it does not
# name. Table 7 averages over these five.
FIVE = (
  'ImageNet',
  'CIFAR-10',
  'CIFAR-100',
  'Oxford-IIIT Pets',
  'Oxford Flowers-102',
)
_SOURCES = {  # {file in numbers/: name}
  'vit': 'ViT paper',
  'bit': 'BiT paper',
  'augreg': 'AugReg paper',
  'deit': 'DeiT paper',
  'big_vision': 'big_vision',
  'readmes': 'README files',
  'lit': 'LiT model card',
  'noisy_student': 'Noisy Student paper',
  'timm': 'timm',
  'reproductions': 'reproductions',
}


@dataclasses.dataclass(frozen=True)
class Trained:
  """A model of ViT Table 6; accuracies in per cent."""

  model: str
  family: str  # ViT, hybrid or BiT
  epochs: int
  exaflops: float
  imagenet: float
  average: float  # over FIVE


@dataclasses.dataclass(frozen=True)
class Checked:
  """A published and a measured number, both in per cent."""

  row: str  # id
  published: float
  measured: float
  low: float  # interval of the measurement
  high: float
  kind: str  # verdict.AGREES, DIFFERS or CANNOT_TELL


@dataclasses.dataclass(frozen=True)
class Overview:
  """Verdicts on published numbers."""

  counts: Mapping[str, Mapping[str, int]]  # {source: {kind of verdict: number}}
  checked: tuple[Checked, ...]


def compute() -> list[Trained]:
  """Returns the published models of ViT Table 6, in its order."""
  models = collections.defaultdict(list)
  for row in table.select('ViT Table 6'):
    models[row.model, row.family, int(row.epochs), row.exaflops].append(row)
  found = []
  for about, rows in models.items():
    values = {row.eval_dataset: row.value for row in rows}
    average = statistics.fmean(values[name] for name in FIVE)
    found.append(Trained(*about, values['ImageNet'], average))
  return found


def overview(results: Mapping[str, Result]) -> Overview:
  """Returns the verdicts on all published numbers.

  Args:
    results: measured results by id of the row; see `results.read`.
  """
  sources = {each.name: _SOURCES[each.file] for each in table.tables()}
  judged = verdict.judge_all(
    table.rows(), {name: each.measurement for name, each in results.items()}
  )
  counts = {each: dict.fromkeys(verdict.KINDS, 0) for each in sources.values()}
  checked = []
  for row in table.rows():
    result = results.get(row.id)
    kind = judged[row.id].kind
    counts[sources[row.table]][kind] += 1
    if result is not None and judged[row.id].p_value is not None:
      ends = result.measurement.interval()
      measured, low, high = (
        100 * part for part in (result.measurement.accuracy, *ends)
      )
      checked.append(Checked(row.id, row.value, measured, low, high, kind))
  return Overview(counts, tuple(checked))
