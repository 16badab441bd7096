"""Evaluation of masked patch prediction."""

import jax
import numpy as np
import pytest
import tiny_models

from vit_jax_repro import models
from vit_jax_repro.inference import patch_colours
from vit_jax_repro.training import masked_patches

SPEC = tiny_models.spec(512, classifier='unpooled', corruptible=True)
MODEL = models.create(SPEC)
PARAMS = tiny_models.params_of(SPEC, (8, 8))
# Few colours, and a bias towards one of them, make some predictions correct.
IMAGES = np.random.default_rng(0).choice([-1.0, 1.0], (30, 2, 1, 2, 1, 1))
IMAGES = np.broadcast_to(IMAGES, (30, 2, 4, 2, 4, 3)).reshape(30, 8, 8, 3)
IMAGES = IMAGES.astype('f4')
PARAMS = tiny_models.with_head(PARAMS, bias=np.arange(512) == 511)


def batches(size):
  """Yields the images in batches."""
  for start in range(0, len(IMAGES), size):
    image = IMAGES[start : start + size]
    yield {'image': image, 'label': np.zeros(len(image), 'i4')}


def by_hand(params, seed):
  """Returns top-1 hits, top-5 hits and patches, counted with numpy."""
  draws = [
    masked_patches.corruption(jax.random.fold_in(jax.random.key(seed), i), 4)
    for i in range(len(IMAGES))
  ]
  sources, corrupted = (np.stack(parts) for parts in zip(*draws, strict=True))
  logits = jax.jit(MODEL.apply)({'params': params}, IMAGES, sources=sources)
  labels = np.asarray(masked_patches.targets(IMAGES, (4, 4)))[corrupted]
  order = np.argsort(-np.asarray(logits)[corrupted], kind='stable')[:, :5]
  hits = order == labels[:, None]
  values = jax.nn.log_softmax(np.asarray(logits)[corrupted])
  loss = -np.take_along_axis(np.asarray(values), labels[:, None], 1).mean()
  return hits[:, 0].sum(), hits.any(1).sum(), len(labels), loss


def test_evaluate_counts_every_corrupted_patch_once():
  hits, top5, count, loss = by_hand(PARAMS, 0)
  assert count == 60 and 0 < hits < count
  for size in (7, 30):
    result = patch_colours.evaluate(
      MODEL, PARAMS, batches(size), num_examples=30
    )
    assert result == dict(
      accuracy=hits / count,
      top5_accuracy=top5 / count,
      correct=hits,
      correct_top5=top5,
      num_patches=count,
      num_examples=30,
      loss=pytest.approx(loss, rel=1e-5),
    )


def test_evaluate_refuses_a_wrong_number_of_images():
  with pytest.raises(ValueError, match='counted 30 images instead of 31'):
    patch_colours.evaluate(MODEL, PARAMS, batches(30), num_examples=31)
  with pytest.raises(ValueError, match='counted 0 images instead of None'):
    patch_colours.evaluate(MODEL, PARAMS, [])
  with pytest.raises(ValueError, match='num_classes of 512'):
    patch_colours.evaluate(MODEL.clone(num_classes=3), PARAMS, [])


def test_evaluate_refuses_a_loss_that_is_not_finite():
  params = tiny_models.with_head(PARAMS, bias=np.full(512, np.nan))
  with pytest.raises(ValueError, match='the masked patches is nan'):
    patch_colours.evaluate(MODEL, params, batches(30))
