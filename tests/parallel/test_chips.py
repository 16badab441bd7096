"""Chips: their peaks and memory, and recognition by device kind."""

import types

import pytest

from vit_jax_repro.parallel import chips, targets

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
def test_peak_of_device_kinds(kind, dtype, teraflops):
  assert chips.peak(kind, dtype) == teraflops * 1e12


def test_peak_of_an_unknown_device_is_none():
  assert chips.peak('cpu', 'float32') is None


def test_chip_of_finds_every_chip_by_each_of_its_kinds():
  for chip in chips.CHIPS:
    for kind in chip.kinds:
      assert chips.chip_of(f'NVIDIA {kind} x') is chip
    assert chip.source and chip.bandwidth > 0 < chip.memory
  assert chips.chip_of('NVIDIA A100-SXM4-80GB').name == 'a100'
  assert chips.chip_of('TPU v5p').name == 'v5p'


def test_usable_memory_of_a_card_is_the_fraction_jax_reserves(monkeypatch):
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


def test_advice_on_dtype_is_float32_for_a_card_without_bfloat16():
  t4 = types.SimpleNamespace(device_kind='Tesla T4')
  assert 'take float32' in chips.advice_on_dtype(t4, 'bfloat16')
  assert chips.advice_on_dtype(t4, 'float32') is None
  h100 = types.SimpleNamespace(device_kind='NVIDIA H100 80GB HBM3')
  assert chips.advice_on_dtype(h100, 'bfloat16') is None


@pytest.mark.parametrize(
  'kind',
  [
    'NVIDIA L40', 'NVIDIA RTX A4000', 'NVIDIA RTX A1000', 'NVIDIA T400',
    'NVIDIA GH200 480GB', 'NVIDIA GeForce RTX 4090 Laptop GPU',
    'NVIDIA H100 80GB HBM3 MIG 1g.10gb', 'cpu',
  ],
)  # fmt: skip
def test_chip_of_does_not_take_a_device_for_another(kind):
  assert chips.chip_of(kind) is None
