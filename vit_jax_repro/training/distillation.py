"""Distillation: an objective from labels and a teacher's predictions.

DeiT paper (arXiv:2012.12877), section 4.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from vit_jax_repro.errors import InputError
from vit_jax_repro.training import objectives


def distillation(
  model: nn.Module,
  teacher: Callable[[jax.Array], jax.Array],
  *,
  kind: str = 'hard',
  alpha: float = 0.5,
  tau: float = 1.0,
) -> objectives.Objective:
  """Returns (1 - alpha) * label loss + alpha * teacher loss, as an objective.

  The label loss is the softmax cross-entropy; it takes mixed and smoothed
  labels as they are. A model with two heads (`distilled`) learns the labels
  with its class head and the teacher with its distillation head. A model with
  one head learns both with it (DeiT Table 3, "usual" distillation).

  Args:
    model: applied with `train=True` and the key as its dropout stream.
    teacher: [B, H, W, 3] images -> [B, K] logits. It receives the same
      augmented and mixed images as the model. No gradient flows through it.
    kind: 'hard' (equation 3) is the cross-entropy to the teacher's most
      probable class. 'soft' (equation 2) is tau ** 2 times the KL divergence
      between the softmaxes at temperature tau, summed over classes. It is
      taken from the teacher to the model, as in Hinton et al.
      (arXiv:1503.02531) and in DeiT's code. DeiT's code also divides it by K
      (losses.py: by the number of elements), so alpha has less weight there
      than lambda in the paper.
    alpha: weight of the teacher loss: 0.5 in equation 3; 0.1 in the paper's
      soft distillation.
    tau: temperature of 'soft'; 3 in the paper.

  Returns:
    An objective with the metrics `train_accuracy` (of the mean of the heads,
    as in evaluation) and `teacher_accuracy`. Both count a prediction as
    correct if it is the class with the largest label.

  Raises:
    InputError: `kind` is unknown.
  """
  losses = {'hard': hard_loss, 'soft': functools.partial(soft_loss, tau=tau)}
  if kind not in losses:
    raise InputError(f'unknown {kind=}; choose from {sorted(losses)}')
  to_teacher = losses[kind]

  def objective(params, batch, key):
    images = batch['image']
    heads = objectives.logits_of_heads(model, params, images, key)
    wanted = jax.lax.stop_gradient(teacher(images))  # [B, K]
    labels = objectives.probabilities(batch['label'], wanted.shape[-1])
    loss = (1 - alpha) * objectives.softmax_loss(heads[0], labels)
    loss += alpha * to_teacher(heads[-1], wanted)
    return loss.mean(), {
      'train_accuracy': objectives.accuracy(objectives.mean(heads), labels),
      'teacher_accuracy': objectives.accuracy(wanted, labels),
    }

  return objective


def hard_loss(logits: jax.Array, wanted: jax.Array) -> jax.Array:
  """Returns the cross-entropy to the teacher's most probable class.

  Args:
    logits: [B, K], of the model.
    wanted: [B, K], of the teacher.

  Returns:
    [B].
  """
  labels = jax.nn.one_hot(wanted.argmax(-1), wanted.shape[-1])
  return objectives.softmax_loss(logits, labels)


def soft_loss(logits: jax.Array, wanted: jax.Array, tau: float) -> jax.Array:
  """Returns tau ** 2 times the KL divergence at temperature tau.

  Args:
    logits: [B, K], of the model.
    wanted: [B, K], of the teacher.
    tau: the temperature.

  Returns:
    [B].
  """
  found, target = (
    jax.nn.log_softmax(x.astype(jnp.float32) / tau) for x in (logits, wanted)
  )
  return tau**2 * optax.losses.kl_divergence_with_log_targets(found, target)
