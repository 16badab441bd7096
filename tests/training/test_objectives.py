"""Objectives: losses and accuracies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_repro.training import objectives

pytestmark = pytest.mark.quick

LOGITS = np.random.default_rng(0).normal(size=(4, 3)).astype('f4')
LABELS = np.float32([[1, 0, 0], [0, 0.25, 0.75], [0, 1, 0], [0.5, 0.5, 0]])


class Fixed:
  """A model that returns LOGITS."""

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


def test_sigmoid_loss_is_a_binary_loss_for_each_class():
  objective = objectives.classification(Fixed(), loss='sigmoid')
  batch = {'image': None, 'label': LABELS}
  loss, _ = objective(jnp.zeros((4, 3)), batch, jax.random.key(0))
  p = 1 / (1 + np.exp(-LOGITS.astype('f8')))
  by_hand = -(LABELS * np.log(p) + (1 - LABELS) * np.log(1 - p)).sum(-1).mean()
  np.testing.assert_allclose(loss, by_hand, rtol=1e-6)


class TwoHeads(Fixed):
  """A distilled model whose second head outweighs the first."""

  def apply(self, *args, **options):
    logits = super().apply(*args, **options)
    return logits, -3 * logits


def test_classification_trains_both_heads_of_a_distilled_model():
  """Measures the accuracy of their mean, as the evaluation does."""
  objective = objectives.classification(TwoHeads())
  batch = {'image': None, 'label': LABELS}
  loss, metrics = objective(jnp.zeros((4, 3)), batch, jax.random.key(0))
  losses = [
    objectives.softmax_loss(factor * LOGITS, LABELS).mean()
    for factor in (1, -3)
  ]
  np.testing.assert_allclose(loss, sum(losses) / 2, rtol=1e-6)
  hits = LOGITS.argmin(-1) == LABELS.argmax(-1)
  assert float(metrics['train_accuracy']) == hits.mean()


def test_classification_rejects_an_unknown_loss():
  with pytest.raises(ValueError, match="unknown loss='hinge'; choose from"):
    objectives.classification(Fixed(), loss='hinge')
