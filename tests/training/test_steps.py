"""Train steps: the original's trajectories, accumulation, keys."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from vit_jax_repro import models
from vit_jax_repro.training import objectives, optim, steps
from vit_jax_repro.weights import trees

pytestmark = pytest.mark.usefixtures('as_users_compile')

TOLERANCE = {'sgd_bf16': 5e-4}  # all others are float32: 1e-5


def optimizer(fields):
  schedule = optim.create_schedule(
    base_lr=fields['base_lr'],
    total_steps=fields['total_steps'],
    warmup_steps=fields['warmup_steps'],
    decay_type=fields['decay_type'],
  )
  name, _, kind = fields['optimizer'].partition('_')
  if name == 'sgd':
    dtype = {'bf16': 'bfloat16', 'f32': 'float32'}[kind]
    options = dict(momentum=0.9, accumulator_dtype=dtype)
  else:
    options = dict(weight_decay=fields['weight_decay'], decay=kind)
  return optim.create_optimizer(
    name, schedule, grad_clip_norm=fields['grad_clip_norm'], **options
  )


def run(case, accum_steps=None, **changed):
  """Returns losses, gradient norms and flat parameters of ten updates."""
  fields = reference.training_cases()[case] | changed
  model = models.create(fields['model'])
  tx = optimizer(fields)
  params = trees.nest(reference.training_start(case))
  state = steps.create_state(params, tx)
  step = jax.jit(
    functools.partial(
      steps.train_step,
      objective=objectives.classification(model),
      tx=tx,
      accum_steps=accum_steps or fields['accum_steps'],
    )
  )
  losses, norms = [], []
  with jax.default_matmul_precision('highest'):
    for batch in reference.training_batches(case):
      state, metrics = step(state, batch)
      losses.append(float(metrics['loss']))
      norms.append(float(metrics['grad_norm']))
  assert int(state.step) == 10
  return losses, norms, trees.flatten(state.params)


@pytest.mark.parametrize('case', reference.training_cases())
def test_train_step_equals_ten_updates_of_the_original(case):
  fields = reference.training_cases()[case]
  atol = TOLERANCE.get(fields['optimizer'], 1e-5)
  losses, norms, params = run(case)
  np.testing.assert_allclose(
    losses, reference.training_output(case, 'loss'), rtol=0, atol=atol
  )
  np.testing.assert_allclose(
    norms, reference.training_output(case, 'grad_norm'), rtol=atol, atol=0
  )
  for name, value in params.items():
    # The softmax over keys ignores a constant added to all of them. So the
    # bias's gradient is rounding noise, and Adam follows its sign at full
    # rate. The sign differs between processors.
    noise = fields['optimizer'].startswith('adamw') and 'key/bias' in name
    np.testing.assert_allclose(
      reference.thin_leaf(value),
      reference.training_output(case, f'final:{name}'),
      rtol=0,
      atol=2 * 10 * fields['base_lr'] if noise else atol,
      err_msg=name,
    )


WRONG = [
  ('sgd_f32_cosine', {'decay_type': 'linear'}),
  ('sgd_f32_cosine', {'warmup_steps': 2}),
  ('sgd_f32_cosine', {'grad_clip_norm': None}),
  ('sgd_f32_cosine', {'optimizer': 'sgd_bf16'}),
  ('sgd_bf16_cosine', {'base_lr': 0.11}),
  ('adamw_all_linear', {'optimizer': 'adamw_kernels'}),
  ('adamw_kernels_linear', {'weight_decay': 0.11}),
]


@pytest.mark.usefixtures('compile_fast')
@pytest.mark.parametrize(('case', 'wrong'), WRONG)
def test_ten_updates_detect_a_wrong_setting(case, wrong):
  _, _, params = run(case, **wrong)
  fields = reference.training_cases()[case]
  atol = TOLERANCE.get(fields['optimizer'], 1e-5)
  error = max(
    np.abs(
      reference.thin_leaf(value)
      - reference.training_output(case, f'final:{name}')
    ).max()
    for name, value in params.items()
  )
  assert error > 2 * atol


def tiny_model(**fields):
  spec = reference.training_cases()['sgd_f32_cosine']['model']
  return models.create(spec, **fields)


def random_step(accum_steps=1, **fields):
  """Returns a step function and a new state, with dropout by default."""
  model = tiny_model(**(dict(dropout_rate=0.1) | fields))
  tx = optim.create_optimizer('sgd', lambda _: 0.1)
  params = trees.nest(reference.training_start('sgd_f32_cosine'))
  step = functools.partial(
    steps.train_step,
    objective=objectives.classification(model),
    tx=tx,
    accum_steps=accum_steps,
  )
  return step, steps.create_state(params, tx, seed=3)


BATCHES = reference.training_batches('sgd_f32_cosine')


@pytest.mark.usefixtures('compile_fast')
def test_train_step_draws_a_key_for_each_part_of_a_batch():
  """Expects a mean of squares above the squared mean: the keys differ."""
  step, state = random_step(accum_steps=8)

  def objective(params, batch, key):
    value = jax.random.uniform(key)
    return value + 0 * params['head']['bias'].sum(), {'square': value**2}

  step = jax.jit(functools.partial(step, objective=objective))
  _, metrics = step(state, BATCHES[0])
  assert float(metrics['square']) > float(metrics['loss']) ** 2 + 1e-3


@pytest.mark.usefixtures('compile_fast')
def test_train_step_draws_keys_from_the_step_and_the_seed():
  step, state = random_step()
  step = jax.jit(step)
  _, first = step(state, BATCHES[0])
  assert set(first) == {'loss', 'grad_norm', 'train_accuracy'}
  for value in first.values():
    assert value.shape == () and value.dtype == jnp.float32
  _, again = step(state, BATCHES[0])
  assert float(first['loss']) == float(again['loss'])
  _, later = step(state.replace(step=state.step + 1), BATCHES[0])
  assert float(first['loss']) != float(later['loss'])
  _, seeded = step(state.replace(rng=jax.random.key(4)), BATCHES[0])
  assert float(first['loss']) != float(seeded['loss'])


@pytest.mark.parametrize('accum_steps', [0, 3])
def test_train_step_rejects_parts_not_dividing_the_batch(accum_steps):
  step, state = random_step(accum_steps=accum_steps)
  with pytest.raises(ValueError, match=r'must be at least 1 and divide'):
    step(state, BATCHES[0])


@pytest.mark.parametrize('accum_steps', [1, 2])
def test_only_loops_get_the_convolutions_that_are_fast_in_loops(accum_steps):
  step, state = random_step(accum_steps=accum_steps)
  text = jax.jit(step).lower(state, BATCHES[0]).as_text()
  # JAX's gradient of the kernel of the patches has the batch as channels.
  assert ('dim_numbers = [f, 0, 1, b]' in text) == (accum_steps == 1)
  assert 'dim_numbers = [b, 0, 1, f]' in text


@pytest.mark.usefixtures('compile_fast')
def test_classification_of_integer_labels_equals_one_hot_labels():
  step, state = random_step(dropout_rate=0.0)
  loss = jax.jit(step.keywords['objective'])
  integers = dict(BATCHES[0], label=BATCHES[0]['label'].argmax(-1))
  first, other = (
    loss(state.params, batch, state.rng)[0] for batch in (BATCHES[0], integers)
  )
  assert float(first) == float(other)
