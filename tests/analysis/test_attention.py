"""Attention maps, rollout and mean distance, also by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from vit_jax_repro import models
from vit_jax_repro.analysis import attention

pytestmark = pytest.mark.quick

HYBRID = dict(
  patch_size=[1, 1], stem_num_layers=[1], stem_width_factor=0.5, num_layers=1
)
# The heads differ in the first layer and are equal in the second.
LAYERS = np.array(
  [
    [[[0.8, 0.2], [0.4, 0.6]], [[0.6, 0.4], [0.4, 0.6]]],
    [[[1, 0], [1, 0]], [[1, 0], [1, 0]]],
  ],
  np.float32,
)


def attend(spec, image_size):
  """Returns the attention maps of a random image."""
  params = tiny_models.params_of(spec, image_size)
  image = np.random.default_rng(1).normal(size=(*image_size, 3))
  return attention.attention_maps(
    models.create(spec), params, image.astype(np.float32)
  )


@pytest.mark.parametrize(
  'fields, size, grid, prefix',
  [
    ({}, (8, 12), (2, 3), 1),
    (dict(distilled=True, scan=True), (8, 12), (2, 3), 2),
    (dict(classifier='gap'), (8, 12), (2, 3), 0),
    (dict(num_registers=4, layer_scale_init=0.5), (8, 12), (2, 3), 5),
    (HYBRID, (16, 24), (4, 6), 1),
  ],
)
def test_attention_maps_and_rollout_have_rows_of_sum_1(
  fields, size, grid, prefix
):
  spec = tiny_models.spec(3, **fields)
  seen = attend(spec, size)
  tokens = prefix + grid[0] * grid[1]
  assert seen.weights.shape == (spec['num_layers'], 2, tokens, tokens)
  assert (seen.grid, seen.num_prefix) == (grid, prefix)
  assert seen.patch == (4, 4)
  np.testing.assert_allclose(seen.weights.sum(-1), 1, atol=1e-6)
  mixed = attention.rollout(seen.weights)
  np.testing.assert_allclose(mixed.sum(-1), 1, atol=1e-6)
  assert seen.weights.std() > 0.01 and (mixed >= 0).all()


def test_seen_from_takes_no_register_for_a_class_token():
  fields = dict(classifier='gap', num_registers=2)
  seen = attend(tiny_models.spec(3, **fields), (8, 12))
  assert seen.num_prefix == 2
  with pytest.raises(ValueError, match="no class token; choose 'mean'"):
    seen.seen_from(seen.weights, 'class')
  np.testing.assert_array_equal(
    seen.seen_from(seen.weights, (1, 2)).reshape(2, 2, 6),
    seen.weights[..., 7, 2:],
  )


def test_rollout_matches_a_calculation_by_hand():
  # The mean over heads of the first layer is [.7 .3; .4 .6]. With the identity
  # the layers are [.85 .15; .2 .8] and [1 0; .5 .5]. The second multiplies the
  # first from the left.
  np.testing.assert_allclose(
    attention.rollout(LAYERS), [[0.85, 0.15], [0.525, 0.475]], atol=1e-7
  )
  np.testing.assert_allclose(
    attention.rollout(LAYERS, residual=False), [[0.7, 0.3]] * 2, atol=1e-7
  )
  # The maximum of both heads, divided by the sum: [2/3 1/3; .4 .6].
  np.testing.assert_allclose(
    attention.rollout(LAYERS[:1], combined='max'),
    [[5 / 6, 1 / 6], [0.2, 0.8]],
    atol=1e-7,
  )
  # The minimum, divided by the sum: [.75 .25; .4 .6].
  np.testing.assert_allclose(
    attention.rollout(LAYERS[:1], combined='min'),
    [[0.875, 0.125], [0.2, 0.8]],
    atol=1e-7,
  )
  # The minimum of the first row is 0: only the residual connection remains.
  apart = np.array([[[[1, 0], [1, 0]], [[0, 1], [1, 0]]]], np.float32)
  np.testing.assert_allclose(
    attention.rollout(apart, combined='min'), [[1, 0], [0.5, 0.5]]
  )
  with pytest.raises(ValueError, match="'median'; choose from mean, max, min"):
    attention.rollout(LAYERS, combined='median')


def test_mean_distance_matches_a_calculation_by_hand():
  # A class token and two patches of 4x6 pixels in one row.
  weights = np.array(
    [[0.2, 0.4, 0.4], [0.5, 0.25, 0.25], [0, 0.25, 0.75]], np.float32
  )
  aside = np.array([[0, 0.5, 0.5], [1, 0, 0], [0.5, 0.5, 0]], np.float32)
  seen = attention.AttentionMaps(
    np.stack([weights, aside])[None], (1, 2), (4, 6)
  )
  # Attention to the class token does not count. First head: 0.5 and 0.25 of
  # 6 pixels. Second head: the first patch attends to no patch, and the second
  # only to the first.
  np.testing.assert_allclose(
    attention.mean_distance(seen), [[(3 + 1.5) / 2, (0 + 6) / 2]]
  )


def test_patch_distances_are_distances_of_centres():
  distances = attention.patch_distances((2, 2), (4, 3))
  np.testing.assert_allclose(
    distances, [[0, 3, 4, 5], [3, 0, 5, 4], [4, 5, 0, 3], [5, 4, 3, 0]]
  )


def test_attention_maps_ignore_pixels_outside_of_patches():
  """The last of 9 rows is in no patch of 4x4 pixels."""
  assert attend(tiny_models.spec(3), (9, 11)).patch == (4, 4)


def test_distances_of_a_hybrid_have_its_stride():
  """Pixels divided by the number of patches, which is no stride."""
  fields = HYBRID | dict(stem_num_layers=[1, 1])  # 4 cells of 8 pixels
  seen = attend(tiny_models.spec(3, **fields), (25, 26))
  assert (seen.grid, seen.patch) == ((4, 4), (8, 8))
  # Equal attention to all patches, of which the class token is none.
  even = np.full_like(seen.weights, 1 / 17)
  y, x = 8 * np.mgrid[:4, :4].reshape(2, -1)
  distances = np.hypot(y[:, None] - y, x[:, None] - x)
  np.testing.assert_allclose(
    attention.mean_distance(attention.AttentionMaps(even, (4, 4), seen.patch)),
    np.full((1, 2), distances.mean()),
    rtol=1e-6,
  )


def test_seen_from_returns_the_row_of_a_token():
  matrix = np.arange(49.0).reshape(7, 7)
  seen = attention.AttentionMaps(np.zeros((1, 1, 7, 7)), (2, 3), (1, 1))
  np.testing.assert_array_equal(
    seen.seen_from(matrix, 'class'), [[1, 2, 3], [4, 5, 6]]
  )
  np.testing.assert_array_equal(
    seen.seen_from(matrix, (1, 0)), 28 + np.array([[1, 2, 3], [4, 5, 6]])
  )
  mean = (7 + 42) / 2 + np.array([[1, 2, 3], [4, 5, 6]])
  stacked = seen.seen_from(np.stack([matrix, 2 * matrix]), 'mean')
  np.testing.assert_array_equal(stacked, [mean, 2 * mean])
  with pytest.raises(ValueError, match='no patch 2,0: rows are 0 to 1 and col'):
    seen.seen_from(matrix, (2, 0))
  without = attention.AttentionMaps(np.zeros((1, 1, 6, 6)), (2, 3), (1, 1))
  with pytest.raises(ValueError, match="no class token; choose 'mean'"):
    without.seen_from(matrix[1:, 1:], 'class')


def test_grid_of_returns_the_grid_of_patches():
  for fields, size, grid in (({}, (8, 12), (2, 3)), (HYBRID, (16, 24), (4, 6))):
    spec = tiny_models.spec(3, **fields)
    params = tiny_models.params_of(spec, size)
    assert attention.grid_of(models.create(spec), params, size) == grid


def test_attention_maps_reject_models_without_attention():
  for base, name in ((tiny_models.BIT, 'BiT'), (tiny_models.MIXER, 'Mixer')):
    model = models.create(tiny_models.spec(3, base))
    with pytest.raises(ValueError, match=f'^{name} has no att.*`filters`'):
      attention.attention_maps(model, {}, np.zeros((8, 8, 3), np.float32))


def test_attention_maps_reject_weights_with_nan():
  spec = tiny_models.spec(3)
  params = tiny_models.params_of(spec)
  params['embedding']['bias'] = jnp.full(16, jnp.nan)
  with pytest.raises(ValueError, match='is not finite: its weights hold NaN'):
    attention.attention_maps(
      models.create(spec), params, np.zeros((8, 8, 3), np.float32)
    )
