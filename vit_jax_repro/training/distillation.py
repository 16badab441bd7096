"""Learning from labels and from a teacher's predictions (DeiT).

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
  """(1 - alpha) * loss to the label + alpha * loss to the teacher.

  Both are cross-entropies of the softmax; mixed and smoothed labels stay what
  they are. A model with two heads (`distilled`) learns labels with its class
  head and the teacher with the other, a model with one both with that one
  (DeiT Table 3, "usual" distillation).

  Args:
    model: applied with `train=True` and the key as its dropout stream.
    teacher: [B, H, W, 3] images as the model gets them, augmented and mixed
      -> [B, K] logits. No gradient flows through it.
    kind: 'hard' (equation 3), cross-entropy to the teacher's most probable
      class; 'soft' (equation 2), tau ** 2 times the divergence of softmax at
      temperature tau. It is taken from the teacher to the model, as Hinton et
      al. (arXiv:1503.02531) and DeiT's code do, summed over classes. DeiT's
      code divides it by K more (losses.py: by the number of elements), so
      that its alpha counts less than the paper's lambda.
    alpha: 0.5 in equation 3; the paper's soft distillation has 0.1.
    tau: of 'soft'; the paper's is 3.

  Returns:
    An objective; its metrics hold `train_accuracy` (of the mean of the heads,
    as in evaluation) and `teacher_accuracy`, both against the largest label.

  Raises:
    InputError: unknown kind.
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
  """[B, K] logits of model and teacher -> [B]."""
  labels = jax.nn.one_hot(wanted.argmax(-1), wanted.shape[-1])
  return objectives.softmax_loss(logits, labels)


def soft_loss(logits: jax.Array, wanted: jax.Array, tau: float) -> jax.Array:
  """[B, K] logits of model and teacher -> [B]."""
  found, target = (
    jax.nn.log_softmax(x.astype(jnp.float32) / tau) for x in (logits, wanted)
  )
  return tau**2 * optax.losses.kl_divergence_with_log_targets(found, target)
