"""Losses and mixup."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_repro.training import objectives

pytestmark = pytest.mark.quick

LOGITS = np.random.default_rng(0).normal(size=(4, 3)).astype('f4')
LABELS = np.float32([[1, 0, 0], [0, 0.25, 0.75], [0, 1, 0], [0.5, 0.5, 0]])


class Fixed:
  """A model that gives LOGITS."""

  def apply(self, variables, images, *, train, rngs):
    assert train and 'dropout' in rngs and images is None
    return variables['params'] + LOGITS


def test_softmax_loss_is_minus_the_mean_log_probability():
  objective = objectives.classification(Fixed())
  batch = {'image': None, 'label': LABELS}
  loss, metrics = objective(jnp.zeros((4, 3)), batch, jax.random.key(0))
  exact = LOGITS.astype('f8')
  log_p = exact - np.log(np.exp(exact).sum(-1, keepdims=True))
  np.testing.assert_allclose(loss, -(LABELS * log_p).sum(-1).mean(), rtol=1e-6)
  hits = LOGITS.argmax(-1) == LABELS.argmax(-1)
  assert float(metrics['train_accuracy']) == hits.mean()


def test_sigmoid_loss_is_a_binary_one_for_each_class():
  objective = objectives.classification(Fixed(), loss='sigmoid')
  batch = {'image': None, 'label': LABELS}
  loss, _ = objective(jnp.zeros((4, 3)), batch, jax.random.key(0))
  p = 1 / (1 + np.exp(-LOGITS.astype('f8')))
  by_hand = -(LABELS * np.log(p) + (1 - LABELS) * np.log(1 - p)).sum(-1).mean()
  np.testing.assert_allclose(loss, by_hand, rtol=1e-6)


def test_an_unknown_loss():
  with pytest.raises(ValueError, match="unknown loss='hinge'; choose from"):
    objectives.classification(Fixed(), loss='hinge')


def test_mixup_mixes_with_the_reversed_batch_by_one_weight():
  images = np.arange(4.0, dtype='f4').reshape(4, 1, 1, 1)
  batch = {'image': images, 'label': np.int32([0, 1, 2, 0])}
  mixed = objectives.mixup(batch, jax.random.key(1), alpha=0.5, num_classes=3)
  weight = float((mixed['image'][0, 0, 0, 0] - 3) / (0 - 3))
  assert 0 < weight < 1
  np.testing.assert_allclose(
    mixed['image'], weight * images + (1 - weight) * images[::-1], rtol=1e-5
  )
  one_hot = np.eye(3)[batch['label']]
  np.testing.assert_allclose(
    mixed['label'], weight * one_hot + (1 - weight) * one_hot[::-1], atol=1e-6
  )


def test_mixup_weights_have_the_distribution():
  keys = jax.random.split(jax.random.key(0), 4000)
  batch = {
    'image': jnp.float32([0, 1]).reshape(2, 1, 1, 1),
    'label': jnp.zeros(2, int),
  }
  mixed = jax.vmap(
    lambda key: objectives.mixup(batch, key, alpha=0.1, num_classes=2)['image']
  )(keys)
  weights = np.asarray(mixed)[:, 1, 0, 0, 0]
  np.testing.assert_allclose(weights.mean(), 0.5, atol=0.03)
  np.testing.assert_allclose(weights.var(), 1 / (4 * 1.2), atol=0.02)
