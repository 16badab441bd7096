"""Adapting restored parameters to a model."""

import jax
import numpy as np
import pytest
import reference

from vit_jax_repro import models, weights
from vit_jax_repro.weights import layouts, npz, trees


def loader_case(case, tmp_path):
  fields = reference.loader_cases()[case]
  arrays = {
    name: reference.parameter(fields['seed'], reference.to_linen(name), shape)
    for name, shape in fields['file'].items()
  }
  npz.write(tmp_path / 'a.npz', arrays.items())
  return fields, arrays, weights.load(tmp_path / 'a.npz')


@pytest.mark.parametrize('case', reference.loader_cases())
def test_adapt_equals_the_original_fine_tuning_loader(case, tmp_path):
  fields, arrays, params = loader_case(case, tmp_path)
  spec = dict(fields['finetune'])
  image_size = spec.pop('image_size')
  model = models.create(spec, head_bias_init=-2.0)
  before = jax.tree.map(np.copy, params)
  adapted = trees.flatten(weights.adapt(params, model, image_size=image_size))
  jax.tree.map(np.testing.assert_array_equal, params, before)  # not changed
  wanted = fields['result']
  assert {k: list(v.shape) for k, v in adapted.items()} == wanted
  file = {reference.to_linen(k): v for k, v in arrays.items()}
  embeddings = reference.arrays('load_pretrained.npz')[case]
  for name, array in adapted.items():
    if name == layouts.POSITIONS:
      np.testing.assert_allclose(array, embeddings, rtol=0, atol=1e-6)
    elif name.startswith('head/'):
      assert np.all(array == (-2.0 if name.endswith('bias') else 0))
    else:
      np.testing.assert_array_equal(array, file[name].reshape(array.shape))


@pytest.mark.quick
@pytest.mark.parametrize('head', ['reset', 'keep'])
def test_adapt_keeps_or_resets_the_head(head):
  params = reference.canonical('vit_token')
  model = models.create(weights.describe(params))
  adapted = weights.adapt(params, model, head=head)
  same = np.array_equal(adapted['head']['kernel'], params['head']['kernel'])
  assert same == (head == 'keep')
  assert np.any(adapted['head']['kernel']) == (head == 'keep')
  with pytest.raises(ValueError, match="unknown head='zero'; choose from"):
    weights.adapt(params, model, head='zero')


@pytest.mark.quick
def test_adapt_names_all_differences_in_one_line():
  params = reference.canonical('vit_token')
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
def test_adapt_counts_most_of_many_differences():
  """Weights of another model give a line of thousands of characters."""
  params = reference.canonical('vit_token')
  model = models.create(reference.config('vit_token'), num_layers=9)
  with pytest.raises(ValueError, match=r", '90 more'\] extra") as error:
    weights.adapt(params, model, head='keep')
  assert len(str(error.value)) < 1500


@pytest.mark.quick
def test_adapt_names_missing_pre_logits():
  params = reference.canonical('vit_token')
  model = models.create(weights.describe(params), representation_size=8)
  with pytest.raises(ValueError, match=r"missing=\['pre_logits/bias'"):
    weights.adapt(params, model)


@pytest.mark.quick
def test_adapt_keeps_a_head_only_with_its_pre_logits():
  params = reference.canonical('vit_token_prelogits')
  model = models.create(weights.describe(params), representation_size=None)
  with pytest.raises(ValueError, match=r"extra=\['pre_logits/bias'"):
    weights.adapt(params, model, head='keep')
  assert 'pre_logits' not in weights.adapt(params, model, head='reset')


@pytest.mark.quick
def test_adapt_rejects_another_image_size_for_a_mixer():
  params = reference.canonical('mixer')
  model = models.create(weights.describe(params))
  weights.adapt(params, model, image_size=32)
  with pytest.raises(
    ValueError, match='token_mixing: its weights fix the image size at 32x32, n'
  ) as error:
    weights.adapt(params, model, image_size=(64, 64))
  assert str(error.value).count('token_mixing') == 1


@pytest.mark.quick
def test_adapt_names_unsuitable_positions_with_other_differences():
  flat = trees.flatten(reference.canonical('vit_token'))
  flat[layouts.POSITIONS] = np.zeros((1, 8, 48), 'f4')
  flat['extra'] = np.zeros(2, 'f4')
  del flat['embedding/bias']
  params = trees.nest(flat)
  for after in (False, True):
    model = models.create(
      reference.config('vit_token'),
      class_token_after_positions=after,
      num_classes=7,
    )
    with pytest.raises(ValueError) as error:
      weights.adapt(params, model, image_size=(48, 48), head='keep')
    message = str(error.value)
    for part in (
      "missing=['embedding/bias'] extra=['extra']",
      'head/kernel: file (48, 10), model (48, 7)',
      f'{layouts.POSITIONS}: 8 position embeddings (with or without 1 for '
      'tokens)',
      'do not form a square grid; give the image size that they were made for',
    ):
      assert part in message
    assert message.count('pos_embedding') == 1 and '\n' not in message


@pytest.mark.quick
@pytest.mark.parametrize('classifier', ['gap', 'unpooled'])
def test_adapt_drops_the_class_token_for_a_pooling_head(classifier):
  params = reference.canonical('vit_token')
  model = models.create(reference.config('vit_token'), classifier=classifier)
  adapted = weights.adapt(params, model, image_size=(64, 32))
  assert 'cls' not in adapted
  embeddings = adapted['Transformer']['posembed_input']['pos_embedding']
  assert embeddings.shape == (1, 32, 48)
  with pytest.raises(ValueError, match=r"extra=\['cls'\]"):
    weights.adapt(params, model, image_size=(32, 32), head='keep')


@pytest.mark.quick
def test_adapt_does_not_create_a_class_token():
  params = reference.canonical('vit_gap')
  model = models.create(reference.config('vit_gap'), classifier='token')
  with pytest.raises(ValueError, match=r"missing=\['cls'\]"):
    weights.adapt(params, model, image_size=(32, 32))


@pytest.mark.quick
@pytest.mark.parametrize('image_size', [(64, 64), (65, 100), (96, 33)])
def test_adapt_rounds_the_patch_grid_of_a_hybrid_up(image_size):
  """Compares with a fresh model, whose 'SAME' strides round up."""
  params = reference.canonical('hybrid_stem_only')
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
