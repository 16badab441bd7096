"""Settings to schedule and optimiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_repro.runs import optimization, settings
from vit_jax_repro.training import averaging

pytestmark = pytest.mark.quick

PARAMS = {'head': {'kernel': jnp.ones((2, 3)), 'bias': jnp.ones(3)}}


def read(**keys):
  pp = dict(train='train', test='test', crop=8)
  config = dict(dataset='digits', model={}, base_lr=0.5, pp=pp) | keys
  return settings.from_config(config)


def rates(num_examples=100, **keys):
  total, schedule = optimization.create_schedule(read(**keys), num_examples)
  return total, [round(float(schedule(step)), 6) for step in range(total)]


def test_a_tenth_after_each_of_the_steps():
  total, found = rates(total_steps=7, decay_type='steps', decay_steps=(2, 4))
  assert total == 7 and found == [0.5] * 3 + [0.05] * 2 + [0.005] * 2


def test_the_hyperrule_fills_in_what_is_left_open():
  keys = dict(decay_type='bit_hyperrule', total_steps=None, warmup_steps=None)
  total, found = rates(**keys)
  assert (total, found[:2], found[100]) == (500, [0.0, 0.005], 0.5)
  assert (found[200], found[201]) == (0.5, 0.05)
  total, found = rates(**keys | dict(total_steps=4, warmup_steps=2))
  assert (total, found) == (4, [0.0, 0.25, 0.5, 0.5])


def made(**keys):
  keys = dict(total_steps=10, grad_norm_clip=0) | keys
  return optimization.create_optimizer(read(**keys), lambda _: 0.5, 10)


def test_options_reach_the_optimizer():
  tx = made(weight_decay=0.1, weight_decay_on='kernels')
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  updates, _ = tx.update(zeros, tx.init(PARAMS), PARAMS)
  np.testing.assert_allclose(updates['head']['kernel'], -0.05)
  assert not updates['head']['bias'].any()
  for optim in ('sgd', 'adamw'):
    state = made(optim=optim, optim_dtype='bfloat16').init(PARAMS)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(state)}
    assert jnp.dtype('bfloat16') in dtypes


def test_averages_where_they_are_asked_for(capsys):
  state = made(polyak_decay=0.5).init(PARAMS)
  jax.tree.map(np.testing.assert_array_equal, state.average, PARAMS)
  assert not capsys.readouterr().err
  assert not isinstance(made().init(PARAMS), averaging.Averaging)


def test_averages_that_hardly_leave_the_start_are_remarked(capsys):
  made(polyak_decay=0.9999)
  err = capsys.readouterr().err
  assert err.startswith(
    'note: config.polyak_decay=0.9999: after 10 steps, 100%'
  )
