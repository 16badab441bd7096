"""Least squares in closed form, and features of frozen models."""

import jax
import numpy as np
import pytest
import tiny_models

from vit_jax_repro import models
from vit_jax_repro.data import batches as batch_form
from vit_jax_repro.inference import least_squares
from vit_jax_repro.parallel import mesh as meshes

pytestmark = pytest.mark.quick


def random(*shape, seed=0):
  """Returns normally distributed numbers."""
  return np.random.default_rng(seed).normal(size=shape)


def dense(x, y, l2):
  """Solves the same problem as plain least squares with more rows."""
  rows = np.concatenate([x, np.sqrt(l2) * np.eye(x.shape[1])])
  targets = np.concatenate([y, np.zeros((x.shape[1], y.shape[1]))])
  return np.linalg.lstsq(rows, targets, rcond=None)[0]


@pytest.mark.parametrize('l2', [1e-3, 1.0, 1024.0])
@pytest.mark.parametrize('size', [(60, 20), (20, 60), (20, 20), (19, 20)])
def test_solve_equals_the_dense_solution_in_both_forms(size, l2):
  x, y = random(*size), random(size[0], 3, seed=1)
  w = least_squares.solve(x, y, l2)
  assert w.shape == (size[1], 3) and w.dtype == np.float64
  np.testing.assert_allclose(w, dense(x, y, l2), rtol=1e-9, atol=1e-12)
  gradient = x.T @ (x @ w - y) + l2 * w
  np.testing.assert_allclose(gradient, 0, atol=1e-9 * max(1, l2))


@pytest.mark.parametrize('number', [8, 200])  # fewer and more than features
def test_fit_equals_the_formula_of_big_vision(number):
  features = (3 + 5 * random(number, 12)).astype(np.float32)
  features[:, 4] = 7  # constant: its divisor is STD_FLOOR
  labels = np.arange(number) % 4
  head = least_squares.fit(features, labels, 5, l2=1024.0)
  mean = features.mean(0, dtype=np.float64)
  std = features.std(0, dtype=np.float64)
  x = np.pad(
    (features - mean) / (std + 1e-5), ((0, 0), (0, 1)), constant_values=100
  )
  y = -np.ones((number, 5))
  y[np.arange(number), labels] = 1
  wanted = dense(x, y, 1024.0)
  np.testing.assert_allclose(head.weights, wanted, rtol=1e-8, atol=1e-12)
  new = (3 + 5 * random(9000, 12, seed=2)).astype(np.float32)
  new[:, 4] = 7
  white = np.pad(
    (new - mean) / (std + 1e-5), ((0, 0), (0, 1)), constant_values=100
  )
  expected = (white @ wanted).argmax(1)
  assert len(set(expected)) > 2
  np.testing.assert_array_equal(head.predict(new), expected)


def test_fit_separates_distant_classes():
  centres = 10 * random(3, 40)
  train = centres[[0, 1, 2]] + random(3, 40, seed=1)
  test = centres[np.arange(90) % 3] + random(90, 40, seed=2)
  head = least_squares.fit(train, np.arange(3), 3)
  np.testing.assert_array_equal(head.predict(test), np.arange(90) % 3)


def test_fit_refuses_unsolvable_problems_in_one_line():
  features, labels = random(4, 3), np.arange(4)
  broken = features.copy()
  broken[1, 2] = np.inf
  for arguments, options, message in [
    ((features, labels, 4), {'l2': 0}, 'l2=0 must be'),
    ((features[:0], labels[:0], 4), {}, 'no image to learn from'),
    ((broken, labels, 4), {}, 'not finite'),
  ]:
    with pytest.raises(ValueError, match=message) as caught:
      least_squares.fit(*arguments, **options)
    assert '\n' not in str(caught.value)


def in_batches(images, labels, size):
  """Yields batches, the last one padded."""
  for start in range(0, len(images), size):
    part = {
      'image': images[start : start + size],
      'label': labels[start : start + size],
    }
    yield batch_form.pad(part, size)


IMAGES = random(21, 8, 8, 3).astype(np.float32)
LABELS = np.arange(21, dtype=np.int32)


@pytest.mark.parametrize('num_devices', [1, 8])
def test_features_are_the_input_of_the_head(num_devices):
  spec = tiny_models.spec(10, representation_size=12)
  params = tiny_models.params_of(spec)
  head = np.eye(12, 10, dtype=np.float32)  # returns ten of the features
  params = tiny_models.with_head(params, kernel=0)
  shown = {**params, 'head': dict(kernel=head, bias=np.zeros(10, np.float32))}
  model = models.create(spec)
  apply = jax.jit(lambda p, x: model.apply({'params': p}, x, train=False))
  values, labels = least_squares.features(
    model,
    params,
    in_batches(IMAGES, LABELS, 6),
    meshes.create_mesh(devices=jax.devices()[:num_devices]),
    num_examples=21,
  )
  np.testing.assert_array_equal(labels, LABELS)
  assert values.shape == (21, 12) and values.dtype == np.float32
  np.testing.assert_allclose(values[:, :10], apply(shown, IMAGES), atol=1e-5)


@pytest.mark.parametrize(
  'spec, size',
  [
    (tiny_models.spec(10, distilled=True), 32),
    (tiny_models.spec(10, distilled=True, distillation_head=False), 16),
    (tiny_models.spec(10, classifier='token_and_gap', num_registers=2), 32),
    (tiny_models.spec(10, tiny_models.MIXER), 8),
    (tiny_models.spec(10, tiny_models.BIT), 128),
  ],
)
def test_features_of_other_families(spec, size):
  values, _ = least_squares.features(
    models.create(spec),
    tiny_models.params_of(spec),
    in_batches(IMAGES[:8], LABELS[:8], 8),
  )
  assert values.shape == (8, size)
  assert (values.std(axis=0) > 0).mean() > 0.5  # the ReLU of a BiT zeroes some


def test_features_refuses_wrong_batches_and_models_in_one_line():
  spec = tiny_models.spec(10)
  params = tiny_models.params_of(spec)
  unpooled = models.create(spec | {'classifier': 'token_unpooled'})
  broken = IMAGES.copy()
  broken[[3, 9], 0, 0, 0] = np.inf
  for model, images, number, message in [
    (models.create(spec), IMAGES, 22, 'read 21 images instead of 22'),
    (models.create(spec), IMAGES[:0], None, 'no image to compute features of'),
    (models.create(spec), broken, None, 'features of 2 of 21 images are not'),
    (unpooled, IMAGES, None, r'features of shape \(5, 16\)'),
  ]:
    batches = in_batches(images, LABELS, 8)
    with pytest.raises(ValueError, match=message) as caught:
      least_squares.features(model, params, batches, num_examples=number)
    assert '\n' not in str(caught.value)
