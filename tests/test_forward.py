"""Outputs equal those of the original code, and wrong constants do not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from vit_jax_repro import models, ports, weights
from vit_jax_repro.comparison import activations
from vit_jax_repro.weights import npz

pytestmark = pytest.mark.usefixtures('as_users_compile')

DEIT = ('deit_tiny', 'deit_distilled_tiny')
CASES = [
  (case, which)
  for case, fields in reference.forward_cases().items()
  for which in fields['noise']
]

# Reference names that differ from ours.
RENAMED = {
  'with_posemb': 'Transformer/posembed_input',  # big_vision
  'encoded': 'Transformer/encoder_norm',
  'head_input': 'pre_logits',
  'patch_embed': 'embedding',  # DeiT
  'norm': 'Transformer/encoder_norm',
}


def tolerance(case, which):
  """Returns ten times the original's difference between float32 and float64."""
  return 10 * reference.forward_cases()[case]['noise'][which]


def load(case, folder, model, image_size, head='keep'):
  """Loads a case's parameters through a file, as a user would."""
  if case in DEIT:
    num_heads = reference.config(case)['num_heads']
    return ports.from_state_dict(
      reference.checkpoint(case), num_heads=num_heads
    )
  path = folder / f'{case}.npz'
  npz.write(path, reference.checkpoint(case).items())
  return weights.adapt(
    weights.load(path), model, image_size=image_size, head=head
  )


def run(case, which, folder, **substituted):
  """Returns (logits, {name: intermediate}) in float32."""
  images = reference.images(case, which)
  model = models.create(reference.config(case), **substituted)
  params = load(case, folder, model, images.shape[1:3])
  forward = jax.jit(
    lambda params, images: model.apply(
      {'params': params}, images, train=False, mutable=['intermediates']
    )
  )
  logits, state = forward(params, images)
  return logits, {k: v[0] for k, v in state['intermediates'].items()}


@pytest.fixture(autouse=True)
def highest_precision():
  with jax.default_matmul_precision('highest'):
    yield


@pytest.fixture(scope='module')
def outputs(tmp_path_factory):
  """Returns `run` for the models of the original, with a cache."""
  folder = tmp_path_factory.mktemp('forward')
  return functools.cache(lambda case, which: run(case, which, folder))


@pytest.mark.slow
@pytest.mark.parametrize(
  ('case', 'which'),
  [
    pytest.param(*case, marks=() if '_12_' in case[0] else pytest.mark.quick)
    for case in CASES
  ],
)
def test_logits_equal_the_original(case, which, outputs):
  logits, _ = outputs(case, which)
  assert logits.dtype == jnp.float32
  np.testing.assert_allclose(
    logits,
    reference.output(case, 'logits', which),
    rtol=0,
    atol=tolerance(case, which),
  )


@pytest.mark.parametrize(('case', 'which'), CASES)
def test_intermediates_equal_the_original(case, which, outputs):
  _, named = outputs(case, which)
  fields = reference.forward_cases()[case]
  # The tolerance is relative if the original's noise was not recorded.
  noise = fields.get('intermediate_noise')
  wanted = reference.intermediates(case, which)
  assert wanted
  renamed = dict(RENAMED)
  if case == 'bv_gap_rep_sincos2d':
    wanted.pop('head_input')  # the pooled tokens, which we do not name
    renamed['pre_logits'] = 'pre_logits_tanh'
  for name, values in wanted.items():
    if name in ('norm_cls', 'norm_dist'):
      mine = named['pre_logits'][:, ['norm_cls', 'norm_dist'].index(name)]
    else:
      mine = named[renamed.get(name, name)]
      mine = mine.reshape(mine.shape[0], -1)
    atol = 10 * noise if noise else 2e-5 * np.abs(values).max()
    np.testing.assert_allclose(
      reference.thin(mine), values, rtol=0, atol=atol, err_msg=name
    )


@pytest.mark.usefixtures('compile_fast')
@pytest.mark.parametrize(('case', 'which'), CASES)
def test_float64_logits_equal_the_original(case, which, tmp_path):
  """Compares to within 1e-9, beyond float32; the logits are 1 to 4."""
  images = reference.images(case, which)
  with activations.using_float64():
    model = models.create(
      reference.config(case), dtype=jnp.float64, param_dtype=jnp.float64
    )
    params = load(case, tmp_path, model, images.shape[1:3])
    apply = jax.jit(model.apply)
    logits = apply({'params': params}, images.astype(np.float64))
    wanted = reference.output(case, 'logits_f64', which)
    # big_vision pins the MLP of its MAP head to float32 in its float64 run.
    atol = tolerance(case, which) if case == 'bv_map_learn' else 1e-9
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=atol)


# Each changes one field of the original, in a case that depends on it.
WRONG = [
  ('vit_token_small_variance', '', {'layer_norm_eps': 1e-12}),
  ('vit_token_small_variance', '', {'layer_norm_eps': 1e-5}),
  ('vit_token', '', {'gelu': 'erf'}),
  ('mixer', '', {'gelu': 'erf'}),
  ('deit_tiny', '', {'gelu': 'tanh'}),
  ('hybrid_2_2', '', {'weight_standardization_eps': 1e-6}),
  ('hybrid_2_2', '', {'weight_standardization': 'sqrt_var_plus_eps'}),
  (
    'hybrid_2_2',
    '',
    {
      'weight_standardization': 'sqrt_var_plus_eps',
      'weight_standardization_eps': 1e-10,
    },
  ),
  ('hybrid_2_2', '', {'group_norm_eps': 1e-5}),
  ('hybrid_2_2', '', {'pool_padding': 'symmetric'}),
  ('hybrid_2_2', '', {'pool_padding': 'zeros'}),
  ('bit_tiny_1_1_1_1', 'b', {'weight_standardization_eps': 1e-8}),
  ('bit_tiny_1_1_1_1', 'b', {'weight_standardization': 'std_plus_eps'}),
  ('bit_tiny_1_1_1_1', 'b', {'group_norm_eps': 1e-6}),
  ('bit_tiny_1_1_1_1', 'b', {'pool_padding': 'symmetric'}),
  ('bit_tiny_1_1_1_1', 'b', {'pool_padding': 'same'}),
]


@pytest.mark.usefixtures('compile_fast')
@pytest.mark.parametrize(('case', 'which', 'wrong'), WRONG)
def test_logits_detect_a_wrong_constant(case, which, wrong, tmp_path):
  logits, _ = run(case, which, tmp_path, **wrong)
  error = np.abs(logits - reference.output(case, 'logits', which)).max()
  assert error > 2 * tolerance(case, which)
