"""Programs measured by the benchmarks."""

import dataclasses
import functools

import child_processes
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_repro import models
from vit_jax_repro.benchmarks import programs
from vit_jax_repro.models import variants
from vit_jax_repro.parallel import mesh
from vit_jax_repro.training import optim, steps
from vit_jax_repro.training.objectives import classification

CASE = programs.Case('train', 'ViT-Ti_16', 8, 'float32', (32, 32))
ONE = dict(data=1, fsdp=8, model=1)


@pytest.mark.quick
def test_operations_are_2_or_6_times_the_multiply_adds():
  """Counts ViT-Ti/16 at 32x32 pixels: 4 patches and a class token."""
  tokens, width, layers, mlp = 5, 192, 12, 768
  block = tokens * (4 * width**2 + 2 * width * mlp) + 2 * tokens**2 * width
  forward = 4 * 16 * 16 * 3 * width + layers * block + width * 1000
  infer = dataclasses.replace(CASE, kind='infer')
  assert programs.operations(infer) == 2 * forward * 8
  assert programs.operations(CASE) == 6 * forward * 8
  again = dataclasses.replace(CASE, scan=True, remat=True, dtype='bfloat16')
  assert programs.operations(again) == programs.operations(CASE)


@pytest.mark.quick
def test_parent_of_workers_does_not_use_devices():
  """Runs the calls that `speed` makes in the parent process."""
  source = (
    'from vit_jax_repro.benchmarks import programs, speed\n'
    'case = programs.Case("train", "ViT-Ti_16", 8, "float32", (32, 32))\n'
    'programs.operations(case); programs.create_model(case)\n'
    'from jax._src import xla_bridge\n'
    'assert not xla_bridge._backends, xla_bridge._backends\n'
  )
  code, _, err = child_processes.run_script(source)
  assert not code, err


def test_update_equals_an_update_of_training():
  program = programs.create(programs.variant(CASE, 'scan'))
  state, batch = program.create()
  assert state.params['head']['kernel'].sharding.mesh.shape['data'] == 8
  params = jax.device_get(state.params)
  tx = optim.create_optimizer(
    'adamw',
    optim.create_schedule(base_lr=1e-3, total_steps=9, decay_type='constant'),
    weight_decay=0.1,
    grad_clip_norm=1.0,
  )
  model = models.create(
    'ViT-Ti_16', num_classes=1000, dropout_rate=0.0, scan=True
  )
  step = functools.partial(
    steps.train_step, objective=classification(model), tx=tx
  )
  wanted, metrics = jax.jit(step)(
    steps.create_state(params, tx), jax.device_get(batch)
  )
  found, measured = program.function(state, batch)
  np.testing.assert_allclose(measured['loss'], metrics['loss'], rtol=1e-5)
  for one, other in zip(
    jax.tree.leaves(found.params), jax.tree.leaves(wanted.params), strict=True
  ):
    np.testing.assert_allclose(one, other, atol=3e-3)  # Adam's first step: 1e-3


@pytest.mark.parametrize('model', ['BiT-M-R50x1', 'Mixer-S_16'])
def test_create_casts_other_families_to_bfloat16_for_inference(model):
  case = programs.Case('infer', model, 8, 'bfloat16', (224, 224), mesh=ONE)
  program = programs.create(case)
  params, batch = program.arguments
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {
    jnp.dtype('bfloat16')
  }
  logits = jax.eval_shape(program.function, params, batch)
  assert logits.shape == (8, 1000) and logits.dtype == jnp.float32


@pytest.mark.quick
def test_create_model_accepts_every_named_model():
  for name in variants.names():
    case = dataclasses.replace(CASE, model=name)
    model = programs.create_model(case)
    assert not getattr(model, 'dropout_rate', 0) and not model.remat


@pytest.mark.quick
def test_variant_changes_only_its_fields():
  for name, fields in programs.VARIANTS.items():
    model = programs.create_model(programs.variant(CASE, name))
    for field in ('scan', 'remat'):
      assert getattr(model, field) is fields.get(field, False)


@pytest.mark.quick
@pytest.mark.parametrize(
  'changes, message',
  [
    (dict(batch_size=7), 'a batch of 7 does not divide over 8 devices'),
    (dict(model='BiT-M-R50x1', scan=True), 'BiT-M-R50x1 has no equal blocks'),
    (dict(model='ViT-X'), "unknown model 'ViT-X'"),
  ],
)
def test_create_rejects_impossible_cases(changes, message):
  with pytest.raises(ValueError, match=message):
    programs.create(dataclasses.replace(CASE, **changes))


@pytest.mark.quick
def test_read_mesh_parses_the_flag():
  assert programs.read_mesh(None) == {}
  assert programs.read_mesh('fsdp=4,data=2') == {'data': 2, 'fsdp': 4}
  assert mesh.create_mesh(**programs.read_mesh('fsdp=4')).shape['data'] == 2
  for text in ('8', 'rows=2', 'data=0', 'data=x'):
    with pytest.raises(ValueError, match=f'--mesh={text} must be sizes of'):
      programs.read_mesh(text)
