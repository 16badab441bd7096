import pytest

from vit_jax_repro.benchmarks import peaks

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
  assert peaks.of(kind, dtype) == teraflops * 1e12


def test_an_unknown_device_has_no_peak():
  assert peaks.of('cpu', 'float32') is None


def test_no_row_stands_behind_one_that_takes_its_devices():
  parts = [row[0] for row in peaks.PEAKS]
  for i, part in enumerate(parts):
    assert not any(before in part for before in parts[:i])
