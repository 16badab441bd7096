"""Sizes of batches on a CPU and on other devices."""

import types

import numpy as np
import pytest

from vit_jax_repro.runs import batch_sizes

pytestmark = pytest.mark.quick


def test_batches_ahead_are_none_on_a_cpu():
  """A CPU's memory has the batches of the input pipeline already."""
  settings = types.SimpleNamespace(prefetch=3)
  for platform, number in {'cpu': 0, 'gpu': 3, 'tpu': 3}.items():
    device = types.SimpleNamespace(platform=platform, process_index=0)
    mesh = types.SimpleNamespace(devices=np.array([device]))
    assert batch_sizes.batches_ahead(settings, mesh) == number


def test_evaluation_rows_are_fewer_for_large_images_on_a_cpu():
  """Small images keep `batch_eval`; other devices always do."""
  settings = types.SimpleNamespace(batch_eval=512)
  for platform, side, rows in [
    ('cpu', 8, 512),
    ('cpu', 224, 16),
    ('cpu', 384, 5),
    ('cpu', 4000, 1),
    ('tpu', 384, 512),
  ]:
    device = types.SimpleNamespace(platform=platform, process_index=0)
    mesh = types.SimpleNamespace(devices=np.array([device]))
    found = batch_sizes.evaluation_rows(settings, (side, side), mesh)
    assert found == rows, (platform, side)
