"""Polyak averages in the state of an optimiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_repro.parallel import mesh
from vit_jax_repro.training import averaging, optim, steps

PARAMS = {'head': {'kernel': jnp.full((8, 8), 0.7), 'bias': jnp.zeros(8)}}


def plain():
  return optim.create_optimizer('sgd', lambda _: 0.1, grad_clip_norm=1.0)


def objective(params, batch, key):
  loss = (batch['image'] * params['head']['kernel']).sum()
  return loss + params['head']['bias'].sum(), {}


def updated(tx, number=4, params=PARAMS):
  """Returns the initial state and the state after each update."""
  states = [steps.create_state(params, tx)]
  for i in range(number):
    batch = {'image': jnp.full((8, 8), float(i + 1))}
    state, _ = steps.train_step(states[-1], batch, objective=objective, tx=tx)
    states.append(state)
  return states


def test_averaged_follows_its_formula_for_four_updates():
  states = updated(averaging.averaged(plain(), 0.9))
  raw = updated(plain())
  average = np.asarray(PARAMS['head']['kernel'], 'f8')
  for state, other in zip(states[1:], raw[1:], strict=True):
    kernel = np.asarray(state.params['head']['kernel'])
    np.testing.assert_array_equal(kernel, other.params['head']['kernel'])
    average = 0.9 * average + 0.1 * kernel
    found = averaging.evaluated(state)['head']['kernel']
    np.testing.assert_allclose(found, average, rtol=1e-6)
  assert averaging.evaluated(raw[-1]) is raw[-1].params


def test_averaged_starts_as_a_copy_of_the_parameters():
  """Checks that both have a buffer of their own, because both are donated."""
  state = updated(averaging.averaged(plain(), 0.9), 0)[0]
  average = averaging.evaluated(state)
  jax.tree.map(np.testing.assert_array_equal, average, PARAMS)
  kernels = [tree['head']['kernel'] for tree in (average, state.params)]
  assert len({kernel.unsafe_buffer_pointer() for kernel in kernels}) == 2


def test_averaged_keeps_float32_averages_of_bfloat16():
  """Moves by one ten-thousandth of a step, which bfloat16 would round away."""
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
  states = updated(averaging.averaged(plain(), 0.9999), 1, params)
  average = averaging.evaluated(states[-1])['head']['kernel']
  kernel = np.asarray(states[-1].params['head']['kernel'], 'f4')
  assert average.dtype == jnp.float32
  before = np.asarray(params['head']['kernel'], 'f4')
  moved = np.asarray(average) - before
  np.testing.assert_allclose(moved, 1e-4 * (kernel - before), atol=6e-8)
  assert moved.all()


def test_average_is_sharded_like_the_parameters():
  device_mesh = mesh.create_mesh(fsdp=8)
  state = updated(averaging.averaged(plain(), 0.9), 0)[0]
  shardings = mesh.parameter_sharding(state, device_mesh)
  average = averaging.evaluated(shardings)['head']['kernel']
  assert average == shardings.params['head']['kernel']
  assert average.spec == jax.sharding.PartitionSpec(None, 'fsdp')


def test_averaged_is_exact_for_constant_parameters():
  tx = averaging.averaged(optim.create_optimizer('sgd', lambda _: 0.0), 0.9999)
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)

  def update(state, _):
    return tx.update(zeros, state, PARAMS)[1], None

  state, _ = jax.lax.scan(update, tx.init(PARAMS), length=2000)
  jax.tree.map(np.testing.assert_array_equal, state.average, PARAMS)


@pytest.mark.parametrize('decay', [0, 1, -0.1, float('nan')])
def test_averaged_rejects_a_factor_outside_0_to_1(decay):
  with pytest.raises(ValueError, match='must lie between 0 and 1'):
    averaging.averaged(plain(), decay)
