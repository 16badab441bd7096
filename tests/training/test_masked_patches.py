"""Masked patch prediction: corruption, targets and loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from vit_jax_repro import models
from vit_jax_repro.training import masked_patches

IMAGES = np.random.default_rng(0).uniform(-1, 1, (3, 8, 12, 3)).astype('f4')


def predictor(**fields):
  spec = tiny_models.spec(512, classifier='token_unpooled', corruptible=True)
  return models.create(spec | fields)


def params_of(model):
  """Returns random parameters without zeros."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)['params']
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: rng.normal(0, 0.3, x.shape).astype(x.dtype), shapes
  )


def test_targets_are_classes_of_mean_colours():
  rng = np.random.default_rng(1)
  levels = rng.integers(0, 256, (2, 9, 14, 3))
  wanted = []
  for image in levels:
    for row, column in np.ndindex(2, 3):
      patch = image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
      red, green, blue = (patch.mean((0, 1)) * 8 / 255).astype(int)
      wanted.append(64 * red + 8 * green + blue)
  for mean, std in [(127.5, 127.5), ((120, 110, 100), (60, 57, 58))]:
    images = ((levels - np.array(mean)) / np.array(std)).astype('f4')
    got = masked_patches.targets(images, (4, 4), mean=mean, std=std)
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got, np.reshape(wanted, (2, 6)))
  black, white = (np.full((1, 4, 4, 3), x, 'f4') for x in (-1, 1))
  assert masked_patches.targets(black, (4, 4)) == 0
  assert masked_patches.targets(white, (4, 4)) == 511


def test_corruption_has_the_fractions_of_the_paper():
  keys = jax.random.split(jax.random.key(0), 4000)
  draw = jax.jit(jax.vmap(lambda key: masked_patches.corruption(key, 4)))
  sources, corrupted = map(np.asarray, draw(keys))
  number = np.broadcast_to(np.arange(4), sources.shape)
  assert (corrupted.sum(1) == 2).all()
  assert (sources[~corrupted] == number[~corrupted]).all()
  own = sources[corrupted] == number[corrupted]
  parts = [(sources[corrupted] == -1).mean(), own.mean()]
  np.testing.assert_allclose(parts, [0.8, 0.1], atol=0.012)
  assert sources.min() == -1 and sources.max() == 3
  shifts = (sources - number)[corrupted & (sources >= 0) & (sources != number)]
  # The sources are uniform over the other three patches and the positions.
  parts = np.bincount(shifts % 4, minlength=4)[1:] / len(shifts)
  np.testing.assert_allclose(parts, 1 / 3, atol=0.05)
  np.testing.assert_allclose(corrupted.mean(0), 0.5, atol=0.03)
  with pytest.raises(ValueError, match='num_patches=1 must be at least 2'):
    masked_patches.corruption(keys[0], 1)


def test_sources_select_the_embedding_of_each_position():
  """Hides a patch by [mask] for -1 and copies a patch for its index."""
  model = predictor(position_embedding='none')
  params = params_of(model)
  apply = jax.jit(model.apply)
  own = np.broadcast_to(np.arange(6), (3, 6))
  plain = apply({'params': params}, IMAGES)
  kept = apply({'params': params}, IMAGES, sources=own)
  np.testing.assert_allclose(kept, plain, rtol=0, atol=1e-6)
  copied = own.copy()
  copied[:, 2] = 4
  out = apply({'params': params}, IMAGES, sources=copied)
  np.testing.assert_allclose(out[:, 1 + 2], out[:, 1 + 4], rtol=0, atol=1e-6)
  masked = own.copy()
  masked[:, 2] = -1
  hidden = IMAGES.copy()
  hidden[:, :4, 8:] = 0.5  # patch 2, in two rows of three patches
  one, other = (
    apply({'params': params}, images, sources=masked)
    for images in (IMAGES, hidden)
  )
  np.testing.assert_array_equal(one, other)
  params['mask'] = -params['mask']
  other = apply({'params': params}, IMAGES, sources=masked)
  assert np.abs(other - one).max() > 0.01
  with pytest.raises(ValueError, match='corruptible=False'):
    predictor(corruptible=False).apply({'params': params}, IMAGES, sources=own)


def test_objective_covers_only_corrupted_patches():
  model = predictor()
  params, key = params_of(model), jax.random.key(3)
  objective = jax.jit(masked_patches.objective(model))
  loss, metrics = objective(params, {'image': IMAGES}, key)
  keys = jax.random.split(jax.random.fold_in(key, 0), 3)
  draws = [masked_patches.corruption(k, 6) for k in keys]
  sources = np.stack([np.asarray(s) for s, _ in draws])
  logits = jax.jit(model.apply)({'params': params}, IMAGES, sources=sources)
  logits = np.asarray(logits)[:, -6:].astype('f8')
  labels = np.asarray(masked_patches.targets(IMAGES, (4, 4)))
  losses, hits = [], []
  for i, (_, corrupted) in enumerate(draws):
    for n in np.flatnonzero(corrupted):
      row = logits[i, n]
      losses.append(np.log(np.exp(row).sum()) - row[labels[i, n]])
      hits.append(row.argmax() == labels[i, n])
  assert len(losses) == 9
  np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
  assert metrics['train_accuracy'] == np.float32(np.mean(hits))
  again, _ = objective(params, {'image': IMAGES}, jax.random.key(4))
  assert again != loss


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (dict(corruptible=False), 'corruptible of True, not False'),
    (dict(classifier='token'), "'token_unpooled' or 'unpooled', not 'token'"),
    (dict(num_classes=10), 'num_classes of 512, not 10'),
    (dict(stem_num_layers=(1,)), r'stem_num_layers of None, not \(1,\)'),
  ],
)
def test_objective_rejects_other_models(fields, message):
  with pytest.raises(ValueError, match=message) as error:
    masked_patches.objective(predictor(**fields))
  assert '\n' not in str(error.value)
  mixer = models.create(tiny_models.spec(512, tiny_models.MIXER))
  with pytest.raises(ValueError, match="not 'missing'"):
    masked_patches.objective(mixer)
