"""Numbers of parameters compared with published ones."""

import pytest

from vit_jax_repro.analysis import sizes
from vit_jax_repro.paper import facts


def published():
  """Returns the rows with a published size by model."""
  rows = facts.named('Model sizes').rows
  return {row['model']: row for row in rows if row['params_M_published']}


def test_name_of_knows_every_model_with_a_published_size():
  names = {system: sizes.name_of(system) for system in published()}
  assert names['ViT-B/16'] == 'ViT-B_16'
  assert names['BiT R152x4'] == 'BiT-R152x4'
  assert names['DeiT-B@384 distilled'] == 'DeiT-B_16-distilled'
  assert len(names) == 28


@pytest.mark.parametrize(
  'system, fitting',
  [
    ('ViT-H/14', ('head',)),  # 632 M
    ('ViT-L/16', ()),  # 307 M, the size of ViT-L/32
    ('ViT-S/16', ('tanh, head',)),  # 22.2 M
    ('EfficientNet-L2', ('head',)),  # 480 M, without running statistics
    ('DeiT-Ti distilled', sizes.COUNTS),  # 6 M; 5.52, 5.91 and 5.95
  ],
)
def test_table_shows_the_counts_equal_to_the_published_size(system, fitting):
  row = published()[system]
  (size,) = sizes.table([row])
  assert size.fitting == fitting
  # The counts of the file, which were computed from the architectures.
  backbone, head, _ = (round(n / 1e6, 2) for n in size.counts.values())
  assert backbone == float(row['params_M_backbone_224'])
  assert abs(head - float(row['params_M_1k_head_224'])) < 0.011


def test_table_leaves_out_rows_without_a_published_size():
  assert not sizes.table([{'model': 'ViT-B/8', 'params_M_published': ''}])


@pytest.mark.parametrize(
  'published, count, fits',
  [
    ('86', 86_490_000, True),
    ('86', 86_990_000, True),  # truncated
    ('86', 85_490_000, False),
    ('86', 87_010_000, False),
    ('5.8', 5_749_000, False),
    ('5.8', 5_751_000, True),
    ('87 (paper); 88 (README)', 88_100_000, True),
  ],
)
def test_fitting_accepts_rounded_and_truncated_counts(published, count, fits):
  size = sizes.Size('x', 'x', published, {'all': count})
  assert size.fitting == (('all',) if fits else ())
