"""What is learned from: functions (params, batch, key) -> (loss, metrics).

A batch is a dict with image [B, H, W, 3] and label, either [B] integers or
[B, K] probabilities. The loss is the mean over the batch, float32; metrics
are means too. What changes the whole batch before is in mixing.py.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from vit_jax_repro.errors import InputError

Objective = Callable[[Any, dict, jax.Array], tuple[jax.Array, dict]]


def classification(model: nn.Module, *, loss: str = 'softmax') -> Objective:
  """Cross-entropy of the model's logits [B, K].

  Args:
    model: applied with `train=True` and the key as its dropout stream.
    loss: 'softmax' (vit_jax/train.py: minus the mean over examples of the sum
      over classes of label * log-probability), or 'sigmoid', one binary
      cross-entropy for each class, summed (big_vision's pre-training).

  A model with two heads (`distilled`) learns the labels with both, so that
  their mean, which is evaluated, does: the loss is the mean of theirs. The
  DeiT paper (arXiv:2012.12877) does not say how its distilled models learned
  other data sets without a teacher; its code would train the class head only.

  Returns:
    An objective; its metrics hold `train_accuracy`, the part of the batch
    whose largest logit is at the largest label.

  Raises:
    InputError: unknown loss.
  """
  losses = {'softmax': softmax_loss, 'sigmoid': sigmoid_loss}
  if loss not in losses:
    raise InputError(f'unknown {loss=}; choose from {sorted(losses)}')
  per_example = losses[loss]

  def objective(params, batch, key):
    heads = logits_of_heads(model, params, batch['image'], key)
    labels = probabilities(batch['label'], heads[0].shape[-1])
    return (
      mean([per_example(logits, labels).mean() for logits in heads]),
      {'train_accuracy': accuracy(mean(heads), labels)},
    )

  return objective


def logits_of_heads(
  model: nn.Module, params: Any, images: jax.Array, key: jax.Array
) -> tuple[jax.Array, ...]:
  """What a model in training says: [B, K] logits of its one or two heads."""
  logits = model.apply(
    {'params': params}, images, train=True, rngs={'dropout': key}
  )
  return logits if isinstance(logits, tuple) else (logits,)


def mean(arrays: Sequence[jax.Array]) -> jax.Array:
  """The mean of arrays of one shape; a single one stays as it is."""
  return sum(arrays[1:], arrays[0]) / len(arrays)


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """The part of [B, K] logits that are largest at the largest label."""
  hits = logits.argmax(-1) == labels.argmax(-1)
  return hits.astype(jnp.float32).mean()


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
