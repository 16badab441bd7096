import types

import pytest

from vit_jax_repro.parallel import targets

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
  'kind, dtype, teraflops',
  [
    ('NVIDIA H100 80GB HBM3', 'bfloat16', 989.4),
    ('NVIDIA H100 80GB HBM3', 'float32', 494.7),
    ('NVIDIA H100 PCIe', 'bfloat16', 756),
    ('NVIDIA A100-SXM4-40GB', 'bfloat16', 312),
    ('NVIDIA A10G', 'bfloat16', 70),
    ('NVIDIA L40S', 'bfloat16', 362),
    ('NVIDIA L4', 'bfloat16', 121),
    ('TPU v5 lite', 'bfloat16', 197),
    ('TPU v5p', 'bfloat16', 459),
    ('TPU v4', 'float32', 275),
  ],
)
def test_devices_as_they_name_themselves(kind, dtype, teraflops):
  assert targets.peak(kind, dtype) == teraflops * 1e12


def test_an_unknown_device_has_no_peak():
  assert targets.peak('cpu', 'float32') is None


@pytest.mark.parametrize(
  'text, name, shape, devices',
  [
    ('v5e:2x4', 'v5e:2x4', (2, 4), 8),
    ('v4:2x2x2', 'v4:2x2x2', (2, 2, 2), 8),
    ('v3:2x2', 'v3:2x2', (2, 2), 8),
    ('TPU7x:2x2x1', 'v7x:2x2x1', (2, 2, 1), 8),
    ('h100', 'h100', (1, 1), 1),
    ('h100:2x8', 'h100:2x8', (2, 8), 16),
    ('a100-80gb', 'a100', (1, 1), 1),
  ],
)
def test_parse(text, name, shape, devices):
  found = targets.parse(text)
  assert (found.name, found.shape) == (name, shape)
  assert found.num_devices == devices


@pytest.mark.parametrize(
  'text, message',
  [
    ('v9:2x2', 'unknown --target=v9:2x2; choose from v2, v3, v4, v5e'),
    ('v5e', 'must be one target, v5e:SHAPE, such as v4:2x2x2 or v5e:2x4'),
    ('v5e:8', 'chips along each side'),
    ('v5e:0x4', 'v5e:SHAPE'),
    ('h100:8', 'h100:SHAPE, such as h100:1x8: hosts x cards'),
    ('h100:1x', 'h100:SHAPE'),
  ],
)
def test_parse_refuses_what_is_no_target(text, message):
  with pytest.raises(ValueError, match=message):
    targets.parse(text)


def test_devices_of_chips_without_a_compiler():
  with pytest.raises(ValueError, match='needs the card itself'):
    targets.parse('t4').devices()


@pytest.mark.parametrize(
  'text, message',
  [
    ('v5e:2x4', r"pip install 'jax\[tpu\]==\d"),
    ('h100', r'pip install --no-deps jax-cuda12-plugin==\d'),
  ],
)
def test_devices_names_the_wheel_that_is_missing(text, message, monkeypatch):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(ValueError, match=message):
    targets.parse(text).devices()


def test_every_chip_is_found_by_each_of_its_kinds():
  for chip in targets.CHIPS:
    for kind in chip.kinds:
      assert targets.chip_of(f'NVIDIA {kind} x') is chip
    assert chip.source and chip.bandwidth > 0 < chip.memory
  assert targets.chip_of('NVIDIA A100-SXM4-80GB').name == 'a100'
  assert targets.chip_of('TPU v5p').name == 'v5p'


def test_usable_memory_of_a_card_is_the_fraction_that_jax_takes(monkeypatch):
  chip = targets.parse('h100').chip
  monkeypatch.delenv('XLA_PYTHON_CLIENT_MEM_FRACTION', raising=False)
  assert chip.usable() == pytest.approx(0.75 * 84942979072)
  for text in ('abc', '0', '-1', 'nan'):
    monkeypatch.setenv('XLA_PYTHON_CLIENT_MEM_FRACTION', text)
    with pytest.raises(ValueError, match=f'_FRACTION={text} must be a part'):
      chip.usable()
  monkeypatch.setenv('XLA_PYTHON_CLIENT_MEM_FRACTION', '.9')
  assert chip.usable() == pytest.approx(0.9 * 84942979072)
  assert targets.parse('v5e:1x1').chip.usable() == int(15.75 * 2**30)


def cards(hosts, each):
  return [
    types.SimpleNamespace(process_index=host)
    for host in range(hosts)
    for _ in range(each)
  ]


def test_exchange_between_hosts_is_bounded_by_their_network():
  chip = targets.parse('h100').chip
  within = targets.exchange_seconds(
    chip, cards(1, 8), kind='all-reduce', payload=8e9
  )
  across = targets.exchange_seconds(
    chip, cards(2, 8), kind='all-reduce', payload=8e9
  )
  assert within == pytest.approx(2 * 7 / 8 * 8e9 / 450e9)
  # An eighth of the array from each card, to one other host and back.
  assert across == pytest.approx(max(2 * 15 / 16 * 8 / 450, 2 / 2 / 50))


@pytest.mark.parametrize(
  'kind, passes',
  [('all-gather', 7 / 8), ('all-reduce', 14 / 8), ('collective-permute', 1)],
)
def test_exchange_of_a_slice_uses_the_ports_of_its_sides(kind, passes):
  chip = targets.parse('v4:2x2x2').chip
  devices = [
    types.SimpleNamespace(coords=(x, y, z))
    for x in range(2)
    for y in range(2)
    for z in range(2)
  ]
  found = targets.exchange_seconds(chip, devices, kind=kind, payload=3e9)
  assert found == pytest.approx(passes * 3 / (3 * 50))


def test_cores_of_one_chip_need_no_link():
  chip = targets.parse('v3:2x2').chip
  two = [types.SimpleNamespace(coords=(0, 0, 0))] * 2
  seconds = targets.exchange_seconds(chip, two, kind='all-reduce', payload=1e9)
  assert not seconds


def test_advice_where_a_card_has_no_bfloat16():
  t4 = types.SimpleNamespace(device_kind='Tesla T4')
  assert 'take float32' in targets.advice_on_dtype(t4, 'bfloat16')
  assert targets.advice_on_dtype(t4, 'float32') is None
  h100 = types.SimpleNamespace(device_kind='NVIDIA H100 80GB HBM3')
  assert targets.advice_on_dtype(h100, 'bfloat16') is None


@pytest.mark.parametrize(
  'kind',
  [
    'NVIDIA L40', 'NVIDIA RTX A4000', 'NVIDIA RTX A1000', 'NVIDIA T400',
    'NVIDIA GH200 480GB', 'NVIDIA GeForce RTX 4090 Laptop GPU',
    'NVIDIA H100 80GB HBM3 MIG 1g.10gb', 'cpu',
  ],
)  # fmt: skip
def test_chip_of_does_not_take_a_device_for_another(kind):
  assert targets.chip_of(kind) is None
