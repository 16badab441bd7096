"""Creation of models, and options that do not change results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from vit_jax_repro import models, weights

IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype('f4')


def tiny(**fields):
  fields = dict(dropout_rate=0.1, attention_dropout_rate=0.1) | fields
  spec = dict(
    model='vit',
    num_classes=5,
    patch_size=(8, 8),
    hidden_size=16,
    num_layers=3,
    num_heads=2,
    mlp_dim=24,
    head_bias_init=-1.5,
  )
  return models.create(spec, **fields)


def random_params(model, image_size=(32, 32)):
  """Returns parameters that are random, also where fresh ones are zero."""
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), jnp.zeros((1, *image_size, 3))
  )['params']
  return jax.tree.map(
    lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(leaf.dtype), shapes
  )


def train_forward(model, params, images=IMAGES):
  return model.apply(
    {'params': params}, images, train=True, rngs={'dropout': jax.random.key(7)}
  )


@pytest.mark.quick
def test_create_takes_names_and_mappings():
  model = models.create('ViT-B_16', num_classes=10)
  assert model.num_classes == 10 and model.hidden_size == 768
  for alias in ('b16', 'B_16'):
    assert models.create(alias, num_classes=10) == model
  assert models.create(models.variant('ViT-B_16'), num_classes=10) == model
  assert models.create('r50_b16') == models.create('R50+ViT-B_16')
  assert models.create('R_Ti_16') == models.create('R+ViT-Ti_16')


@pytest.mark.quick
def test_create_ignores_bookkeeping_of_reference_configs():
  for case in reference.forward_cases():
    assert models.create(reference.config(case)).num_classes


@pytest.mark.quick
@pytest.mark.parametrize(
  ('args', 'fields', 'message'),
  [
    (('ViT-B16',), {}, "unknown model 'ViT-B16'; did you mean 'ViT-B_16'"),
    (('b16',), {'hidden': 3}, r"unknown fields \['hidden'\] for ViT"),
    (({'model': 'vit', 'num_classes': 3},), {}, r'missing fields .*patch_size'),
    (({'model': 'gpt'},), {}, "unknown kind of model 'gpt'; choose from"),
    ((17,), {}, 'a model is a name or a mapping of fields, not 17'),
  ],
)
def test_create_rejects_wrong_models_in_one_line(args, fields, message):
  with pytest.raises(ValueError, match=message) as error:
    models.create(*args, **fields)
  assert '\n' not in str(error.value)


@pytest.mark.quick
@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'classifier': 'mean'}, "unknown classifier 'mean'; choose from"),
    ({'gelu': 'exact'}, "unknown gelu 'exact'; choose from"),
    ({'position_embedding': 'rope'}, "unknown position embedding 'rope'"),
    ({'num_heads': 3}, 'hidden_size=16 must be a multiple of num_heads=3'),
    ({'patch_size': (64, 64)}, 'holds no patch'),
    ({'distilled': True, 'classifier': 'gap'}, "must be 'token'"),
    ({'pool_padding': 'valid'}, "unknown pool padding 'valid'"),
    ({'weight_standardization': 'x'}, "unknown weight standardization 'x'"),
    ({'dropout_rate': 1.5}, 'dropout_rate=1.5 must be at least 0 and below 1'),
    ({'attention_dropout_rate': -0.1}, 'attention_dropout_rate=-0.1 must'),
    ({'stochastic_depth_rate': 1.0}, 'stochastic_depth_rate=1.0 must'),
    ({'num_layers': 0}, 'num_layers=0 must be an integer of at least 1'),
    ({'num_layers': 0, 'scan': True}, 'num_layers=0 must'),
    ({'hidden_size': '16'}, "hidden_size='16' must"),
    ({'mlp_dim': True}, 'mlp_dim=True must'),
    ({'representation_size': 0}, 'representation_size=0 must'),
    ({'patch_size': 8}, 'patch_size=8 must be integers of at least 1'),
    ({'patch_size': (8, 0)}, r'patch_size=\(8, 0\) must'),
    (
      {
        'stem_num_layers': (1,),
        'stem_width_factor': 0.25,
        'patch_size': (1, 1),
      },
      'stem_width_factor=0.25 gives 16 channels',
    ),
    (
      {'hidden_size': 4, 'position_embedding': 'sincos2d'},
      'hidden_size=4 must be a multiple of 4 above 4',
    ),
  ],
)
def test_vit_rejects_wrong_fields_in_one_line(fields, message):
  with pytest.raises(ValueError, match=message) as error:
    tiny(**fields).init(jax.random.key(0), IMAGES)
  assert '\n' not in str(error.value)


@pytest.mark.quick
@pytest.mark.parametrize('case', ['vit_token', 'mixer', 'bit_tiny_1_1_1_1'])
def test_models_reject_wrong_image_shapes_in_one_line(case):
  model = models.create(reference.config(case))
  for shape, message in [
    ((32, 32, 3), r'images of shape \(32, 32, 3\) must be'),
    ((1, 32, 32, 4), r'must be \[B, H, W, 3\]'),
    ((1, 0, 32, 3), r'must be \[B, H, W, 3\]'),
    ((1, 3, 32, 3), 'holds no patch of'),
  ]:
    if 'patch' in message and case.startswith('bit'):
      continue
    with pytest.raises(ValueError, match=message) as error:
      jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
    assert '\n' not in str(error.value)


@pytest.mark.quick
@pytest.mark.parametrize(
  ('case', 'fields', 'message'),
  [
    ('mixer', {'num_blocks': 0}, 'num_blocks=0 must'),
    ('mixer', {'stochastic_depth_rate': 2}, 'stochastic_depth_rate=2 must'),
    ('mixer', {'gelu': 'exact'}, "unknown gelu 'exact'"),
    ('bit_tiny_1_1_1_1', {'root_channels': 48}, 'root_channels=48 gives 48'),
    ('bit_tiny_1_1_1_1', {'root_channels': 0}, 'root_channels=0 must'),
    ('bit_tiny_1_1_1_1', {'block_units': (1, 0)}, 'block_units='),
    ('bit_tiny_1_1_1_1', {'pool_padding': 'x'}, "unknown pool padding 'x'"),
  ],
)
def test_mixer_and_bit_reject_wrong_fields_in_one_line(case, fields, message):
  model = models.create(reference.config(case), **fields)
  with pytest.raises(ValueError, match=message) as error:
    jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  assert '\n' not in str(error.value)


@pytest.mark.quick
@pytest.mark.parametrize(
  ('classifier', 'shape'),
  [
    ('token', (2, 5)),
    ('gap', (2, 5)),
    ('map', (2, 5)),
    ('unpooled', (2, 24, 5)),
    ('token_unpooled', (2, 25, 5)),
  ],
)
def test_every_classifier_accepts_rectangles(classifier, shape):
  model = tiny(classifier=classifier)
  images = jnp.zeros((2, 32, 48, 3))
  logits = jax.eval_shape(
    lambda x: model.init_with_output(jax.random.key(0), x)[0], images
  )
  assert logits.shape == shape and logits.dtype == jnp.float32


@pytest.mark.parametrize(
  ('options', 'stochastic_depth_rate'),
  [
    ({'scan': True}, 0.5),
    ({'remat': True}, 0.5),
    ({'scan': True, 'remat': True}, 0.5),
    ({'scan': True, 'remat': True}, 0.0),
  ],
)
def test_scan_and_remat_do_not_change_results(options, stochastic_depth_rate):
  """Compares values, gradients and random masks, with all kinds of dropout."""
  plain = tiny(stochastic_depth_rate=stochastic_depth_rate)
  other = tiny(stochastic_depth_rate=stochastic_depth_rate, **options)
  params = random_params(plain)
  other_params = weights.adapt(params, other, image_size=(32, 32), head='keep')
  np.testing.assert_array_equal(
    jax.jit(plain.apply)({'params': params}, IMAGES),
    jax.jit(other.apply)({'params': other_params}, IMAGES),
  )

  def loss(params, model):
    return jnp.square(train_forward(model, params)).sum()

  graded = jax.jit(jax.value_and_grad(loss), static_argnums=1)
  value, grads = graded(params, plain)
  other_value, other_grads = graded(other_params, other)
  np.testing.assert_allclose(value, other_value, rtol=1e-6)
  other_grads = weights.adapt(
    other_grads, plain, image_size=(32, 32), head='keep'
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    grads,
    other_grads,
  )


def layer_norm(x, params):
  x = np.asarray(x, np.float64)
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
  return x * params['scale'] + params['bias']


def test_intermediates_have_the_same_names_in_scanned_encoders():
  plain, scanned = tiny(), tiny(scan=True)
  params = random_params(plain)
  outputs = []
  for model in (plain, scanned):
    fitted = weights.adapt(params, model, image_size=(32, 32), head='keep')
    apply = jax.jit(model.apply, static_argnames='mutable')
    logits, state = apply({'params': fitted}, IMAGES, mutable='intermediates')
    without = apply({'params': fitted}, IMAGES)
    np.testing.assert_allclose(logits, without, rtol=0, atol=1e-6)
    outputs.append(state['intermediates'])
  assert outputs[0].keys() == outputs[1].keys()
  for name, (value,) in outputs[0].items():
    np.testing.assert_allclose(value, outputs[1][name][0], atol=1e-5, rtol=0)
  block = 'Transformer/encoderblock_2'
  (mlp,) = outputs[0][f'{block}/MlpBlock_0']
  (attended,) = outputs[0][f'{block}/MultiHeadDotProductAttention_0']
  before, after = (outputs[0][f'Transformer/encoderblock_{i}'][0] for i in '12')
  np.testing.assert_allclose(before + attended + mlp, after, atol=1e-5)
  for part, residual in (
    ('LayerNorm_0', before),
    ('LayerNorm_1', before + attended),
  ):
    (normed,) = outputs[0][f'{block}/{part}']
    values = layer_norm(residual, params['Transformer']['encoderblock_2'][part])
    np.testing.assert_allclose(normed, values, atol=1e-4)
  (attention,) = outputs[0]['Transformer/encoderblock_2/attention_weights']
  assert attention.shape == (2, 2, 17, 17)
  np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-6)


def test_moving_patches_with_their_positions_does_not_change_logits():
  model = tiny(num_layers=2)
  params = random_params(model)
  order = np.random.default_rng(2).permutation(16)
  grid = IMAGES.reshape(2, 4, 8, 4, 8, 3).transpose(0, 1, 3, 2, 4, 5)
  moved = grid.reshape(2, 16, 8, 8, 3)[:, order].reshape(2, 4, 4, 8, 8, 3)
  moved = moved.transpose(0, 1, 3, 2, 4, 5).reshape(2, 32, 32, 3)
  positions = params['Transformer']['posembed_input']['pos_embedding']
  positions *= 10  # so that they matter
  moved_positions = np.concatenate(
    [positions[:, :1], positions[:, 1:][:, order]], axis=1
  )
  moved_params = dict(params, Transformer=dict(params['Transformer']))
  moved_params['Transformer']['posembed_input'] = {
    'pos_embedding': moved_positions
  }
  logits = model.apply({'params': params}, IMAGES)
  np.testing.assert_allclose(
    model.apply({'params': moved_params}, moved), logits, rtol=0, atol=2e-5
  )
  assert np.abs(model.apply({'params': params}, moved) - logits).max() > 1e-3


def test_init_gives_different_blocks_and_a_zero_head():
  params = tiny().init(jax.random.key(0), IMAGES)['params']
  first, second = (
    params['Transformer'][f'encoderblock_{i}']['MlpBlock_0']['Dense_0'][
      'kernel'
    ]
    for i in (0, 1)
  )
  assert np.abs(first - second).min() > 0
  assert not np.any(params['head']['kernel'])
  np.testing.assert_array_equal(params['head']['bias'], -1.5)


@pytest.mark.parametrize(
  'fields',
  [
    {},
    {'classifier': 'map', 'representation_size': 12},
    {'scan': True, 'remat': True},
    {'stem_num_layers': (1,), 'patch_size': (1, 1)},
  ],
)
def test_bfloat16_keeps_norms_softmax_and_logits_in_float32(fields):
  exact = tiny(**fields)
  params = random_params(exact)
  model = tiny(dtype=jnp.bfloat16, **fields)
  logits, state = jax.jit(model.apply, static_argnames='mutable')(
    {'params': params}, IMAGES, mutable='intermediates'
  )
  named = {k: v[0].dtype for k, v in state['intermediates'].items()}
  assert logits.dtype == jnp.float32
  assert named['Transformer/encoderblock_0'] == jnp.bfloat16
  assert named['Transformer/encoderblock_0/attention_weights'] == jnp.float32
  assert named['Transformer/encoder_norm'] == jnp.float32
  wanted = jax.jit(exact.apply)({'params': params}, IMAGES)
  np.testing.assert_allclose(
    logits, wanted, rtol=0, atol=0.1 * np.abs(wanted).max()
  )


@pytest.mark.quick
@pytest.mark.parametrize(
  'spec', ['bit_tiny_1_1_1_1', 'mixer', 'vit_token', 'hybrid_1_1_1']
)
def test_param_dtype_applies_to_all_parameters(spec):
  model = models.create(
    reference.config(spec), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16
  )
  shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {
    jnp.dtype('bfloat16')
  }
  logits = jax.eval_shape(model.apply, shapes, IMAGES)
  assert logits.dtype == jnp.float32


@pytest.mark.parametrize(
  ('case', 'fields'),
  [
    ('mixer', {}),
    ('bit_tiny_1_1_1_1', {'block_units': (2, 1)}),
    ('hybrid_2_2', {'num_layers': 1}),
  ],
)
def test_remat_of_other_families_does_not_change_results(case, fields):
  images = reference.images(case, 'b' if 'bit' in case else '')
  plain = models.create(reference.config(case), **fields)
  other = plain.clone(remat=True)
  params = random_params(plain, images.shape[1:3])

  def value_and_grads(model):
    def loss(params):
      return jnp.square(model.apply({'params': params}, images)).mean()

    return jax.jit(jax.value_and_grad(loss))(params)

  (value, grads), (other_value, other_grads) = map(
    value_and_grads, (plain, other)
  )
  np.testing.assert_allclose(value, other_value, rtol=1e-6)
  norm = max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * norm),
    grads,
    other_grads,
  )


def test_stochastic_depth_drops_whole_branches_of_later_blocks():
  """Takes a rate of 1 - 1e-7: the last block returns its residual input."""
  model = tiny(
    dropout_rate=0.0,
    attention_dropout_rate=0.0,
    stochastic_depth_rate=1 - 1e-7,
    num_layers=2,
  )
  params = random_params(model)
  _, state = model.apply(
    {'params': params},
    IMAGES,
    train=True,
    rngs={'dropout': jax.random.key(0)},
    mutable=['intermediates'],
  )
  first, last = (
    state['intermediates'][f'Transformer/encoderblock_{i}'][0] for i in (0, 1)
  )
  np.testing.assert_array_equal(first, last)
  embedded = state['intermediates']['Transformer/posembed_input'][0]
  assert np.abs(first - embedded).min(axis=(1, 2)).max() > 0


def test_distilled_model_returns_both_heads_in_training():
  model = tiny(distilled=True, dropout_rate=0.0, attention_dropout_rate=0.0)
  params = random_params(model)
  logits, distilled = model.apply({'params': params}, IMAGES, train=True)
  np.testing.assert_allclose(
    model.apply({'params': params}, IMAGES),
    (logits + distilled) / 2,
    rtol=0,
    atol=1e-6,
  )
  assert np.abs(logits - distilled).max() > 0.01


@pytest.mark.slow
@pytest.mark.quick
@pytest.mark.parametrize('num_classes', [None, 0])
@pytest.mark.parametrize('case', ['vit_token', 'mixer', 'bit_tiny_1_1_1_1'])
def test_models_without_classes_have_no_head(case, num_classes):
  model = models.create(reference.config(case), num_classes=num_classes)
  features, variables = jax.eval_shape(
    lambda: model.init_with_output(jax.random.key(0), IMAGES)
  )
  assert 'head' not in variables['params']
  assert features.shape == (2, {'mixer': 48, 'vit_token': 48}.get(case, 1024))


@pytest.mark.quick
def test_name_of_finds_the_name_of_a_model():
  for name in ('ViT-L_32', 'R50+ViT-B_16', 'Mixer-B_32', 'DeiT-S_16-distilled'):
    assert (
      models.name_of(models.create(name, num_classes=7, remat=True)) == name
    )
  assert models.name_of(models.create('BiT-M-R101x3')) == 'BiT-R101x3'
  assert models.name_of(models.create('ViT-S_16', gelu='erf')) == 'DeiT-S_16'
  assert models.name_of(tiny()) is None


@pytest.mark.quick
@pytest.mark.parametrize('value', ['1e-6', True, {'a': 1}])
def test_create_refuses_a_constant_that_is_no_number(value):
  """A text in a card was a TypeError when the model was applied."""
  with pytest.raises(ValueError, match=r'layer_norm_eps=.* must be a number'):
    models.create('ViT-Ti_16', layer_norm_eps=value)
