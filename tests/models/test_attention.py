"""Attention: its kernels give the same values, and when each is chosen."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_repro import models
from vit_jax_repro.models import attention
from vit_jax_repro.models.transformer import Attention

pytestmark = pytest.mark.quick


def heads(seed=0, dtype=np.float32):
  generator = np.random.default_rng(seed)
  shapes = [(2, 3, 2, 4), (2, 5, 2, 4), (2, 5, 2, 4)]
  return [jnp.asarray(generator.normal(size=s), dtype) for s in shapes]


def by_hand(query, key, value, bias=0.0):
  """Returns attention and its weights, by loops over examples and heads."""
  out = np.empty(query.shape)
  weights = np.empty((2, 2, 3, 5))
  for b, a in np.ndindex(2, 2):
    scores = query[b, :, a] @ key[b, :, a].T / 2 + bias  # sqrt(4)
    exps = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights[b, a] = exps / exps.sum(axis=-1, keepdims=True)
    out[b, :, a] = weights[b, a] @ value[b, :, a]
  return out, weights


@pytest.mark.parametrize('implementation', ['auto', 'plain', 'xla'])
def test_attend_follows_the_definition(implementation):
  arrays = heads()
  out, weights = attention.attend(
    *arrays, implementation=implementation, dtype=jnp.float32
  )
  assert weights is None
  np.testing.assert_allclose(out, by_hand(*arrays)[0], rtol=2e-6, atol=2e-6)


@pytest.mark.slow
def test_attend_has_the_same_gradients_in_all_kernels():
  def loss(implementation):
    def of(query, key, value):
      out, _ = attention.attend(
        query, key, value, implementation=implementation, dtype=jnp.float32
      )
      return (out**2).sum()

    return jax.jit(jax.grad(of, (0, 1, 2)))

  arrays = heads()
  for one, other in zip(
    loss('plain')(*arrays), loss('xla')(*arrays), strict=True
  ):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('implementation', ['plain', 'xla', 'cudnn'])
def test_attend_uses_the_plain_form_for_weights_and_a_bias(implementation):
  arrays = heads()
  bias = np.random.default_rng(1).normal(size=(1, 1, 3, 5)).astype(np.float32)
  out, weights = attention.attend(
    *arrays,
    implementation=implementation,
    dtype=jnp.float32,
    bias=bias,
    keep_weights=True,
  )
  wanted = by_hand(*arrays, bias[0, 0])
  np.testing.assert_allclose(out, wanted[0], rtol=2e-6, atol=2e-6)
  np.testing.assert_allclose(weights, wanted[1], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize('implementation', ['plain', 'xla', 'cudnn'])
def test_attend_uses_the_plain_form_for_dropout(implementation):
  tokens = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 8)))

  def run(name, rate):
    module = Attention(2, implementation=name, dropout_rate=rate)
    plain = module.clone(implementation='plain')
    params = plain.init(jax.random.key(1), tokens, tokens)
    return module.apply(params, tokens, tokens, jax.random.key(2))[0]

  kept, dropped = run('plain', 0.0), run(implementation, 0.5)
  assert np.abs(dropped - kept).max() > 0.1
  np.testing.assert_array_equal(dropped, run('plain', 0.5))


def test_attend_keeps_a_float32_softmax_in_bfloat16():
  arrays = heads(dtype=jnp.bfloat16)
  out, weights = attention.attend(
    *arrays, implementation='auto', dtype=jnp.bfloat16, keep_weights=True
  )
  assert out.dtype == jnp.bfloat16 and weights.dtype == jnp.float32
  wanted, _ = by_hand(*(np.asarray(x, np.float32) for x in arrays))
  np.testing.assert_allclose(np.asarray(out, np.float32), wanted, atol=0.03)


@pytest.mark.parametrize(
  'dtype, head_dim, capability, fits',
  [
    ('bfloat16', 64, '9.0', True),
    ('float16', 80, '8.0', True),
    ('float32', 64, '9.0', False),
    ('bfloat16', 60, '9.0', False),
    ('bfloat16', 256, '9.0', False),
    ('bfloat16', 64, '7.5', False),
    ('bfloat16', 64, 'gfx942', False),
  ],
)
def test_cudnn_fits_by_dtype_head_size_and_capability(
  dtype, head_dim, capability, fits
):
  assert attention.cudnn_fits(dtype, head_dim, capability) is fits


def test_fastest_is_plain_on_a_cpu():
  assert attention.fastest(jnp.bfloat16, 64) == 'plain'


H100 = types.SimpleNamespace(platform='gpu', compute_capability='9.0')
T4 = types.SimpleNamespace(platform='gpu', compute_capability='7.5')
TPU = types.SimpleNamespace(platform='tpu')


@pytest.mark.parametrize(
  'device, dtype, name',
  [
    (H100, 'bfloat16', 'cudnn'),
    (H100, 'float32', 'plain'),
    (T4, 'float16', 'plain'),
    (TPU, 'bfloat16', 'plain'),
  ],
)
def test_resolve_uses_the_given_device(device, dtype, name):
  """Gives other devices than the machine's, which is a CPU."""
  model = models.create('ViT-Ti_16', num_classes=2, dtype=dtype)
  assert attention.resolve(model, device).attention == name
  chosen = model.clone(attention='xla')
  assert attention.resolve(chosen, device) is chosen


def test_resolve_returns_models_without_attention_unchanged():
  model = models.create('Mixer-B_16', num_classes=2, dtype='bfloat16')
  assert attention.resolve(model, H100) is model


@pytest.mark.slow
@pytest.mark.parametrize('multiple', [2, 8])
@pytest.mark.parametrize('lengths', [(1, 5), (5, 5), (3, 4), (4, 4), (1, 1)])
def test_padded_changes_neither_values_nor_gradients(lengths, multiple):
  generator = np.random.default_rng(0)
  query, key, value = (
    jnp.asarray(generator.normal(size=(2, n, 3, 8)), jnp.float32)
    for n in (lengths[0], lengths[1], lengths[1])
  )

  def plain(*arrays):
    return attention.attend(*arrays, implementation='plain', dtype=jnp.float32)[
      0
    ]

  padded = functools.partial(
    attention.padded, implementation='xla', multiple=multiple
  )

  @functools.partial(jax.jit, static_argnums=0)
  def run(attend, *arrays):
    out, pull = jax.vjp(attend, *arrays)
    return out, pull(2 * out)  # the gradients of the sum of squares

  (out, results), (exact, wanted) = (
    run(attend, query, key, value) for attend in (padded, plain)
  )
  np.testing.assert_allclose(out, exact, rtol=1e-5, atol=1e-6)
  for one, other in zip(results, wanted, strict=True):
    np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


def test_attend_rejects_an_unknown_implementation():
  with pytest.raises(ValueError, match="unknown attention 'flash'; choose"):
    attention.attend(*heads(), implementation='flash', dtype=jnp.float32)


def test_resolve_rejects_a_kernel_that_the_device_does_not_support():
  for device, dtype in ((H100, 'float32'), (TPU, 'bfloat16'), (T4, 'float16')):
    model = models.create(
      'ViT-Ti_16', num_classes=2, dtype=dtype, attention='cudnn'
    )
    with pytest.raises(ValueError, match="attention='cudnn' cannot run here"):
      attention.resolve(model, device)
