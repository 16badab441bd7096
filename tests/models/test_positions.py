"""Kinds and places of position embeddings (ViT paper, D.4)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from vit_jax_repro import models, weights
from vit_jax_repro.models import positions

WIDE = np.random.default_rng(0).uniform(-1, 1, (2, 8, 16, 3)).astype('f4')
ALL = [
  ('none', 'stem'),
  ('sincos2d', 'shared'),
  *((k, p) for k in ('learned', 'learned2d') for p in positions.PLACES),
  *(('relative', p) for p in positions.PLACES),
]


def spec(kind, place='stem', **fields):
  return tiny_models.spec(
    3, position_embedding=kind, position_embedding_at=place, **fields
  )


def params_of(architecture):
  """Returns random parameters, with position embeddings scaled up."""
  params = tiny_models.params_of(architecture, (8, 16))
  encoder = params['Transformer']
  for block in [encoder, *encoder.values()]:
    for name in [name for name in block if name.startswith('posembed')]:
      block[name] = jax.tree.map(lambda x: 4 * x, block[name])
  return params


def logits(architecture, params, images=WIDE):
  return models.create(architecture).apply({'params': params}, images)


def with_tables(params, **tables):
  """Returns the parameters with these position embeddings."""
  encoder = dict(params['Transformer'])
  for name, table in tables.items():
    if name.startswith('posembed'):
      encoder[name] = table
    else:
      encoder[name] = dict(encoder[name], posembed_layer=table)
  return dict(params, Transformer=encoder)


def test_relative_scores_follow_the_definition():
  rng = np.random.default_rng(0)
  query, table = rng.normal(size=(2, 4, 3, 5)), rng.normal(size=(7, 3, 5))
  wanted = np.empty((2, 3, 4, 4))
  for b, head, q, k in np.ndindex(*wanted.shape):
    wanted[b, head, q, k] = query[b, q, head] @ table[q - k + 3, head]
  got = positions.relative_scores(query.astype('f4'), table.astype('f4'))
  np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


def test_relative_scores_are_added_before_the_softmax():
  params = params_of(spec('relative'))
  _, state = models.create(spec('relative')).apply(
    {'params': params}, WIDE, mutable=['intermediates']
  )
  block = params['Transformer']['encoderblock_0']
  table = block.pop('posembed_layer')['relative_embedding']
  _, without = models.create(spec('none')).apply(
    {'params': params}, WIDE, mutable=['intermediates']
  )
  named, without = state['intermediates'], without['intermediates']
  tokens = np.concatenate(
    [
      np.broadcast_to(params['cls'], (2, 1, 16)),
      named['embedding'][0].reshape(2, 8, 16),
    ],
    axis=1,
  )
  norm, query = (
    block['LayerNorm_0'],
    block['MultiHeadDotProductAttention_0']['query'],
  )
  tokens -= tokens.mean(-1, keepdims=True)
  tokens /= np.sqrt(np.square(tokens).mean(-1, keepdims=True) + 1e-6)
  tokens = tokens * norm['scale'] + norm['bias']
  query = np.einsum('bnD,Dad->bnad', tokens, query['kernel']) + query['bias']
  scores = positions.relative_scores(jnp.asarray(query / np.sqrt(8)), table)
  name = 'Transformer/encoderblock_0/attention_weights'
  wanted = jax.nn.softmax(np.log(without[name][0]) + scores)
  np.testing.assert_allclose(named[name][0], wanted, rtol=0, atol=1e-5)
  assert np.abs(wanted - without[name][0]).max() > 0.01


def test_learned2d_concatenates_column_and_row_embeddings():
  x = np.arange(4.0).reshape(1, 2, 2)
  y = 10 * np.arange(1, 7.0).reshape(1, 3, 2)
  table = positions.PositionEmbedding(kind='learned2d', grid=(3, 2)).apply(
    {'params': {'x_embedding': x, 'y_embedding': y}}, jnp.zeros((1, 7, 4))
  )
  assert table.shape == (1, 7, 4)
  assert not np.any(table[:, 0])  # class token
  for row, column in np.ndindex(3, 2):
    wanted = [*x[0, column], *y[0, row]]
    np.testing.assert_array_equal(table[0, 1 + 2 * row + column], wanted)


@pytest.mark.parametrize('kind', ['learned', 'learned2d', 'relative'])
def test_shared_and_stem_are_special_cases_of_every_layer(kind):
  params = params_of(spec(kind, 'shared'))
  wanted = logits(spec(kind, 'shared'), params)
  table = params['Transformer'].pop('posembed_shared')
  nothing = jax.tree.map(np.zeros_like, table)
  each, first = (
    logits(
      spec(kind, 'every_layer'),
      with_tables(params, encoderblock_0=table, encoderblock_1=second),
    )
    for second in (table, nothing)
  )
  np.testing.assert_allclose(each, wanted, rtol=0, atol=1e-6)
  assert np.abs(first - wanted).max() > 1e-3
  name = 'encoderblock_0' if kind == 'relative' else 'posembed_input'
  stem = logits(spec(kind), with_tables(params, **{name: table}))
  np.testing.assert_allclose(stem, first, rtol=0, atol=1e-6)


@pytest.mark.parametrize(('kind', 'place'), ALL)
def test_logits_depend_on_the_order_of_patches_given_positions(kind, place):
  architecture = spec(kind, place)
  params = params_of(architecture)
  moved = np.concatenate([WIDE[:, :, 8:12], WIDE[:, :, 4:8]], axis=2)
  moved = np.concatenate([WIDE[:, :, :4], moved, WIDE[:, :, 12:]], axis=2)
  change = np.abs(
    logits(architecture, params) - logits(architecture, params, moved)
  ).max()
  assert change < 1e-6 if kind == 'none' else change > 1e-4


@pytest.mark.parametrize(
  ('kind', 'place'),
  [('learned2d', 'shared'), ('relative', 'every_layer')],
)
def test_scan_and_remat_do_not_change_results(kind, place):
  architecture = spec(kind, place, dropout_rate=0.1)
  plain = models.create(architecture)
  other = plain.clone(scan=True, remat=True)
  params = params_of(architecture)
  fit = dict(image_size=(8, 16), head='keep')
  other_params = weights.adapt(params, other, **fit)

  def loss(params, model):
    dropped = model.apply(
      {'params': params}, WIDE, train=True, rngs={'dropout': jax.random.key(7)}
    )
    return jnp.square(dropped).sum()

  graded = jax.jit(jax.value_and_grad(loss), static_argnums=1)
  value, grads = graded(params, plain)
  other_value, other_grads = graded(other_params, other)
  np.testing.assert_allclose(value, other_value, rtol=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    grads,
    weights.adapt(other_grads, plain, **fit),
  )


@pytest.mark.parametrize('kind', ['learned2d', 'relative'])
def test_bfloat16_keeps_logits_in_float32(kind):
  architecture = spec(kind, 'shared')
  params = params_of(architecture)
  model = models.create(
    architecture, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16
  )
  rough, state = model.apply(
    {'params': params}, WIDE, mutable=['intermediates']
  )
  named = {k: v[0].dtype for k, v in state['intermediates'].items()}
  assert rough.dtype == jnp.float32
  assert named['Transformer/encoderblock_1'] == jnp.bfloat16
  exact = logits(architecture, params)
  np.testing.assert_allclose(
    rough, exact, rtol=0, atol=0.1 * np.abs(exact).max()
  )
  fresh = jax.eval_shape(model.init, jax.random.key(0), WIDE)
  leaves = jax.tree.leaves(fresh['params']['Transformer']['posembed_shared'])
  assert {leaf.dtype for leaf in leaves} == {jnp.dtype('bfloat16')}


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (dict(kind='none', place='shared'), "use position_embedding_at='stem'"),
    (dict(kind='relative', scan=True), 'set scan=False'),
    (
      dict(kind='learned', place='layers'),
      "unknown position embedding at 'lay",
    ),
    (dict(kind='learned2d', hidden_size=15, num_heads=1), 'must be even'),
    *(
      (dict(fields, class_token_after_positions=True), 'set it to False')
      for fields in (
        dict(kind='relative'),
        dict(kind='none'),
        dict(kind='learned2d'),
        dict(kind='learned', place='shared'),
      )
    ),
  ],
)
def test_check_rejects_fields_excluding_each_other(fields, message):
  model = models.create(spec(**fields))
  with pytest.raises(ValueError, match=message) as error:
    jax.eval_shape(model.init, jax.random.key(0), WIDE)
  assert '\n' not in str(error.value)
