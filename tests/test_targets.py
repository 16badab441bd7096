import pytest

from vit_jax_repro.training import targets

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
