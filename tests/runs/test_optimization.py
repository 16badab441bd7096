"""Schedules and optimisers from settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from vit_jax_repro import models
from vit_jax_repro.runs import optimization, settings
from vit_jax_repro.training import averaging

pytestmark = pytest.mark.quick

PARAMS = {'head': {'kernel': jnp.ones((2, 3)), 'bias': jnp.ones(3)}}


def read(**keys):
  """Returns the settings of a small run with some keys changed."""
  pp = dict(train='train', test='test', crop=8)
  config = dict(dataset='digits', model={}, base_lr=0.5, pp=pp) | keys
  return settings.from_config(config)


def rates(num_examples=100, **keys):
  """Returns the number of steps and the learning rate at each."""
  total, schedule = optimization.create_schedule(read(**keys), num_examples)
  return total, [round(float(schedule(step)), 6) for step in range(total)]


def test_create_schedule_divides_by_ten_at_each_of_decay_steps():
  total, found = rates(total_steps=7, decay_type='steps', decay_steps=(2, 4))
  assert total == 7 and found == [0.5] * 3 + [0.05] * 2 + [0.005] * 2


def test_create_schedule_takes_missing_steps_from_the_hyperrule():
  keys = dict(decay_type='bit_hyperrule', total_steps=None, warmup_steps=None)
  total, found = rates(**keys)
  assert (total, found[:2], found[100]) == (500, [0.0, 0.005], 0.5)
  assert (found[200], found[201]) == (0.5, 0.05)
  total, found = rates(**keys | dict(total_steps=4, warmup_steps=2))
  assert (total, found) == (4, [0.0, 0.25, 0.5, 0.5])


def test_create_schedule_compares_the_hyperrule_with_total_steps(capsys):
  """Steps that a run never reaches: a warm-up and drops of the rate."""
  rule = dict(decay_type='bit_hyperrule', warmup_steps=None)
  with pytest.raises(ValueError, match="=50 must be above the BiT-HyperRule's"):
    rates(**rule, total_steps=50)
  assert not capsys.readouterr().err
  rates(**rule, total_steps=300)
  assert capsys.readouterr().err == (
    'note: config.total_steps=300: 2 of 3 drops of the learning rate by the '
    'BiT-HyperRule, after steps 300, 400, are never reached\n'
  )
  rates(**rule, total_steps=None)
  assert not capsys.readouterr().err


def made(**keys):
  """Returns an optimiser with a learning rate of 0.5 for 10 steps."""
  keys = dict(total_steps=10, grad_norm_clip=0) | keys
  model = models.create(tiny_models.spec(10))
  return optimization.create_optimizer(read(**keys), lambda _: 0.5, 10, model)


def test_create_optimizer_passes_decay_and_dtype():
  tx = made(weight_decay=0.1, weight_decay_on='kernels')
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  updates, _ = tx.update(zeros, tx.init(PARAMS), PARAMS)
  np.testing.assert_allclose(updates['head']['kernel'], -0.05)
  assert not updates['head']['bias'].any()
  for optim in ('sgd', 'adamw'):
    state = made(optim=optim, optim_dtype='bfloat16').init(PARAMS)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(state)}
    assert jnp.dtype('bfloat16') in dtypes


def test_create_optimizer_averages_only_with_polyak_decay(capsys):
  state = made(polyak_decay=0.5).init(PARAMS)
  jax.tree.map(np.testing.assert_array_equal, state.average, PARAMS)
  assert not capsys.readouterr().err
  assert not isinstance(made().init(PARAMS), averaging.Averaging)


def test_create_optimizer_notes_averages_close_to_the_start(capsys):
  made(polyak_decay=0.9999)
  err = capsys.readouterr().err
  assert err.startswith(
    'note: config.polyak_decay=0.9999: after 10 steps, 100%'
  )
