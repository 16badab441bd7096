"""Objectives: functions (params, batch, key) -> (loss, metrics).

A batch is a dict with image [B, H, W, 3] and label, either [B] integers or
[B, K] probabilities or integers 0 and 1. The loss is the mean over the batch,
float32; metrics are means too. Augmentations of the whole batch are in
mixing.py.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from vit_jax_repro.errors import InputError

Objective = Callable[[Any, dict, jax.Array], tuple[jax.Array, dict]]


def classification(
  model: nn.Module, *, loss: str = 'softmax', multi_label: bool = False
) -> Objective:
  """Returns the cross-entropy of the model's logits [B, K], as an objective.

  A model with two heads (`distilled`) learns the labels with both, because
  evaluation takes the mean of their logits. The loss is the mean of the two
  losses. The DeiT paper (arXiv:2012.12877) does not describe how its distilled
  models learned other data sets without a teacher; its code would train only
  the class head.

  Args:
    model: applied with `train=True` and the key as its dropout stream.
    loss: 'softmax' (vit_jax/train.py: minus the mean over examples of the sum
      over classes of label * log-probability), or 'sigmoid', the sum of one
      binary cross-entropy per class (big_vision's pre-training).
    multi_label: whether an image may have several labels, or none.

  Returns:
    An objective with the metric `train_accuracy`, the fraction of the batch
    for which the class with the largest logit has the largest label. If
    `multi_label`, it is the fraction of the images with a label for which that
    class is one of the image's.

  Raises:
    InputError: `loss` is unknown.
  """
  per_example = loss_per_example(loss)
  measure = accuracy_of_any if multi_label else accuracy

  def objective(params, batch, key):
    heads = logits_of_heads(model, params, batch['image'], key)
    labels = probabilities(batch['label'], heads[0].shape[-1])
    return (
      mean([per_example(logits, labels).mean() for logits in heads]),
      {'train_accuracy': measure(mean(heads), labels)},
    )

  return objective


def loss_per_example(
  loss: str,
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """Returns a loss by its name: [B, K] logits and labels -> [B].

  Raises:
    InputError: `loss` is unknown.
  """
  losses = {'softmax': softmax_loss, 'sigmoid': sigmoid_loss}
  if loss not in losses:
    raise InputError(f'unknown {loss=}; choose from {sorted(losses)}')
  return losses[loss]


def logits_of_heads(
  model: nn.Module, params: Any, images: jax.Array, key: jax.Array
) -> tuple[jax.Array, ...]:
  """Returns the [B, K] training logits of each of the model's heads."""
  logits: Any = model.apply(
    {'params': params}, images, train=True, rngs={'dropout': key}
  )
  return logits if isinstance(logits, tuple) else (logits,)


def mean(arrays: Sequence[jax.Array]) -> jax.Array:
  """Returns the mean of arrays of one shape."""
  return sum(arrays[1:], arrays[0]) / len(arrays)


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the fraction of rows whose largest logit has the largest label.

  Args:
    logits: [B, K].
    labels: [B, K], probabilities.
  """
  hits = logits.argmax(-1) == labels.argmax(-1)
  return hits.astype(jnp.float32).mean()


def accuracy_of_any(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the fraction of labelled rows whose largest logit has a label.

  Args:
    logits: [B, K].
    labels: [B, K], 0 where the image does not have the class.
  """
  top = logits.argmax(-1, keepdims=True)  # [B, 1]
  hits = jnp.take_along_axis(labels, top, axis=-1)[:, 0] > 0  # [B]
  return hits.sum() / jnp.maximum((labels > 0).any(axis=-1).sum(), 1)


def softmax_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the softmax cross-entropy: [B, K] logits and labels -> [B]."""
  return optax.softmax_cross_entropy(logits, labels)


def sigmoid_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Returns the sum over classes of the binary cross-entropies.

  Args:
    logits: [B, K].
    labels: [B, K], in [0, 1].

  Returns:
    [B].
  """
  return optax.sigmoid_binary_cross_entropy(logits, labels).sum(-1)


def probabilities(labels: jax.Array, num_classes: int) -> jax.Array:
  """Returns [B, K] float labels; [B] integers become one-hot vectors."""
  if labels.ndim == 1:
    return jax.nn.one_hot(labels, num_classes)
  if jnp.issubdtype(labels.dtype, jnp.integer):
    return labels.astype(jnp.float32)
  return labels
