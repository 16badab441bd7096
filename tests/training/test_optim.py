"""Schedules and optimisers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference

from vit_jax_repro import recipes
from vit_jax_repro.training import optim

pytestmark = [
  pytest.mark.quick,
  pytest.mark.usefixtures('as_users_compile'),
]

SCHEDULES = sorted(
  key.removeprefix('schedule:').removesuffix('_lr')
  for key in reference.arrays('training.npz')
  if key.startswith('schedule:') and key.endswith('_lr')
)


@pytest.mark.parametrize('name', SCHEDULES)
def test_create_schedule_equals_the_original(name):
  total, base, decay_type, warmup = name.split('_')
  schedule = optim.create_schedule(
    base_lr=float(base.removeprefix('base')),
    total_steps=int(total.removeprefix('total')),
    warmup_steps=int(warmup.removeprefix('warmup')),
    decay_type=decay_type,
  )
  stored = reference.arrays('training.npz')
  rates = [schedule(step) for step in stored[f'schedule:{name}_steps']]
  np.testing.assert_allclose(
    rates, stored[f'schedule:{name}_lr'], rtol=1e-6, atol=1e-9
  )
  assert {rate.dtype for rate in rates} == {jnp.dtype('float32')}


@pytest.mark.parametrize('base_lr', [0.003, 0.01])
def test_bit_schedule_has_the_rates_of_the_hyperrule(base_lr):
  table = reference.hyperrule()['lr' if base_lr == 0.003 else 'lr_base_0.01']
  for num_examples, points in table.items():
    warmup, boundaries, total = recipes.bit_schedule(int(num_examples))
    schedule = optim.create_schedule(
      base_lr=base_lr,
      total_steps=total,
      warmup_steps=warmup,
      decay_type='steps',
      boundaries=boundaries,
    )
    for step, rate in points:
      assert (rate is None) == (step >= total)  # training is over
      if rate is not None:
        np.testing.assert_allclose(schedule(step), rate, rtol=1e-6)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'decay_type': 'cos'}, "unknown decay_type='cos'; choose from constant"),
    ({'warmup_steps': 10}, 'warmup_steps=10 must be at least 0 and less than'),
    ({'decay_type': 'steps'}, "must be given with decay_type='steps'"),
    ({'boundaries': (3,)}, "must be given with decay_type='steps'"),
  ],
)
def test_create_schedule_rejects_impossible_settings(fields, message):
  with pytest.raises(ValueError, match=message):
    optim.create_schedule(**(dict(base_lr=0.1, total_steps=10) | fields))


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('adam', {}, "unknown optimizer 'adam'; choose from"),
    ('adamw', {'momentum': 0.9}, r"momentum=0.9 applies only to 'sgd'"),
    ('sgd', {'accumulator_dtype': 'float16'}, "must be 'float32' or"),
    ('sgd', {'decay': 'none'}, "decay='none' must be 'all' or 'kernels'"),
    ('adamw', {'decay': 'none'}, "decay='none' must be 'all' or 'kernels'"),
  ],
)
def test_create_optimizer_rejects_impossible_settings(name, options, message):
  with pytest.raises(ValueError, match=message):
    optim.create_optimizer(name, lambda _: 0.1, **options)


PARAMS = {
  'head': {'kernel': jnp.ones((2, 3)), 'bias': jnp.ones(3)},
  'norm': {'scale': jnp.ones(2)},
  'cls': jnp.ones((1, 1, 2)),
}


@pytest.mark.parametrize('decay', ['all', 'kernels'])
def test_weight_decay_moves_the_selected_parameters(decay):
  """Moves the parameters only by lr * decay, because gradients are zero."""
  tx = optim.create_optimizer(
    'adamw', lambda _: 0.5, weight_decay=0.1, decay=decay
  )
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  updates, _ = tx.update(zeros, tx.init(PARAMS), PARAMS)
  for path, update in jax.tree_util.tree_leaves_with_path(updates):
    moved = decay == 'all' or path[-1].key == 'kernel'
    np.testing.assert_allclose(update, -0.05 if moved else 0.0)


@pytest.mark.parametrize('decay', ['all', 'kernels'])
def test_weight_decay_of_sgd_is_a_gradient(decay):
  """Computes two updates: clipped gradient plus decay, then the momentum."""
  tx = optim.create_optimizer(
    'sgd', lambda _: 0.5, weight_decay=0.1, decay=decay, grad_clip_norm=1.0
  )
  grads = jax.tree.map(lambda x: jnp.full_like(x, 2.0), PARAMS)
  clipped = 2 / np.sqrt(sum(4 * x.size for x in jax.tree.leaves(PARAMS)))
  params, state = PARAMS, tx.init(PARAMS)
  for _ in range(2):
    updates, state = tx.update(grads, state, params)
    params = jax.tree.map(jnp.add, params, updates)
  for path, found in jax.tree_util.tree_leaves_with_path(params):
    rate = 0.1 if decay == 'all' or path[-1].key == 'kernel' else 0.0
    value, momentum = 1.0, 0.0
    for _ in range(2):
      momentum = 0.9 * momentum + clipped + rate * value
      value -= 0.5 * momentum
    np.testing.assert_allclose(found, value, rtol=1e-6)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_accumulator_dtype_applies_to_the_momentum(dtype):
  tx = optim.create_optimizer('sgd', lambda _: 0.1, accumulator_dtype=dtype)
  state = tx.init(PARAMS)
  dtypes = {x.dtype for x in jax.tree.leaves(state) if x.ndim}
  assert dtypes == {jnp.dtype(dtype)}


def test_bfloat16_momentum_decays_by_bfloat16s_nine_tenths():
  """A momentum that is 0.9 in float32 although it is stored in bfloat16."""
  tx = optim.create_optimizer(
    'sgd', lambda _: 1.0, accumulator_dtype='bfloat16'
  )
  params = {'a': jnp.zeros(1)}
  state = tx.init(params)
  _, state = tx.update({'a': jnp.ones(1)}, state, params)
  updates, state = tx.update({'a': jnp.zeros(1)}, state, params)
  assert float(updates['a'][0]) == -0.8984375
  gradient = jnp.asarray([1 / 3], jnp.float32)
  updates, _ = tx.update({'a': gradient}, state, params)
  product = jnp.bfloat16(0.8984375) * jnp.bfloat16(0.8984375)  # rounded
  assert float(product) != 0.8984375**2
  assert float(updates['a'][0]) == -float(gradient[0] + jnp.float32(product))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_accumulator_dtype_applies_to_adams_first_moment(dtype):
  """Tolerates optax's rounding of the decayed moment, which XLA may skip."""
  tolerance = {'float32': 2e-5, 'bfloat16': 2**-8}[dtype]
  tx = optim.create_optimizer('adamw', lambda _: 1.0, accumulator_dtype=dtype)
  params = {'a': jnp.zeros(3)}
  grads = [{'a': jnp.float32([1, -0.3, 0.011])}, {'a': jnp.ones(3)}]
  state = tx.init(params)
  mean, square = np.zeros(3), np.zeros(3)
  for number, grad in enumerate(grads, 1):
    updates, state = tx.update(grad, state, params)
    gradient = np.asarray(grad['a'], 'f8')
    mean = 0.9 * mean + 0.1 * gradient
    square = 0.999 * square + 0.001 * gradient**2
    root = np.sqrt(square / (1 - 0.999**number)) + 1e-8
    wanted = -mean / (1 - 0.9**number) / root
    np.testing.assert_allclose(updates['a'], wanted, rtol=tolerance)
    mean = np.asarray(jnp.asarray(mean, dtype), 'f8')
  kept = optax.tree.get(state, 'mu')['a']
  assert kept.dtype == jnp.dtype(dtype)
  assert optax.tree.get(state, 'nu')['a'].dtype == jnp.float32


@pytest.mark.parametrize('norm', [0.5, 1.0, 4.0])
def test_grad_clip_norm_scales_only_large_gradients(norm):
  tx = optim.create_optimizer('sgd', lambda _: 1.0, grad_clip_norm=1.0)
  params = {'a': jnp.zeros(4)}
  grads = {'a': jnp.full(4, norm / 2)}
  updates, _ = tx.update(grads, tx.init(params), params)
  np.testing.assert_allclose(
    -updates['a'], grads['a'] / max(norm, 1.0), rtol=1e-6
  )
