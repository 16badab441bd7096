"""Tests the view of costs."""

import pytest

from vit_jax_repro.analysis import core_days, cost, sizes
from vit_jax_repro.output import sections
from vit_jax_repro.reproduction import views

pytestmark = pytest.mark.quick

COST = cost.Cost(
  system='ViT-B/32',
  model='ViT-B_32',
  parameters=87_455_232,
  multiply_adds=4_408_418_304,
  operations=None,
  epochs=7,
  exaflops=56.1015,
  published=55.0,
)
DAYS = core_days.CoreDays(
  'ViT-L/16', 'JFT-300M', 'ViT-L_16', 14, 1567.0, 294.9, 680.0
)
SIZE = sizes.Size(
  'ViT-L/16',
  'ViT-L_16',
  '304',
  dict(zip(sizes.COUNTS, (303_300_000, 304_330_000, 305_380_000), strict=True)),
)


def test_costs_view_has_every_cost_in_every_format():
  view = views.costs_view([COST], [DAYS], [SIZE])
  compute, time, counts = view.sections
  assert compute.rows == (
    ('ViT-B/32', '7', '87.46', '4.41', '', '56.1', '55', '1.020'),
  )
  assert time.rows == (
    ('ViT-L/16', 'JFT-300M', '14', '1567', '295', '680', '43%'),
  )
  assert counts.rows == (('ViT-L/16', '304', '303.30', '= 304.33', '305.38'),)
  lines = sections.as_csv(view.records).splitlines()
  assert len(lines) == 1 + 4 + 1 + 3
  days = 'TPUv3 core-days at peak of 14 epochs on JFT-300M,294.9,680.0'
  assert f'core-days,ViT-L/16,ViT-L_16,{days}' in lines
  assert 'compute,ViT-B/32,ViT-B_32,exaFLOPs of 7 epochs,56.1015,55.0' in lines
  assert 'parameters,ViT-L/16,ViT-L_16,head,304330000,304' in lines
  assert '| ViT-B/32 | 7 | 87.46 |' in sections.markdown(view.sections)
