"""Meshes and the sharding of batches and states over them."""

import functools

import jax
import numpy as np
import optax
import pytest
import tiny_models
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vit_jax_repro import models
from vit_jax_repro.parallel import mesh as meshes
from vit_jax_repro.training import averaging, steps

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
  'sizes, shape',
  [
    ({}, (8, 1, 1)),
    ({'fsdp': 4}, (2, 4, 1)),
    ({'model': 2}, (4, 1, 2)),
    ({'data': 2, 'fsdp': 2, 'model': 2}, (2, 2, 2)),
    ({'data': 1, 'fsdp': 8}, (1, 8, 1)),
  ],
)
def test_create_mesh_shapes_the_axes(sizes, shape):
  mesh = meshes.create_mesh(**sizes)
  assert dict(mesh.shape) == dict(zip(meshes.AXES, shape, strict=True))
  assert mesh.axis_types == (AxisType.Auto,) * 3
  assert meshes.local_batch_multiple(mesh) == shape[0] * shape[1]


def test_create_mesh_takes_a_part_of_the_devices():
  mesh = meshes.create_mesh(devices=jax.devices()[:2], fsdp=2)
  assert dict(mesh.shape) == {'data': 1, 'fsdp': 2, 'model': 1}


@pytest.mark.parametrize(
  'sizes', [{'data': 3}, {'fsdp': 3}, {'model': 16}, {'data': 0}, {'fsdp': -1}]
)
def test_create_mesh_refuses_sizes_unequal_to_the_devices(sizes):
  with pytest.raises(ValueError, match='does not cover 8 devices'):
    meshes.create_mesh(**sizes)


@pytest.mark.parametrize(
  ('sizes', 'shown'),
  [({'fsdp': 3}, 'fsdp=3, model=1'), ({'data': 0}, 'data=0, fsdp=1, model=1')],
)
def test_create_mesh_names_the_sizes_that_divide(sizes, shown):
  """A refusal that names sizes that were not given, or no remedy."""
  says = f'a mesh of {shown} does not cover 8 devices; .* is 1, 2, 4 or 8,'
  with pytest.raises(ValueError, match=says):
    meshes.create_mesh(**sizes)
  with pytest.raises(ValueError, match='product is 1, and leave data out'):
    meshes.create_mesh(fsdp=3, devices=jax.devices()[:1])


def test_to_global_divides_a_batch_over_data_and_fsdp():
  mesh = meshes.create_mesh(fsdp=2, model=2)
  image = np.arange(8 * 2, dtype=np.float32).reshape(8, 2)
  batch = meshes.to_global({'image': image, 'mask': np.ones(8, bool)}, mesh)
  np.testing.assert_array_equal(batch['image'], image)
  assert batch['image'].sharding == meshes.batch_sharding(mesh)
  assert {s.data.shape for s in batch['image'].addressable_shards} == {(2, 2)}
  total = jax.jit(lambda b: b['image'].sum())(batch)
  assert float(total) == image.sum()


def test_replicate_copies_once():
  mesh = meshes.create_mesh()
  split = NamedSharding(mesh, PartitionSpec('data'))
  tree = {
    'host': np.ones(3),
    'one device': jax.device_put(np.ones(3), jax.devices()[3]),
    'divided': jax.device_put(np.ones(8), split),
  }
  placed = meshes.replicate(tree, mesh)
  assert placed['host'].sharding == meshes.replicated(mesh)
  assert placed['one device'].sharding == meshes.replicated(mesh)
  assert placed['divided'] is tree['divided']


def shapes_of(base, mesh, size=32, **fields):
  """Returns the state of AdamW with averages, as shapes with shardings."""
  model = models.create(tiny_models.spec(1000, base, **fields))
  images = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), images)['params']
  tx = averaging.averaged(optax.adamw(1e-3), 0.9)
  state = jax.eval_shape(functools.partial(steps.create_state, tx=tx), params)
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    state,
    meshes.parameter_sharding(state, mesh),
  )


def specs(tree):
  """Returns {path: axes} of the leaves."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): tuple(
      leaf.sharding.spec
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


# Widths of published models.
WIDE = dict(hidden_size=256, mlp_dim=1024, num_heads=4, num_layers=1)
VIT = tiny_models.VIT | WIDE
MIXER = tiny_models.MIXER | dict(
  hidden_dim=256, tokens_mlp_dim=128, channels_mlp_dim=1024
)
BIT = tiny_models.BIT | dict(width_factor=1, root_channels=64)
KINDS = {
  'vit': (VIT, {}),
  'scanned': (VIT, dict(scan=True, num_layers=3)),
  'hybrid': (VIT, dict(stem_num_layers=(1, 1), patch_size=(1, 1))),
  'map': (VIT, dict(classifier='map')),
  'distilled': (VIT, dict(distilled=True)),
  'relative': (
    VIT,
    dict(position_embedding='relative', position_embedding_at='shared'),
  ),
  '2d': (VIT, dict(position_embedding='learned2d')),
  'mixer': (MIXER, {}),
  'bit': (BIT, {}),
}


@pytest.mark.parametrize('kind', KINDS)
def test_parameter_sharding_divides_the_whole_state_over_fsdp(kind):
  base, fields = KINDS[kind]
  mesh = meshes.create_mesh(fsdp=8)
  one = meshes.create_mesh(devices=jax.devices()[:1])
  state = shapes_of(base, mesh, **fields)
  whole = meshes.bytes_per_device(shapes_of(base, one, **fields))
  assert meshes.bytes_of(state) == whole
  assert whole / 8 < meshes.bytes_per_device(state) < 1.08 * whole / 8
  assert meshes.unsharded_parameters(state.params, mesh) == []
  for name, axes in specs(state).items():
    if 'fsdp' not in axes:  # only vectors
      assert name.endswith(
        ('bias', 'scale', 'cls', 'dist', 'probe', 'count', 'rng', 'step')
      )


def test_parameter_sharding_divides_heads_and_mlps_over_model():
  mesh = meshes.create_mesh(data=2, fsdp=2, model=2)
  state = shapes_of(VIT, mesh, scan=True)
  found = specs(state.params['Transformer']['encoderblock'])
  attention = 'MultiHeadDotProductAttention_0'
  for part in ('query', 'key', 'value'):
    assert found[f'{attention}/{part}/kernel'] == (None, 'fsdp', 'model', None)
    assert found[f'{attention}/{part}/bias'] == (None, 'model', None)
  assert found[f'{attention}/out/kernel'] == (None, 'model', None, 'fsdp')
  assert found['MlpBlock_0/Dense_0/kernel'] == (None, 'fsdp', 'model')
  assert found['MlpBlock_0/Dense_0/bias'] == (None, 'model')
  assert found['MlpBlock_0/Dense_1/kernel'] == (None, 'model', 'fsdp')
  assert found['MlpBlock_0/Dense_1/bias'] == (None, None)
  # The optimiser and the averages follow.
  params = jax.tree.map(lambda x: x.sharding, state.params)
  adam = state.opt_state.inner[0]
  for follower in (adam.mu, adam.nu, state.opt_state.average):
    assert jax.tree.map(lambda x: x.sharding, follower) == params
  assert adam.count.sharding.is_fully_replicated


def test_parameter_sharding_divides_another_dimension_if_needed():
  shapes = {  # whole, and on each of eight devices
    'head/kernel': ((64, 21843), (8, 21843)),
    'embedding/kernel': ((4, 4, 3, 64), (4, 4, 3, 8)),
    'token_mixing/Dense_0/kernel': ((49, 32), (49, 4)),
    'pos_embedding': ((1, 197, 64), (1, 197, 8)),
    'query/kernel': ((12, 3, 64), (12, 3, 8)),
    'head/bias': ((1000,), (1000,)),
  }
  params = {
    name: jax.ShapeDtypeStruct(whole, np.float32)
    for name, (whole, _) in shapes.items()
  }
  placed = meshes.parameter_sharding(params, meshes.create_mesh(fsdp=8))
  for name, (whole, part) in shapes.items():
    assert placed[name].shard_shape(whole) == part


NARROW = dict(tokens_mlp_dim=4, channels_mlp_dim=6)


@pytest.mark.parametrize(
  'base, fields, what',
  [
    (VIT, dict(num_heads=4, mlp_dim=252), 'the 252 units or the 4 heads'),
    (MIXER, NARROW, 'the 6 units or the 4 units'),
    (BIT, {}, 'a model without attention and MLP'),
  ],
)
def test_check_model_axis_refuses_an_axis_that_divides_nothing(
  base, fields, what
):
  """A mesh axis for nothing: eight devices did the work of one."""
  mesh = meshes.create_mesh(model=8)
  params = shapes_of(base, mesh, **fields).params
  message = f'model=8 does not divide {what}: 8 devices would each do the same'
  with pytest.raises(ValueError, match=message):
    meshes.check_model_axis(params, mesh)
  meshes.check_model_axis(params, meshes.create_mesh())


def test_check_model_axis_takes_an_axis_that_divides_a_part():
  mesh = meshes.create_mesh(model=8)
  params = shapes_of(VIT, mesh, num_heads=4).params  # 1024 units
  meshes.check_model_axis(params, mesh)
  (line,) = meshes.unsharded_parameters(params, mesh)
  assert '8 devices hold them whole and each do all of their work' in line


def test_unsharded_parameters_names_each_group_once():
  mesh = meshes.create_mesh(data=2, fsdp=2, model=2)
  three = shapes_of(VIT, mesh, num_heads=3, hidden_size=192, num_layers=2)
  assert meshes.unsharded_parameters(three.params, mesh) == [
    'model=2 does not divide the 3 heads of key, out, query, value: 2 devices '
    'hold them whole and each do all of their work'
  ]
  name = 'Transformer/encoderblock_1/MultiHeadDotProductAttention_0/out/kernel'
  assert specs(three.params)[name] == (None, None, 'fsdp')
  wide = meshes.create_mesh(fsdp=8)
  odd = {'head': {'kernel': jax.ShapeDtypeStruct((3, 10), np.float32)}}
  even = {'stem': {'kernel': jax.ShapeDtypeStruct((8, 16), np.float32)}}
  assert meshes.unsharded_parameters(odd | even, wide) == [
    'fsdp=8 divides no dimension of head/kernel [3, 10]: each device holds '
    'them whole'
  ]
  assert meshes.unsharded_parameters(odd, wide) == [
    'fsdp=8 divides no parameter: it divides the batch, as data does, and '
    'saves no memory'
  ]
  assert meshes.unsharded_parameters(odd, meshes.create_mesh()) == []
