"""Collectives between devices: their dtypes, and unchanged gradients."""

import functools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_models
from jax.sharding import AbstractMesh

from vit_jax_repro import models
from vit_jax_repro.parallel import mesh as meshes
from vit_jax_repro.training import (
  dividing,
  masked_patches,
  objectives,
  steps,
)

BATCH, SIZE, CLASSES = 16, 8, 10
VIT = dict(tiny_models.VIT, num_layers=1)
FAMILIES = {
  'vit': VIT,
  'scanned': dict(VIT, num_layers=2, scan=True, remat=True, classifier='map'),
  'relative': dict(
    VIT,
    num_layers=2,
    scan=True,
    position_embedding='relative',
    position_embedding_at='every_layer',
  ),
  'shared': dict(
    VIT, position_embedding='learned2d', position_embedding_at='shared'
  ),
  'hybrid': dict(VIT, patch_size=[1, 1], stem_num_layers=[1]),
  'distilled': dict(VIT, distilled=True, representation_size=8),
  'registers': dict(
    VIT, layer_scale_init=0.5, num_registers=2, classifier='token_and_gap'
  ),
  'masked': dict(
    VIT, num_registers=2, corruptible=True, classifier='token_unpooled'
  ),
  'mixer': tiny_models.MIXER,
  'bit': tiny_models.BIT,
}


def objective_of(family, dtype):
  number = masked_patches.NUM_COLOURS if family == 'masked' else CLASSES
  architecture = tiny_models.spec(number, FAMILIES[family], dtype=dtype)
  model = models.create(architecture)
  params = tiny_models.params_of(architecture, (SIZE, SIZE))
  if family == 'masked':
    return masked_patches.objective(model), params
  return objectives.classification(model), params


def keep_gradients():
  """Returns an optimiser that keeps the gradients as its state."""

  def update(gradients, state, params):
    del state, params
    return jax.tree.map(jnp.zeros_like, gradients), gradients

  return optax.GradientTransformation(lambda params: params, update)


def prepare(family, sizes, dtype='float32', **options):
  """Returns the jitted update, its state and a batch."""
  objective, params = objective_of(family, dtype)
  mesh = meshes.create_mesh(**sizes) if sizes is not None else None
  state = steps.create_state(params, keep_gradients())
  step = functools.partial(
    steps.train_step,
    objective=objective,
    tx=keep_gradients(),
    mesh=mesh,
    **options,
  )
  generator = np.random.default_rng(0)
  images = generator.uniform(-1, 1, (BATCH, SIZE, SIZE, 3))
  labels = generator.integers(0, CLASSES, BATCH)
  batch = {
    'image': images.astype(np.float32),
    'label': labels.astype(np.int32),
  }
  if mesh is None:
    return jax.jit(step), state, batch
  shardings = meshes.parameter_sharding(state, mesh)
  state = meshes.put(state, shardings)
  out = (shardings, meshes.replicated(mesh))
  return jax.jit(step, out_shardings=out), state, meshes.to_global(batch, mesh)


def gradients(*arguments, **options):
  step, state, batch = prepare(*arguments, **options)
  return jax.device_get(step(state, batch)[0].opt_state)


@functools.cache
def alone(family):
  return gradients(family, None)


def check_alike(found, family):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5),
    found,
    alone(family),
  )


@pytest.mark.parametrize('family', FAMILIES)
def test_divided_gradients_equal_those_of_one_device(family):
  mixed = dict(data=2, fsdp=2, model=2)
  check_alike(gradients(family, mixed), family)


def rounded(gradients):
  """Returns the names of the leaves that bfloat16 represents exactly."""
  leaves = {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
  }
  return {
    name
    for name, leaf in leaves.items()
    # The gradient of a key's bias is only rounding noise.
    if (leaf == leaf.astype(jnp.bfloat16)).all() and 'key/bias' not in name
  }


@pytest.mark.parametrize('family', FAMILIES)
def test_bfloat16_model_sums_gradients_in_float32(family):
  """Finds no gradient that bfloat16 represents exactly, as it does its sums."""
  assert not rounded(gradients(family, dict(data=2, fsdp=4), 'bfloat16'))


@pytest.mark.parametrize('family', ['vit', 'bit'])
def test_accumulated_gradients_equal_those_of_one_device(family):
  found = gradients(family, dict(fsdp=8), accum_steps=2)
  check_alike(found, family)


def test_grad_reduce_dtype_sums_gradients_in_bfloat16():
  sizes, dtype = dict(data=2, fsdp=4), 'bfloat16'
  found = rounded(gradients('vit', sizes, dtype, grad_reduce_dtype=dtype))
  kernels = [name for name in found if name.endswith('/kernel')]
  # query, key, value, out, two of the MLP and the patches; the head computes
  # in float32.
  assert len(kernels) == 7 and 'head/kernel' not in found


def test_grad_reduce_dtype_never_narrows_float32_gradients():
  found = gradients('vit', dict(fsdp=8), grad_reduce_dtype='bfloat16')
  check_alike(found, 'vit')


def exchanged(text, operation):
  """Returns the result dtypes of a StableHLO operation."""
  pattern = rf'"stablehlo.{operation}"\(.*?\) -> tensor<(?:\d+x)*(\w+)>'
  return re.findall(pattern, text, re.DOTALL)


def test_parameters_are_gathered_in_bfloat16():
  step, state, batch = prepare('vit', dict(fsdp=8), 'bfloat16')
  text = step.lower(state, batch).as_text()
  gathered = exchanged(text, 'all_gather')
  # Seven kernels in the forward pass. The backward pass gathers them again,
  # except the patches' one. The head's kernel is float32.
  assert sorted(gathered) == ['bf16'] * 13 + ['f32'] * 2
  assert exchanged(text, 'reduce_scatter') == ['f32'] * 8


def test_standardised_kernels_are_gathered_in_bfloat16():
  step, state, batch = prepare('bit', dict(fsdp=8), 'bfloat16')
  text = step.lower(state, batch).as_text()
  assert set(exchanged(text, 'reduce_scatter')) == {'f32'}
  # The head's kernel is float32, in both passes.
  assert exchanged(text, 'all_gather').count('f32') == 2
  assert exchanged(text, 'all_gather').count('bf16') >= 8


def test_gathering_in_two_stages_keeps_the_gradients(monkeypatch):
  near = [[0, 1], [2, 3], [4, 5], [6, 7]]
  far = [[0, 2, 4, 6], [1, 3, 5, 7]]
  monkeypatch.setattr(dividing, '_stages', lambda mesh: (near, far))
  check_alike(gradients('scanned', dict(fsdp=8)), 'scanned')


def test_stages_split_the_gathering_over_many_tpu_chips():
  def stages(fsdp, platform='tpu'):
    device = types.SimpleNamespace(platform=platform)
    mesh = types.SimpleNamespace(
      shape={'fsdp': fsdp}, devices=np.array([device])
    )
    return dividing._stages(mesh)

  assert stages(32) == stages(100) == stages(128, 'gpu') == (None,)
  near, far = stages(128)
  assert near[1] == list(range(8, 16)) and len(near) == 16
  assert far[1] == list(range(1, 128, 8)) and len(far) == 8


def test_divide_work_keeps_the_function_on_one_device():
  mesh = meshes.create_mesh(devices=jax.devices()[:1])
  assert dividing.divide_work(len, mesh) is len


# Kernels of H/14 over 128 chips. Parts have 10 rows if no other split fits.
PARTS = {
  'MlpBlock_0/Dense_0/kernel': ((1280, 5120), (1280, 40)),
  'MlpBlock_0/Dense_1/kernel': ((5120, 1280), (40, 1280)),
  'query/kernel': ((1280, 16, 80), (10, 16, 80)),
  'out/kernel': ((16, 80, 1280), (16, 80, 10)),
  'embedding/kernel': ((14, 14, 3, 1280), (14, 14, 3, 10)),
  'head/kernel': ((1280, 1000), (10, 1000)),
}


@pytest.mark.quick
@pytest.mark.parametrize('name', PARTS)
@pytest.mark.parametrize('stacked', [True, False])
def test_parameter_sharding_prefers_multiples_of_tiles(name, stacked):
  mesh = AbstractMesh((1, 128, 1), meshes.AXES)
  whole, part = PARTS[name]
  first = (4,) * stacked
  path = ('encoderblock/' if stacked else '') + name
  shape = jax.ShapeDtypeStruct((*first, *whole), np.float32)
  sharding = meshes.parameter_sharding({path: shape}, mesh)[path]
  assert sharding.shard_shape(shape.shape) == (*first, *part)
  for size, divided, axes in zip(
    whole, part, meshes.parameter_axes(path, whole, mesh), strict=True
  ):
    assert ('fsdp' in axes) == (divided < size)
