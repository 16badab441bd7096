"""Choice between the two heads of distilled models."""

import jax
import numpy as np
import pytest
import reference
import tiny_models

from vit_jax_repro import models, ports
from vit_jax_repro.inference import classify

pytestmark = pytest.mark.quick
CASE = 'deit_distilled_tiny'


def test_pick_head_gives_the_logits_of_the_original():
  model = models.create(reference.config(CASE))
  params = ports.from_state_dict(
    reference.checkpoint(CASE), num_heads=model.num_heads
  )
  images = reference.images(CASE)
  logits = {
    head: np.asarray(
      jax.jit(classify.pick_head(model, head).apply, static_argnames='train')(
        {'params': params}, images, train=False
      )
    )
    for head in classify.HEADS
  }
  for head, name in (('class', 'cls'), ('distillation', 'dist')):
    wanted = reference.output(CASE, f'logits_{name}')
    np.testing.assert_allclose(logits[head], wanted, atol=1e-5)
  mean = (logits['class'] + logits['distillation']) / 2
  np.testing.assert_allclose(logits['both'], mean, atol=1e-6)
  assert np.abs(logits['class'] - logits['distillation']).max() > 0.1


def test_pick_head_refuses_a_choice_for_models_with_one_head():
  model = models.create('ViT-Ti_16')
  assert classify.pick_head(model, 'both') is model
  with pytest.raises(ValueError, match="head='class' is only for distilled"):
    classify.pick_head(model, 'class')
  one = tiny_models.spec(3, distilled=True, distillation_head=False)
  with pytest.raises(ValueError, match=r'models \(DeiT\) with two heads'):
    classify.pick_head(models.create(one), 'distillation')
  with pytest.raises(ValueError, match="unknown head='left'"):
    classify.pick_head(model, 'left')
