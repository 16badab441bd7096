"""LayerScale, registers, and what a ViT's head gets, by plain arithmetic."""

import functools

import jax
import numpy as np
import pytest
import tiny_models

from vit_jax_repro import models
from vit_jax_repro.models.layers import INTERMEDIATES
from vit_jax_repro.weights import trees

IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 8, 12, 3)).astype('f4')
PARTS = dict(layer_scale_init=1e-5, num_registers=3, gelu='erf')


def tiny(**fields):
  """Returns a model of one block, and random parameters."""
  spec = tiny_models.spec(3, **{'num_layers': 1, **fields})
  params = tiny_models.params_of(spec, IMAGES.shape[1:3])
  flat = trees.flatten(params)
  draw = np.random.default_rng(1)
  for name in flat:
    if '/LayerScale_' in name:
      flat[name] = draw.uniform(0.1, 2, flat[name].shape).astype('f4')
  return models.create(spec), trees.nest(flat)


@functools.cache
def named(**fields):
  """Returns a model's outputs and its intermediates."""
  model, params = tiny(**fields)
  logits, variables = model.apply(
    {'params': params}, IMAGES, mutable=[INTERMEDIATES]
  )
  found = {n: v[0] for n, v in variables[INTERMEDIATES].items()}
  return logits, found, params


def head(params, x):
  return x @ params['head']['kernel'] + params['head']['bias'][None]


@pytest.mark.quick
def test_layer_scale_equals_factors_in_the_layers_before_it():
  model, params = tiny(**PARTS)
  flat = trees.flatten(params)
  block = 'Transformer/encoderblock_0'
  for number, layer in enumerate(
    ('MultiHeadDotProductAttention_0/out', 'MlpBlock_0/Dense_1')
  ):
    scale = flat.pop(f'{block}/LayerScale_{number}/scale')
    for leaf in ('kernel', 'bias'):
      array = flat[f'{block}/{layer}/{leaf}']
      flat[f'{block}/{layer}/{leaf}'] = array * scale.reshape(
        (1,) * (array.ndim - 1) + (-1,)
      )
  plain = model.clone(layer_scale_init=None)
  np.testing.assert_allclose(
    model.apply({'params': params}, IMAGES),
    plain.apply({'params': trees.nest(flat)}, IMAGES),
    atol=2e-6,
  )


@pytest.mark.quick
def test_registers_have_no_positions_and_stand_before_the_patches():
  _, found, params = named(**PARTS)
  tokens = found['Transformer/posembed_input']
  patches = found['embedding'].reshape(2, 6, 16)
  table = params['Transformer']['posembed_input']['pos_embedding']
  assert table.shape == (1, 7, 16)
  repeated = np.repeat(params['registers'], 2, axis=0)
  np.testing.assert_array_equal(tokens[:, 1:4], repeated)
  np.testing.assert_array_equal(tokens[:, 4:], patches + table[:, 1:])
  np.testing.assert_array_equal(
    tokens[:, :1], np.repeat(params['cls'] + table[:, :1], 2, axis=0)
  )


@pytest.mark.quick
@pytest.mark.parametrize('first', [False, True])
def test_gap_is_the_mean_of_the_patches_alone(first):
  logits, found, params = named(
    **PARTS,
    classifier='gap',
    class_token=True,
    class_token_after_positions=first,
  )
  tokens = found['Transformer/encoder_norm']
  assert tokens.shape == (2, 1 + 3 + 6, 16)
  mean = np.asarray(tokens)[:, 4:].mean(axis=1)
  np.testing.assert_allclose(found['pre_logits'], mean, atol=1e-6)
  np.testing.assert_allclose(logits, head(params, mean), atol=1e-5)


@pytest.mark.quick
def test_token_and_gap_gives_the_head_twice_the_width():
  logits, found, params = named(**PARTS, classifier='token_and_gap')
  tokens = np.asarray(found['Transformer/encoder_norm'])
  both = np.concatenate([tokens[:, 0], tokens[:, 4:].mean(axis=1)], axis=-1)
  assert params['head']['kernel'].shape == (32, 3)
  np.testing.assert_allclose(logits, head(params, both), atol=1e-5)


@pytest.mark.quick
def test_fc_norm_normalises_the_pooled_vector():
  logits, found, params = named(fc_norm=True, classifier='gap')
  assert 'encoder_norm' not in params['Transformer']
  mean = np.asarray(found['Transformer/encoderblock_0']).mean(axis=1)
  centred = mean - mean.mean(axis=1, keepdims=True)
  unit = centred / np.sqrt(mean.var(axis=1, keepdims=True) + 1e-6)
  scale, bias = (params['fc_norm'][name][None] for name in ('scale', 'bias'))
  np.testing.assert_allclose(
    logits, head(params, unit * scale + bias), atol=1e-5
  )


@pytest.mark.quick
def test_map_pools_the_patches_alone():
  fields = dict(classifier='map', num_registers=2, class_token=True)
  model, params = tiny(**fields)
  _, found, _ = named(**fields)
  tokens = found['Transformer/encoder_norm']
  alone = models.map_head.MapHead(
    **{
      name: getattr(model, name)
      for name in (
        'num_heads',
        'mlp_dim',
        'gelu',
        'layer_norm_eps',
        'attention',
        'dtype',
        'param_dtype',
      )
    }
  )
  wanted = alone.apply({'params': params['MAPHead_0']}, tokens[:, 3:])
  np.testing.assert_allclose(found['pre_logits'], wanted, atol=1e-5)


@pytest.mark.quick
def test_one_head_on_two_tokens_is_on_the_class_token():
  logits, found, params = named(
    distilled=True, distillation_head=False, num_registers=1
  )
  assert 'dist' in params and 'head_dist' not in params
  token = np.asarray(found['Transformer/encoder_norm'])[:, 0]
  np.testing.assert_allclose(logits, head(params, token), atol=1e-5)


@pytest.mark.quick
@pytest.mark.parametrize('classifier', ['token_and_gap', 'unpooled'])
def test_scan_and_remat_do_not_change_new_parts(classifier):
  fields = dict(PARTS, num_layers=2, classifier=classifier, class_token=True)
  model, params = tiny(**fields)

  def gradients(model, params):
    def loss(params):
      logits = model.apply({'params': params}, IMAGES)
      return (logits**2).sum()

    return trees.flatten(jax.jit(jax.grad(loss))(params))

  wanted = gradients(model, params)
  stacked = trees.nest(trees.stack(trees.flatten(params)))
  found = trees.unstack(gradients(model.clone(scan=True, remat=True), stacked))
  assert found.keys() == wanted.keys()
  largest = max(np.abs(gradient).max() for gradient in wanted.values())
  for name, gradient in wanted.items():
    np.testing.assert_allclose(
      found[name], gradient, rtol=1e-4, atol=1e-6 * largest, err_msg=name
    )


@pytest.mark.quick
@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'class_token': False}, "classifier='token' needs a class token"),
    ({'num_registers': -1}, 'num_registers=-1 must be an integer'),
    ({'num_registers': True}, 'num_registers=True must'),
    ({'layer_scale_init': float('nan')}, 'layer_scale_init=nan must be a fini'),
    ({'layer_scale_init': '1e-5'}, "layer_scale_init='1e-5' must"),
    ({'distillation_head': False}, 'distillation_head=False is for a model'),
    ({'distilled': True, 'fc_norm': True}, 'which a model with two heads does'),
    ({'classifier': 'unpooled', 'fc_norm': True}, "classifier='unpooled' does"),
    (
      {'num_registers': 1, 'position_embedding': 'relative'},
      'has no rule for registers; set num_registers=0',
    ),
    (
      {'num_registers': 1, 'position_embedding_at': 'shared'},
      'has no rule for registers',
    ),
  ],
)
def test_vit_refuses_fields_that_exclude_each_other(fields, message):
  model = models.create(tiny_models.spec(3, **fields))
  with pytest.raises(ValueError, match=message) as error:
    jax.eval_shape(model.init, jax.random.key(0), IMAGES)
  assert '\n' not in str(error.value)
