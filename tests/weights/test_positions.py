"""Position embeddings: token slots, resizing, moving between models."""

import jax
import numpy as np
import pytest
import reference
import scipy.ndimage

from vit_jax_repro import models, weights
from vit_jax_repro.weights import layouts, positions, trees
from vit_jax_repro.weights.adapt import parameter_shapes

POSEMB = reference.arrays('posembed.npz')
PAIRS = sorted({key.rsplit('_', 1)[0] for key in POSEMB})


@pytest.mark.quick
@pytest.mark.parametrize('pair', PAIRS)
def test_resize_equals_the_original(pair):
  posemb, wanted = POSEMB[f'{pair}_in'], POSEMB[f'{pair}_out']
  side = int(pair.split('_')[0].split('to')[1])
  resized = weights.resize_position_embedding(
    posemb, (side, side), has_class_token=not pair.endswith('nocls')
  )
  assert resized.dtype == posemb.dtype
  np.testing.assert_allclose(resized, wanted, rtol=0, atol=1e-6)


@pytest.mark.quick
@pytest.mark.parametrize('method', ['linear', 'cubic'])
def test_reference_detects_another_resize_rule(method):
  """Resizes with half-pixel centres, as ports do: far more than 1e-6 away."""
  grid = POSEMB['14to24_nocls_in'].reshape(14, 14, -1)
  other = jax.image.resize(grid, (24, 24, grid.shape[-1]), method)
  wanted = POSEMB['14to24_nocls_out'].reshape(24, 24, -1)
  assert np.abs(other - wanted).max() > 0.1


@pytest.mark.quick
def test_resize_to_the_same_grid_returns_the_same_array():
  posemb = POSEMB['14to14_cls_in']
  assert weights.resize_position_embedding(posemb, (14, 14)) is posemb


@pytest.mark.quick
def test_resize_of_rectangles_interpolates_linearly():
  rng = np.random.default_rng(0)
  posemb = rng.normal(size=(1, 1 + 6, 3)).astype('f4')
  wide = weights.resize_position_embedding(posemb, (4, 9), source_grid=(2, 3))
  assert wide.shape == (1, 37, 3)
  np.testing.assert_array_equal(wide[:, 0], posemb[:, 0])
  grid, source = wide[0, 1:].reshape(4, 9, 3), posemb[0, 1:].reshape(2, 3, 3)
  for i, j in np.ndindex(2, 2):  # corners are aligned
    np.testing.assert_allclose(grid[-i, -j], source[-i, -j], atol=1e-6)
  np.testing.assert_allclose(
    grid, scipy.ndimage.zoom(source, (2, 3, 1), order=1), atol=1e-6
  )
  with pytest.raises(
    ValueError, match=r'6 position embeddings .* do not form a grid'
  ):
    weights.resize_position_embedding(posemb, (4, 9))


def logits(params, model, images):
  return np.asarray(model.apply({'params': params}, images))


def test_adapt_keeps_the_logits_if_a_slot_is_created_or_folded_in():
  """Converts between class tokens added before and after the positions."""
  images = reference.images('bv_tok_learn')
  after = reference.canonical('bv_tok_learn')
  spec = weights.describe(after)
  assert spec['class_token_after_positions']
  after_model = models.create(spec)
  before_model = after_model.clone(class_token_after_positions=False)
  before = weights.adapt(after, before_model, head='keep', image_size=(32, 32))
  wanted = logits(after, after_model, images)
  np.testing.assert_allclose(
    logits(before, before_model, images), wanted, rtol=0, atol=1e-6
  )
  before['Transformer']['posembed_input']['pos_embedding'][:, 0] = 1
  back = weights.adapt(before, after_model, head='keep', image_size=(32, 32))
  np.testing.assert_allclose(
    logits(back, after_model, images),
    logits(before, before_model, images),
    rtol=0,
    atol=1e-5,
  )
  for model in (before_model, after_model):  # also with another image size
    adapted = weights.adapt(after, model, image_size=(48, 64))
    assert model.apply({'params': adapted}, np.zeros((1, 48, 64, 3))).shape


def without_slot():
  """Returns a class token and N positions where N + 1 are usual."""
  flat = trees.flatten(reference.canonical('vit_token'))
  flat[layouts.POSITIONS] = flat[layouts.POSITIONS][:, 1:]
  return trees.nest(flat)


@pytest.mark.quick
@pytest.mark.parametrize('image_size', [None, (32, 32), (48, 48), (16, 64)])
def test_adapt_creates_a_missing_slot(image_size):
  params = without_slot()
  assert weights.describe(params)['image_size'] == (32, 32)
  model = models.create(reference.config('vit_token'))
  adapted = weights.adapt(params, model, image_size=image_size, head='keep')
  got = trees.flatten(adapted)[layouts.POSITIONS]
  height, width = image_size or (32, 32)
  grid = (height // 8, width // 8)
  own = trees.flatten(params)[layouts.POSITIONS]
  cells = weights.resize_position_embedding(own, grid, has_class_token=False)
  np.testing.assert_array_equal(got[:, 1:], cells)
  assert got.shape == (1, 1 + grid[0] * grid[1], 48) and not np.any(got[:, 0])


@pytest.mark.quick
@pytest.mark.parametrize('image_size', [(32, 32), (48, 64)])
def test_adapt_creates_no_slot_for_a_token_after_positions(image_size):
  params = without_slot()
  model = models.create(
    reference.config('vit_token'), class_token_after_positions=True
  )
  adapted = weights.adapt(params, model, image_size=image_size, head='keep')
  np.testing.assert_array_equal(adapted['cls'], params['cls'])
  own = trees.flatten(params)[layouts.POSITIONS]
  grid = (image_size[0] // 8, image_size[1] // 8)
  np.testing.assert_array_equal(
    adapted['pos_embedding'],
    weights.resize_position_embedding(own, grid, has_class_token=False),
  )


@pytest.mark.quick
@pytest.mark.parametrize(
  'embeddings, tokens, slots',
  [
    (197, 1, 1),
    (196, 1, 0),
    (577, 1, 1),
    (576, 1, 0),
    (198, 2, 2),
    (196, 2, 0),
    (196, 0, 0),
    (197, 0, None),
    (2, 1, 1),
    (1, 1, 0),
    (25, 1, 0),
    (33, 1, None),
  ],
)
def test_slots_counts_token_positions_of_square_images(
  embeddings, tokens, slots
):
  assert positions.slots(embeddings, tokens) == slots


@pytest.mark.quick
def test_adapt_with_source_image_size_decides_between_grids():
  """Resizes 25 embeddings: 4x6 patches and a class token, or 5x5 patches."""
  params = reference.canonical('vit_token_rect')
  flat = trees.flatten(params)
  own = flat[layouts.POSITIONS]
  model = models.create(reference.config('vit_token_rect'))
  for source, has_slot in [((32, 48), True), ((40, 40), False), (None, False)]:
    adapted = weights.adapt(
      params, model, image_size=(64, 64), source_image_size=source
    )
    got = trees.flatten(adapted)[layouts.POSITIONS]
    grid = (4, 6) if has_slot else (5, 5)
    wanted = weights.resize_position_embedding(
      own, (8, 8), has_class_token=has_slot, source_grid=grid
    )
    np.testing.assert_array_equal(got[:, -64:], wanted[:, -64:])
    assert np.any(got[:, 0]) == has_slot
  with pytest.raises(ValueError, match=r'do not form a grid of \(4, 5\)'):
    weights.adapt(
      params, model, image_size=(64, 64), source_image_size=(32, 40)
    )


@pytest.mark.quick
def test_adapt_keeps_both_slots_of_distilled_models():
  spec = dict(
    weights.describe(reference.canonical('vit_token')), distilled=True
  )
  model = models.create(spec)
  shapes = parameter_shapes(model, (32, 32))
  rng = np.random.default_rng(0)
  params = trees.nest(
    {k: rng.normal(size=v.shape).astype('f4') for k, v in shapes.items()}
  )
  own = trees.flatten(params)[layouts.POSITIONS]
  adapted = weights.adapt(params, model, image_size=(48, 48), head='keep')
  got = trees.flatten(adapted)[layouts.POSITIONS]
  assert got.shape == (1, 2 + 36, 48)
  np.testing.assert_array_equal(got[:, :2], own[:, :2])


@pytest.mark.quick
def test_adapt_resizes_positions_of_a_rectangle():
  params = reference.canonical('vit_token_rect')  # 4 x 6 patches
  model = models.create(reference.config('vit_token_rect'))
  same = weights.adapt(params, model, image_size=(32, 48), head='keep')
  jax.tree.map(np.testing.assert_array_equal, same, params)
  resized = weights.adapt(
    params, model, image_size=(64, 64), source_image_size=(32, 48)
  )
  embeddings = resized['Transformer']['posembed_input']['pos_embedding']
  assert embeddings.shape == (1, 65, 32)
  flat = trees.flatten(params)
  flat[layouts.POSITIONS] = np.zeros(
    (1, 1 + 4 * 8, 32), 'f4'
  )  # neither 33 nor 32 is a square
  wide = trees.nest(flat)
  weights.adapt(wide, model, image_size=(32, 64))
  with pytest.raises(
    ValueError, match='give the image size that they were made for'
  ):
    weights.adapt(wide, model, image_size=(64, 64))
