"""Published and measured numbers as data for plots."""

import collections

import pytest

from vit_jax_repro.paper import points, results, table, verdict

pytestmark = pytest.mark.quick


def test_compute_returns_the_models_of_table_6():
  found = points.compute()
  assert len(found) == 18 and len({each.model for each in found}) == 15
  small = found[0]
  assert (small.model, small.family, small.epochs) == ('ViT-B/32', 'ViT', 7)
  assert (small.exaflops, small.imagenet) == (55, 80.73)
  mean = (80.73 + 98.61 + 90.49 + 93.40 + 99.27) / 5  # without ReaL's 86.27
  assert small.average == pytest.approx(mean)
  epochs = [each.epochs for each in found if each.model == 'ViT-L/16']
  assert epochs == [7, 14]


def test_overview_counts_verdicts_by_source():
  overview = points.overview({})
  assert overview.checked == ()
  sums = [sum(counts.values()) for counts in overview.counts.values()]
  files = collections.Counter()
  for each in table.tables():
    files[each.file] += each.num_rows
  assert sums == list(files.values()) and len(overview.counts) == len(files)
  before = overview.counts['ViT paper']
  assert before[verdict.AGREES] == before[verdict.DIFFERS] == 0
  rows = table.select('ViT Table 5', dataset='CIFAR-10', status=table.FINETUNE)
  measured = {
    row.id: results.Result(
      row.id, '', verdict.Measurement((row.value / 100 - less,), 10_000), {}
    )
    for row, less in zip(rows[:2], (0, 0.1), strict=True)
  }
  overview = points.overview(measured)
  counts = overview.counts['ViT paper']
  assert (counts[verdict.AGREES], counts[verdict.DIFFERS]) == (1, 1)
  assert counts[verdict.NOT_RUN] == before[verdict.NOT_RUN] - 2
  assert counts[verdict.NOT_CHECKABLE] == before[verdict.NOT_CHECKABLE]
  one, other = overview.checked
  assert (one.kind, other.kind) == (verdict.AGREES, verdict.DIFFERS)
  assert other.measured == pytest.approx(other.published - 10)
  assert other.low < other.measured < other.high < other.published
