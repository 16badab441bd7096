"""Files of models with parts that only models of PyTorch have."""

import jax
import numpy as np
import pytest
import tiny_models

from vit_jax_repro import models, weights
from vit_jax_repro.weights import description, model_card, trees

SCALED = dict(layer_scale_init=description.LAYER_SCALE_INIT, gelu='erf')
MODELS = {
  'DINOv2': dict(SCALED, num_registers=3, classifier='token_and_gap'),
  'DeiT III': dict(SCALED, class_token_after_positions=True),
  'timm, mean': dict(classifier='gap', class_token=True, fc_norm=True),
  'timm, no class token': dict(classifier='gap', fc_norm=True),
  'DeiT, one head': dict(
    distilled=True, distillation_head=False, gelu='erf', num_registers=1
  ),
}


def tiny(name, image_size=(8, 8), **fields):
  spec = tiny_models.spec(3, **MODELS[name], **fields)
  return models.create(spec), tiny_models.params_of(spec, image_size)


def assert_equal(tree, other):
  assert trees.flatten(tree).keys() == trees.flatten(other).keys()
  jax.tree.map(np.testing.assert_array_equal, tree, other)


@pytest.mark.quick
@pytest.mark.parametrize('name', MODELS)
def test_describe_finds_the_fields_of_each_model(name):
  model, params = tiny(name)
  found = weights.describe(params)
  assert models.create(found) == model
  assert found['image_size'] == (8, 8)


@pytest.mark.quick
def test_describe_reads_a_backbone_without_head():
  params = dict(tiny('DINOv2')[1])
  del params['head']
  assert weights.describe(params)['classifier'] == 'token'
  distilled = dict(tiny('DeiT, one head')[1])
  del distilled['head']
  assert 'distillation_head' not in weights.describe(distilled)


@pytest.mark.quick
@pytest.mark.parametrize('layout', ['official', 'linen'])
@pytest.mark.parametrize('name', MODELS)
def test_save_and_load_keep_every_array(name, layout, tmp_path):
  _, params = tiny(name)
  weights.save(tmp_path / 'm.npz', params, layout=layout)
  assert_equal(weights.load(tmp_path / 'm.npz'), params)


@pytest.mark.quick
@pytest.mark.parametrize(
  ('name', 'message'),
  [
    (
      'DINOv2',
      r'encoderblock_\*/LayerScale_0/scale, .*LayerScale_1/scale, registers;',
    ),
    ('timm, mean', 'fc_norm/bias, fc_norm/scale; use layout=.official'),
    ('DeiT, one head', 'no place for dist, registers;'),
  ],
)
def test_save_as_big_vision_names_parts_it_has_no_place_for(
  name, message, tmp_path
):
  with pytest.raises(ValueError, match=message):
    weights.save(tmp_path / 'm.npz', tiny(name)[1], layout='big_vision')
  assert not list(tmp_path.iterdir())


@pytest.mark.quick
@pytest.mark.parametrize('name', ['DINOv2', 'DeiT III', 'DeiT, one head'])
def test_files_of_torch_models_are_read_with_imagenet_mean(name):
  spec = weights.describe(tiny(name)[1])
  assert model_card.default_preprocessing(spec) == 'deit'


@pytest.mark.quick
@pytest.mark.parametrize('name', MODELS)
def test_adapt_resizes_only_the_positions(name):
  model, params = tiny(name)
  wider, shapes = tiny(name, (16, 12))
  found = weights.adapt(params, wider, image_size=(16, 12), head='keep')
  jax.tree.map(lambda a, b: a.shape == b.shape or pytest.fail(), found, shapes)
  moved = weights.describe(params)
  assert models.create(moved) == model
  same = {n: a for n, a in trees.flatten(found).items() if 'pos_emb' not in n}
  for key, array in same.items():
    np.testing.assert_array_equal(array, trees.flatten(params)[key])


@pytest.mark.quick
def test_adapt_moves_the_last_norm_for_a_new_head_only():
  spec = tiny_models.spec(3)
  params = tiny_models.params_of(spec)
  pooled = models.create(spec, classifier='gap', fc_norm=True)
  found = weights.adapt(params, pooled, image_size=(8, 8))
  np.testing.assert_array_equal(
    found['fc_norm']['scale'], params['Transformer']['encoder_norm']['scale']
  )
  back = weights.adapt(found, models.create(spec, classifier='gap'))
  assert_equal(back['Transformer'], found_norm(found))
  with pytest.raises(ValueError, match=r'missing=.*fc_norm/bias'):
    weights.adapt(params, pooled, image_size=(8, 8), head='keep')


def found_norm(params):
  return {**params['Transformer'], 'encoder_norm': params['fc_norm']}


@pytest.mark.quick
@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (dict(num_registers=0), r"extra=\['registers'\]"),
    (
      dict(num_registers=4),
      r'registers: file \(1, 3, 16\), model \(1, 4, 16\)',
    ),
    (dict(layer_scale_init=None), 'extra=.*LayerScale_0/scale'),
  ],
)
def test_adapt_refuses_to_leave_parts_out(fields, message):
  model, params = tiny('DINOv2')
  with pytest.raises(ValueError, match=message):
    weights.adapt(params, model.clone(**fields))
