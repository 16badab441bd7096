"""What is learned from: functions (params, batch, key) -> (loss, metrics).

A batch is a dict with image [B, H, W, 3] and label, either [B] integers or
[B, K] probabilities. The loss is the mean over the batch, float32; metrics
are means too. What changes the whole batch before is in mixing.py.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

Objective = Callable[[Any, dict, jax.Array], tuple[jax.Array, dict]]


def classification(model: nn.Module, *, loss: str = 'softmax') -> Objective:
  """Cross-entropy of the model's logits [B, K].

  Args:
    model: applied with `train=True` and the key as its dropout stream.
    loss: 'softmax' (vit_jax/train.py: minus the mean over examples of the sum
      over classes of label * log-probability), or 'sigmoid', one binary
      cross-entropy for each class, summed (big_vision's pre-training).

  Returns:
    An objective; its metrics hold `train_accuracy`, the part of the batch
    whose largest logit is at the largest label.

  Raises:
    ValueError: unknown loss.
  """
  losses = {'softmax': softmax_loss, 'sigmoid': sigmoid_loss}
  if loss not in losses:
    raise ValueError(f'unknown {loss=}; choose from {sorted(losses)}')
  per_example = losses[loss]

  def objective(params, batch, key):
    logits = model.apply(
      {'params': params}, batch['image'], train=True, rngs={'dropout': key}
    )
    labels = probabilities(batch['label'], logits.shape[-1])
    hits = logits.argmax(-1) == labels.argmax(-1)
    return (
      per_example(logits, labels).mean(),
      {'train_accuracy': hits.astype(jnp.float32).mean()},
    )

  return objective


def softmax_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """[B, K] logits and probabilities -> [B]."""
  return optax.softmax_cross_entropy(logits, labels)


def sigmoid_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """[B, K] logits and targets in [0, 1] -> [B], summed over classes."""
  return optax.sigmoid_binary_cross_entropy(logits, labels).sum(-1)


def probabilities(labels: jax.Array, num_classes: int) -> jax.Array:
  """[B] integers -> [B, K] float32 one-hot; [B, K] stays."""
  if labels.ndim == 1:
    return jax.nn.one_hot(labels, num_classes)
  return labels
