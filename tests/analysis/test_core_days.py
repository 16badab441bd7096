"""Tests core-days against the published compute and time of ViT's tables."""

import pytest

from vit_jax_repro.analysis import core_days
from vit_jax_repro.paper import table


@pytest.mark.quick
def test_days_of_equals_the_division_by_hand():
  """A peak of a chip where that of a core is meant, or hours for days."""
  # ViT Table 6, ViT-H/14: 4262 exaFLOPs over 123 / 2 TFLOP/s and 86,400 s.
  assert core_days.days_of(4262) == pytest.approx(802.1, abs=0.1)


def test_table_has_the_published_systems_and_plausible_parts_of_the_peak():
  """Images, epochs or a resolution that belong to another row."""
  published = {
    (row.model, row.pretrain_dataset): row.value
    for row in table.select('ViT Table 2')
    if row.metric == table.COST
  }
  found = core_days.table(published)
  assert [row.published for row in found] == [2500, 680, 230, 9900]
  exaflops = {  # ViT Table 6 at the same epochs; R152x4 is not in it
    ('ViT-H/14', 'JFT-300M'): 4262,
    ('ViT-L/16', 'JFT-300M'): 1567,
    ('ViT-L/16', 'ImageNet-21k'): 1567 * (14.2 * 90) / (303 * 14),
  }
  for row in found[:3]:
    wanted = exaflops[row.system, row.dataset]
    assert row.exaflops == pytest.approx(wanted, rel=2e-3)
  used = [row.used for row in found]
  assert used == pytest.approx([0.32, 0.43, 0.39, 0.24], abs=0.01)
