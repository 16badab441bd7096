"""Lower bounds of a step's time from products, memory and links."""

import types

import pytest

from vit_jax_repro.analysis import hlo, roofline
from vit_jax_repro.analysis.collectives import Collective
from vit_jax_repro.parallel import targets

pytestmark = pytest.mark.quick
V5E = targets.parse('v5e:2x4').chip
CHIPS = [
  types.SimpleNamespace(coords=(x, y, 0), process_index=0)
  for y in range(4)
  for x in range(2)
]


def bound(**changes):
  """Returns the bound of a program on eight v5e chips, with changes."""
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


def test_bound_uses_the_peak_of_the_dtype():
  h100 = targets.parse('h100').chip
  narrow, wide = (
    bound(chip=h100, products={name: 8e12}).compute
    for name in ('bfloat16', 'float32')
  )
  assert wide == pytest.approx(2 * narrow)


def test_bound_multiplies_collectives_by_their_loop_steps():
  array = hlo.Array('f32', (10**8,))
  once, often = (
    bound(
      collectives=[
        Collective('all-reduce', ('data',), tuple(range(8)), (array,), n, '')
      ]
    ).links
    for n in (1, 3)
  )
  # Twice 7/8 of the array pass three ports: one along x and two along y.
  assert once == pytest.approx(2 * 7 / 8 * 4e8 / (3 * 50e9))
  assert often == pytest.approx(3 * once)


def cards(hosts, each):
  """Returns devices of several hosts."""
  return [
    types.SimpleNamespace(process_index=host)
    for host in range(hosts)
    for _ in range(each)
  ]


def test_exchange_seconds_between_hosts_use_their_network():
  chip = targets.parse('h100').chip
  within = roofline.exchange_seconds(
    chip, cards(1, 8), kind='all-reduce', payload=8e9
  )
  across = roofline.exchange_seconds(
    chip, cards(2, 8), kind='all-reduce', payload=8e9
  )
  assert within == pytest.approx(2 * 7 / 8 * 8e9 / 450e9)
  # Each card exchanges an eighth of the array with the other host.
  assert across == pytest.approx(max(2 * 15 / 16 * 8 / 450, 2 / 2 / 50))


@pytest.mark.parametrize(
  'kind, passes',
  [('all-gather', 7 / 8), ('all-reduce', 14 / 8), ('collective-permute', 1)],
)
def test_exchange_seconds_of_a_slice_use_the_ports_of_its_sides(kind, passes):
  chip = targets.parse('v4:2x2x2').chip
  devices = [
    types.SimpleNamespace(coords=(x, y, z))
    for x in range(2)
    for y in range(2)
    for z in range(2)
  ]
  found = roofline.exchange_seconds(chip, devices, kind=kind, payload=3e9)
  assert found == pytest.approx(passes * 3 / (3 * 50))


def test_exchange_seconds_are_0_within_one_chip():
  chip = targets.parse('v3:2x2').chip
  two = [types.SimpleNamespace(coords=(0, 0, 0))] * 2
  seconds = roofline.exchange_seconds(chip, two, kind='all-reduce', payload=1e9)
  assert not seconds
