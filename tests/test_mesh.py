import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vit_jax_repro.training import mesh as meshes

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
def test_axes(sizes, shape):
  mesh = meshes.create_mesh(**sizes)
  assert dict(mesh.shape) == dict(zip(meshes.AXES, shape, strict=True))
  assert mesh.axis_types == (AxisType.Auto,) * 3
  assert meshes.local_batch_multiple(mesh) == shape[0] * shape[1]


def test_part_of_the_devices():
  mesh = meshes.create_mesh(devices=jax.devices()[:2], fsdp=2)
  assert dict(mesh.shape) == {'data': 1, 'fsdp': 2, 'model': 1}


@pytest.mark.parametrize(
  'sizes', [{'data': 3}, {'fsdp': 3}, {'model': 16}, {'data': 0}, {'fsdp': -1}]
)
def test_sizes_that_do_not_fit(sizes):
  with pytest.raises(ValueError, match='does not cover 8 devices'):
    meshes.create_mesh(**sizes)


def test_a_batch_is_divided_over_data_and_fsdp():
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
