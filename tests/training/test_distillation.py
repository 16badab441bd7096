"""Distillation losses, compared with NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_repro.training import distillation

pytestmark = pytest.mark.quick

RNG = np.random.default_rng(0)
CLASS, DISTILLED, TEACHER = RNG.normal(size=(3, 4, 5)).astype('f4') * 2
LABELS = RNG.dirichlet(np.ones(5), 4).astype('f4')
BATCH = {'image': jnp.zeros((4, 2, 2, 3)), 'label': LABELS}


class OneHead:
  def apply(self, variables, images, *, train, rngs):
    assert train and 'dropout' in rngs
    return variables['params'] + CLASS


class TwoHeads(OneHead):
  def apply(self, *args, **options):
    return super().apply(*args, **options), jnp.asarray(DISTILLED)


def log_softmax(logits):
  logits = logits.astype('f8')
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def cross_entropy(logits, labels):
  return -(labels * log_softmax(logits)).sum(-1).mean()


def value(model, teacher=TEACHER, **options):
  objective = distillation.distillation(
    model, lambda _: jnp.asarray(teacher), **options
  )
  return objective(jnp.zeros((4, 5)), BATCH, jax.random.key(0))


@pytest.mark.parametrize(
  ('model', 'second'), [(OneHead(), CLASS), (TwoHeads(), DISTILLED)]
)
def test_hard_distillation_averages_losses_to_label_and_teacher(model, second):
  """Follows the DeiT paper, equation 3: the second head learns the teacher."""
  loss, _ = value(model)
  chosen = np.eye(5)[TEACHER.argmax(-1)]
  wanted = cross_entropy(CLASS, LABELS) / 2 + cross_entropy(second, chosen) / 2
  np.testing.assert_allclose(loss, wanted, rtol=1e-6)


@pytest.mark.parametrize(('alpha', 'tau'), [(0.1, 3.0), (0.7, 1.0)])
def test_soft_distillation_is_a_kl_divergence_at_a_temperature(alpha, tau):
  """Follows the DeiT paper, equation 2: summed over classes, not their mean."""
  loss, _ = value(TwoHeads(), kind='soft', alpha=alpha, tau=tau)
  found, target = log_softmax(DISTILLED / tau), log_softmax(TEACHER / tau)
  divergence = (np.exp(target) * (target - found)).sum(-1).mean()
  wanted = (1 - alpha) * cross_entropy(CLASS, LABELS)
  wanted += alpha * tau**2 * divergence
  np.testing.assert_allclose(loss, wanted, rtol=1e-5)


def test_distillation_measures_heads_and_teacher():
  _, metrics = value(TwoHeads())
  mean = (CLASS + DISTILLED) / 2
  for name, logits in (('train', mean), ('teacher', TEACHER)):
    hits = logits.argmax(-1) == LABELS.argmax(-1)
    assert float(metrics[f'{name}_accuracy']) == hits.mean()


def test_distillation_gives_the_teacher_images_and_no_gradient():
  def loss(factor):
    objective = distillation.distillation(
      OneHead(), lambda images: factor * (TEACHER + images.sum()), kind='soft'
    )
    batch = dict(BATCH, image=jnp.ones((4, 2, 2, 3)))
    return objective(jnp.zeros((4, 5)), batch, jax.random.key(0))[0]

  found, gradient = jax.value_and_grad(loss)(0.3)
  with_images = value(OneHead(), 0.3 * (TEACHER + 48), kind='soft')[0]
  np.testing.assert_allclose(found, with_images, rtol=1e-6)
  assert gradient == 0


def test_distillation_rejects_an_unknown_kind():
  with pytest.raises(ValueError, match="unknown kind='warm'; choose from"):
    distillation.distillation(OneHead(), lambda _: TEACHER, kind='warm')
