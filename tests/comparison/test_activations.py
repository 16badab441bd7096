"""Activations of the reference, and tolerances from their noise."""

import numpy as np
import pytest
import reference

from vit_jax_repro import models
from vit_jax_repro.comparison import activations

pytestmark = pytest.mark.usefixtures('as_users_compile')


def made(case):
  model = models.create(reference.config(case))
  return model, reference.canonical(case), reference.images(case)


def test_run_returns_names_in_the_order_of_computation():
  found = activations.run(*made('hybrid_1_1_1'))
  assert list(found) == [
    'conv_root',
    'gn_root',
    'block1',
    'block2',
    'block3',
    'embedding',
    'Transformer/posembed_input',
    *(
      f'Transformer/encoderblock_{i}{end}'
      for i in (0, 1)
      for end in (
        '/LayerNorm_0',
        '/MultiHeadDotProductAttention_0',
        '/LayerNorm_1',
        '/MlpBlock_0',
        '',
      )
    ),
    'Transformer/encoder_norm',
    'pre_logits',
    'logits',
  ]
  assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}


def test_run_sorts_layers_by_number():
  found = list(activations.run(*made('vit_12_layers')))
  blocks = [n for n in found if 'encoderblock' in n and n.count('/') == 1]
  assert blocks == [f'Transformer/encoderblock_{i}' for i in range(12)]


@pytest.mark.parametrize('case', ['vit_token', 'mixer'])
def test_run_returns_the_originals_values_in_both_dtypes(case):
  arguments = made(case)
  single = activations.run(*arguments)
  np.testing.assert_allclose(
    single['logits'], reference.output(case, 'logits'), atol=1e-5
  )
  double = activations.run(*arguments, dtype='float64')
  np.testing.assert_allclose(
    double['logits'], reference.output(case, 'logits_f64'), atol=1e-9
  )
  assert double['pre_logits'].dtype == np.float64


def test_tolerances_follow_the_noise_of_the_reference():
  arguments = made('vit_token')
  single = activations.run(*arguments)
  found = activations.tolerances(single, *arguments)
  assert found.keys() == single.keys()
  noise = np.abs(
    single['logits'] - reference.output('vit_token', 'logits_f64')
  ).max()
  assert found['logits'] == pytest.approx(10 * noise, rel=1e-3)
  for name, value in found.items():
    assert 1e-7 < value / np.abs(single[name]).max() < 1e-4
  double = activations.run(*arguments, dtype='float64')
  exact = activations.tolerances(double, *arguments, dtype='float64')
  assert max(exact.values()) < 1e-8


def test_random_images_have_high_and_low_contrasts():
  images = activations.random_images((8, 12))
  assert images.shape == (3, 8, 12, 3) and images.dtype == np.float32
  np.testing.assert_array_equal(images, activations.random_images((8, 12)))
  assert np.ptp(images[0]) > 1.9
  assert np.abs(images[1]).max() < 2.1e-3
  assert np.abs(images[2] - 0.25).max() < 2.1e-3
