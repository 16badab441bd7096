import types

import pytest

from vit_jax_repro.analysis import hlo, roofline
from vit_jax_repro.parallel import targets

pytestmark = pytest.mark.quick
V5E = targets.parse('v5e:2x4').chip
CHIPS = [
  types.SimpleNamespace(coords=(x, y, 0), process_index=0)
  for y in range(4)
  for x in range(2)
]


def bound(**changes):
  given = dict(
    products={'bfloat16': 8e12},
    traffic=10**9,
    collectives=(),
    devices=CHIPS,
    chip=V5E,
    images=512,
    model_operations=12e12,
    dtype='bfloat16',
  )
  return roofline.bound(**given | changes)


def test_bound_is_the_longest_of_products_memory_and_links():
  found = bound()
  assert found.compute == pytest.approx(2e12 / 197e12)
  assert found.memory == pytest.approx(1 / 819)
  assert found.links == 0 and found.limited_by == 'compute'
  assert found.seconds == found.compute
  assert found.images_per_sec == pytest.approx(64 / found.compute)
  assert found.utilisation == pytest.approx(12 / 16)
  moved = bound(traffic=10**11)
  assert moved.limited_by == 'memory' and moved.utilisation < 0.1


def test_products_have_the_peak_of_their_dtype():
  h100 = targets.parse('h100').chip
  narrow, wide = (
    bound(chip=h100, products={name: 8e12}).compute
    for name in ('bfloat16', 'float32')
  )
  assert wide == pytest.approx(2 * narrow)


def test_links_count_loops():
  array = hlo.Array('f32', (10**8,))
  once, often = (
    bound(
      collectives=[
        hlo.Collective(
          'all-reduce', ('data',), tuple(range(8)), (array,), n, ''
        )
      ]
    ).links
    for n in (1, 3)
  )
  # Twice 7/8 of the array over three ports: one along x, two along y.
  assert once == pytest.approx(2 * 7 / 8 * 4e8 / (3 * 50e9))
  assert often == pytest.approx(3 * once)
