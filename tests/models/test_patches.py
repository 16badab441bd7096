"""Patches in pixels, compared with what the models see."""

import jax
import numpy as np
import pytest
import tiny_models

from vit_jax_repro import models
from vit_jax_repro.models import patches

pytestmark = pytest.mark.quick

HYBRID = dict(stem_width_factor=0.5, num_layers=1)
MODELS = {  # (specification, stride of a patch)
  'vit': (tiny_models.spec(3), 4),
  'rectangles': (tiny_models.spec(3, patch_size=[4, 6]), (4, 6)),
  'mixer': (tiny_models.spec(3, tiny_models.MIXER), 4),
  'bit': (tiny_models.spec(3, tiny_models.BIT), None),
  'hybrid': (
    tiny_models.spec(
      3, patch_size=[1, 1], stem_num_layers=[1, 1], **HYBRID
    ),
    8,
  ),
  'root only': (
    tiny_models.spec(3, patch_size=[2, 2], stem_num_layers=[], **HYBRID),
    8,
  ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('kind', MODELS)
def test_uncovered_pixels_have_no_influence_except_on_a_stem(kind):
  """Pixels dropped in silence, where the size is no multiple of the patch."""
  size, (spec, _) = (26, 27), MODELS[kind]
  model, params = models.create(spec), tiny_models.params_of(spec, size)
  image = np.random.default_rng(0).normal(size=(1, *size, 3))

  def output(image):
    return (model.apply({'params': params}, image, train=False) ** 2).sum()

  slopes = jax.jit(jax.grad(output))(image.astype(np.float32))
  has_effect = np.abs(slopes[0]).sum(axis=-1) > 0  # [H, W]
  rows, columns = patches.uncovered_pixels(model, size)
  wanted = {'vit': (2, 3), 'mixer': (2, 3), 'rectangles': (2, 3)}
  wanted['root only'] = (2, 3)  # 3 patches of 8 pixels
  assert (rows, columns) == wanted.get(kind, (0, 0))
  if hasattr(model, 'stem_num_layers') and model.stem_num_layers is not None:
    rows, columns = 0, 0  # all pixels are in means and deviations of its norms
  seen = has_effect[: size[0] - rows, : size[1] - columns]
  assert seen.any(axis=1).all() and seen.any(axis=0).all()
  assert has_effect.sum() == seen.sum()


@pytest.mark.parametrize('kind', [kind for kind in MODELS if kind != 'bit'])
def test_patch_stride_moves_the_patches_by_one(kind):
  """Pixels divided by the number of patches, which is no stride."""
  spec, wanted = MODELS[kind]
  model = models.create(spec)
  stride = patches.patch_stride(model)
  assert stride == tuple(np.broadcast_to(wanted, 2))
  grid = np.array(patches.patch_grid(model, (48, 48)))
  larger = tuple(48 + np.array(stride))
  np.testing.assert_array_equal(patches.patch_grid(model, larger), grid + 1)


def test_patch_grid_is_that_of_the_model():
  for kind in MODELS.keys() - {'bit'}:
    spec, _ = MODELS[kind]
    for size in ((26, 27), (24, 31), (32, 32)):
      _, named = jax.eval_shape(
        lambda image, spec=spec: models.create(spec).init_with_output(
          jax.random.key(0), image, mutable=['params', 'intermediates']
        ),
        np.zeros((1, *size, 3), np.float32),
      )
      embedding = named['intermediates'].get('embedding') or named[
        'intermediates'
      ].get('stem')
      grid = patches.patch_grid(models.create(spec), size)
      assert embedding[0].shape[1:3] == grid
  assert patches.patch_grid(models.create(MODELS['bit'][0]), (8, 8)) is None


@pytest.mark.parametrize(
  'size, line',
  [
    ((224, 224), None),
    (
      (250, 250),
      '10 of 250 pixels at the lower and the right edge are not seen: 250 is '
      'no multiple of the patch of 16',
    ),
    (
      (224, 239),
      '15 of 239 pixels at the right edge are not seen: 239 is no multiple of '
      'the patch of 16',
    ),
    (
      (225, 226),
      '1 of 225 pixels at the lower edge are not seen: 225 is no multiple of '
      'the patch of 16; 2 of 226 pixels at the right edge are not seen: 226 is '
      'no multiple of the patch of 16',
    ),
  ],
)
def test_note_on_uncovered_counts_the_pixels(size, line):
  assert patches.note_on_uncovered(models.create('ViT-B_16'), size) == line
  assert patches.note_on_uncovered(models.create('R50+ViT-B_16'), size) is None


def test_note_on_uncovered_counts_pixels_that_only_a_stem_sees():
  """63 cells of the stem make 7 patches of 8 cells; the last 7 are dropped."""
  line = patches.note_on_uncovered(models.create('R_Ti_16'), (250, 250))
  assert line == (
    '26 of 250 pixels at the lower and the right edge are in no patch and '
    'hardly seen: 250 is no multiple of the patch of 32'
  )
