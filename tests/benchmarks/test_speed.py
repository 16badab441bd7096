"""Speed of contenders, each measured in a process of its own."""

import dataclasses

import child_processes
import pytest

from vit_jax_repro.benchmarks import programs, speed

CASE = programs.Case('infer', 'ViT-Ti_16', 2, 'float32', (32, 32))


@pytest.fixture
def one_device(monkeypatch):
  """Gives child processes one device, unlike the settings of the tests."""
  monkeypatch.setenv('XLA_FLAGS', child_processes.xla_flags(1))


def measure(case=CASE, contenders=('plain',), **options):
  options = dict(rounds=2, seconds=0.01, peak=None) | options
  return speed.measure(
    case, contenders=contenders, show=lambda line: None, **options
  )


def test_measure_compares_variants_and_pytorch(one_device):
  others = speed.others('torch', False, 'ViT-Ti_16')
  assert others == ['transformers eager']  # timm lacks torchvision here
  rows = measure(CASE, ['plain', 'scan', *others], rounds=1, peak=1e9)
  assert [row.contender for row in rows] == ['plain', 'scan', *others]
  for row in rows:
    assert row.error is None and row.devices == 1
    assert row.spread == (row.seconds, row.seconds) > (0, 0)
    assert row.images_per_sec == pytest.approx(2 / row.seconds)
    wanted = programs.operations(CASE) / row.seconds / 1e9
    assert row.utilisation == pytest.approx(wanted)
    assert row.ratio == pytest.approx(row.seconds / rows[0].seconds)
    assert row.ready > 0 and row.peak_bytes is None
  assert rows[0].ratio == 1 and rows[0].device_kind == 'cpu'


def test_measure_keeps_a_row_of_a_failed_contender(one_device):
  case = dataclasses.replace(CASE, batch_size=3, mesh={'data': 2})
  plain, torch = measure(case, ['plain', 'transformers eager'])
  assert 'does not cover 1 devices' in plain.error and plain.seconds is None
  assert torch.error is None and torch.ratio is None and torch.seconds > 0
  assert torch.utilisation is None  # without a peak
  fastest, slowest = torch.spread
  assert fastest <= torch.seconds <= slowest
  assert torch.images_per_sec == pytest.approx(3 / torch.seconds)


@pytest.mark.parametrize(
  'against, model, message',
  [
    ('tensorflow', 'ViT-B_16', 'unknown --against=tensorflow; choose torch,'),
    ('timm', 'ViT-B_16', 'needs torchvision'),
    ('transformers', 'Mixer-B_16', 'transformers has no Mixer-B_16'),
    ('torch', 'Mixer-B_16', 'none has Mixer-B_16; timm has ViT-Ti_16'),
  ],
)
def test_others_rejects_missing_libraries(against, model, message):
  with pytest.raises(ValueError, match=message):
    speed.others(against, False, model)
