"""Targets of dry runs: parsing, and compilers that are missing."""

import pytest

from vit_jax_repro.parallel import targets

pytestmark = pytest.mark.quick


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
def test_parse_reads_name_shape_and_number_of_devices(
  text, name, shape, devices
):
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
def test_parse_refuses_other_text(text, message):
  with pytest.raises(ValueError, match=message):
    targets.parse(text)


def test_devices_refuses_chips_without_a_compiler():
  with pytest.raises(ValueError, match='needs the card itself'):
    targets.parse('t4').devices()


@pytest.mark.parametrize(
  'text, message',
  [
    ('v5e:2x4', r"pip install 'jax\[tpu\]==\d"),
    ('h100', r'pip install --no-deps jax-cuda12-plugin==\d'),
  ],
)
def test_devices_names_the_missing_wheel(text, message, monkeypatch):
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  with pytest.raises(ValueError, match=message):
    targets.parse(text).devices()
