"""Tests the compute of checks against a cost counted by hand."""

import pytest

from vit_jax_repro.reproduction import compute_cost

pytestmark = pytest.mark.quick

# Multiply-adds of ViT-B/16 at 224 pixels: patches, 12 layers of four
# projections, two of an MLP and attention twice, the head.
B_16 = 196 * 768**2 + 12 * (197 * 12 * 768**2 + 2 * 197**2 * 768) + 768_000


def test_evaluation_and_training_count_operations_of_vit_b():
  assert compute_cost.evaluation('ViT-B_16', 224, 10) == 2 * B_16 * 10
  assert compute_cost.evaluation('ViT-B_16', (224, 224), 10) == 2 * B_16 * 10
  # The backward pass costs twice the forward pass.
  assert compute_cost.training('ViT-B_16', 224, 10) == 3 * 2 * B_16 * 10


def test_compute_meter_predicts_seconds_from_measured_speed():
  meter = compute_cost.ComputeMeter()
  assert meter.expected(1e9) == 0.0
  meter.add(100.0, 2.0)
  meter.add(300.0, 2.0)
  assert meter.expected(1000.0) == 10.0
