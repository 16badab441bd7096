"""Fitting restored parameters to a model."""

import jax
import numpy as np
import pytest
import reference
import scipy.ndimage

from vit_jax_repro import models, weights
from vit_jax_repro.weights import names, npz, stacking

POSEMB = reference.arrays('posembed.npz')
PAIRS = sorted({key.rsplit('_', 1)[0] for key in POSEMB})


@pytest.mark.quick
@pytest.mark.parametrize('pair', PAIRS)
def test_positions_are_resized_as_the_original(pair):
  posemb, wanted = POSEMB[f'{pair}_in'], POSEMB[f'{pair}_out']
  side = int(pair.split('_')[0].split('to')[1])
  resized = weights.resize_position_embedding(
    posemb, (side, side), has_class_token=not pair.endswith('nocls')
  )
  assert resized.dtype == posemb.dtype
  np.testing.assert_allclose(resized, wanted, rtol=0, atol=1e-6)


@pytest.mark.quick
@pytest.mark.parametrize('method', ['linear', 'cubic'])
def test_another_resize_rule_is_seen(method):
  """Half-pixel centres, as ports use, differ by far more than 1e-6."""
  grid = POSEMB['14to24_nocls_in'].reshape(14, 14, -1)
  other = jax.image.resize(grid, (24, 24, grid.shape[-1]), method)
  wanted = POSEMB['14to24_nocls_out'].reshape(24, 24, -1)
  assert np.abs(other - wanted).max() > 0.1


@pytest.mark.quick
def test_the_same_grid_is_left_alone():
  posemb = POSEMB['14to14_cls_in']
  assert weights.resize_position_embedding(posemb, (14, 14)) is posemb


@pytest.mark.quick
def test_rectangles():
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
  with pytest.raises(ValueError, match=r'6 position embeddings .* no grid'):
    weights.resize_position_embedding(posemb, (4, 9))


def loader_case(case, tmp_path):
  fields = reference.loader_cases()[case]
  arrays = {
    name: reference.parameter(fields['seed'], reference.to_linen(name), shape)
    for name, shape in fields['file'].items()
  }
  npz.write(tmp_path / 'a.npz', arrays.items())
  return fields, arrays, weights.load(tmp_path / 'a.npz')


@pytest.mark.parametrize('case', reference.loader_cases())
def test_the_original_fine_tuning_loader(case, tmp_path):
  fields, arrays, params = loader_case(case, tmp_path)
  spec = dict(fields['finetune'])
  image_size = spec.pop('image_size')
  model = models.create(spec, head_bias_init=-2.0)
  before = jax.tree.map(np.copy, params)
  adapted = stacking.flatten(
    weights.adapt(params, model, image_size=image_size)
  )
  jax.tree.map(np.testing.assert_array_equal, params, before)  # untouched
  wanted = fields['result']
  assert {k: list(v.shape) for k, v in adapted.items()} == wanted
  file = {reference.to_linen(k): v for k, v in arrays.items()}
  positions = reference.arrays('load_pretrained.npz')[case]
  for name, array in adapted.items():
    if name == names.POSITIONS:
      np.testing.assert_allclose(array, positions, rtol=0, atol=1e-6)
    elif name.startswith('head/'):
      assert np.all(array == (-2.0 if name.endswith('bias') else 0))
    else:
      np.testing.assert_array_equal(array, file[name].reshape(array.shape))


def token_params(case='vit_token'):
  flat = {
    reference.to_linen(k.removeprefix('params/')): v
    for k, v in reference.checkpoint(case).items()
  }
  return stacking.nest(flat)


@pytest.mark.quick
@pytest.mark.parametrize('head', ['reset', 'keep'])
def test_head_is_kept_or_reset(head):
  params = token_params()
  model = models.create(weights.describe(params))
  adapted = weights.adapt(params, model, head=head)
  same = np.array_equal(adapted['head']['kernel'], params['head']['kernel'])
  assert same == (head == 'keep')
  assert np.any(adapted['head']['kernel']) == (head == 'keep')
  with pytest.raises(ValueError, match="unknown head='zero'; choose from"):
    weights.adapt(params, model, head='zero')


@pytest.mark.quick
def test_every_difference_is_named_in_one_line():
  params = token_params()
  model = models.create(weights.describe(params), mlp_dim=90, num_classes=7)
  params['extra'] = {'kernel': np.zeros(3)}
  del params['cls'], params['Transformer']['encoder_norm']['bias']
  with pytest.raises(ValueError) as error:
    weights.adapt(params, model, image_size=(32, 32), head='keep')
  message = str(error.value)
  assert '\n' not in message
  for part in (
    "missing=['Transformer/encoder_norm/bias', 'cls']",
    "extra=['extra/kernel']",
    'head/kernel: file (48, 10), model (48, 7)',
    'MlpBlock_0/Dense_1/kernel: file (96, 48), model (90, 48)',
  ):
    assert part in message


@pytest.mark.quick
def test_pre_logits_wanted_but_not_in_the_file():
  params = token_params()
  model = models.create(weights.describe(params), representation_size=8)
  with pytest.raises(ValueError, match=r"missing=\['pre_logits/bias'"):
    weights.adapt(params, model)


@pytest.mark.quick
def test_a_kept_head_needs_the_pre_logits_it_was_trained_on():
  params = token_params('vit_token_prelogits')
  model = models.create(weights.describe(params), representation_size=None)
  with pytest.raises(ValueError, match=r"extra=\['pre_logits/bias'"):
    weights.adapt(params, model, head='keep')
  assert 'pre_logits' not in weights.adapt(params, model, head='reset')


@pytest.mark.quick
def test_a_mixer_is_tied_to_its_image_size():
  params = token_params('mixer')
  model = models.create(weights.describe(params))
  weights.adapt(params, model, image_size=(32, 32))
  with pytest.raises(
    ValueError, match=r'token_mixing/Dense_0/kernel: file \(16'
  ):
    weights.adapt(params, model, image_size=(64, 64))


def logits(params, model, images):
  return np.asarray(model.apply({'params': params}, images))


@pytest.mark.quick
def test_class_token_before_or_after_positions():
  """A slot for the class token is made or folded in: the same function."""
  images = reference.images('bv_tok_learn')
  after = token_params('bv_tok_learn')
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
  for model in (before_model, after_model):  # and resized on the way
    adapted = weights.adapt(after, model, image_size=(48, 64))
    assert model.apply({'params': adapted}, np.zeros((1, 48, 64, 3))).shape


@pytest.mark.quick
def test_a_class_token_without_a_slot_gets_one():
  """196 embeddings beside a class token, in the place where 197 are usual."""
  params = token_params()
  posembed = params['Transformer']['posembed_input']
  posembed['pos_embedding'] = posembed['pos_embedding'][:, 1:]
  model = models.create(reference.config('vit_token'))
  adapted = weights.adapt(params, model, image_size=(32, 32), head='keep')
  positions = adapted['Transformer']['posembed_input']['pos_embedding']
  assert positions.shape == (1, 17, 48)
  assert not np.any(positions[:, 0])


@pytest.mark.quick
@pytest.mark.parametrize('classifier', ['gap', 'unpooled'])
def test_a_new_head_may_pool_without_the_class_token(classifier):
  params = token_params()
  model = models.create(reference.config('vit_token'), classifier=classifier)
  adapted = weights.adapt(params, model, image_size=(64, 32))
  assert 'cls' not in adapted
  positions = adapted['Transformer']['posembed_input']['pos_embedding']
  assert positions.shape == (1, 32, 48)
  with pytest.raises(ValueError, match=r"extra=\['cls'\]"):
    weights.adapt(params, model, image_size=(32, 32), head='keep')


@pytest.mark.quick
def test_a_token_head_is_not_invented_for_a_pooled_file():
  params = token_params('vit_gap')
  model = models.create(reference.config('vit_gap'), classifier='token')
  with pytest.raises(ValueError, match=r"missing=\['cls'\]"):
    weights.adapt(params, model, image_size=(32, 32))


@pytest.mark.quick
def test_positions_of_a_rectangle():
  params = token_params('vit_token_rect')  # 4 x 6 patches
  model = models.create(reference.config('vit_token_rect'))
  same = weights.adapt(params, model, image_size=(32, 48), head='keep')
  jax.tree.map(np.testing.assert_array_equal, same, params)
  resized = weights.adapt(
    params, model, image_size=(64, 64), source_image_size=(32, 48)
  )
  positions = resized['Transformer']['posembed_input']['pos_embedding']
  assert positions.shape == (1, 65, 32)
  with pytest.raises(
    ValueError, match='give the image size they were made for'
  ):
    weights.adapt(params, model, image_size=(64, 64))


@pytest.mark.quick
@pytest.mark.parametrize('image_size', [(64, 64), (65, 100), (96, 33)])
def test_the_patch_grid_of_a_hybrid(image_size):
  """'SAME' strides round up; the grid is that of a fresh model."""
  params = token_params('hybrid_stem_only')
  params = jax.tree.map(np.squeeze, params) | {
    k: v for k, v in params.items() if not k.startswith('gn')
  }
  params['gn_root'] = {k: v.ravel() for k, v in params['gn_root'].items()}
  model = models.create(weights.describe(params))
  adapted = weights.adapt(params, model, image_size=image_size)
  fresh = jax.eval_shape(
    model.init, jax.random.key(0), np.zeros((1, *image_size, 3))
  )
  position = ('Transformer', 'posembed_input', 'pos_embedding')
  got, want = adapted, fresh['params']
  for part in position:
    got, want = got[part], want[part]
  assert got.shape == want.shape
