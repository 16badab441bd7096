"""The device mesh and how batches and parameters lie on it.

Three axes: `data` and `fsdp` divide the batch, `fsdp` may divide parameters
too, `model` divides the work on one example.
"""

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

AXES = ('data', 'fsdp', 'model')
BATCH_AXES = ('data', 'fsdp')


def create_mesh(data=None, fsdp=1, model=1, *, devices=None):
  """A mesh over all devices of all processes.

  Args:
    data, fsdp, model: sizes of the axes; `data=None` takes what is left.
    devices: the devices to use, all there are by default.

  Raises:
    ValueError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else list(devices)
  if data is None:
    data = len(devices) // max(1, fsdp * model)
  sizes = {'data': data, 'fsdp': fsdp, 'model': model}
  shape = tuple(sizes[axis] for axis in AXES)
  if min(shape) < 1 or np.prod(shape) != len(devices):
    raise ValueError(
      f'a mesh of {sizes} does not cover {len(devices)} devices; the sizes '
      'must multiply to that number'
    )
  return jax.make_mesh(
    shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices
  )


def batch_sharding(mesh):
  """Examples divided over `data` and `fsdp`, every other axis whole."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh):
  """A whole copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def local_batch_multiple(mesh):
  """What the rows that one process contributes must be a multiple of.

  Raises:
    ValueError: processes share rows (the `model` axis crosses them), so that
      each could not contribute its own.
  """
  num_shards = mesh.shape['data'] * mesh.shape['fsdp']
  shards = batch_sharding(mesh).addressable_devices_indices_map((num_shards,))
  num_local = len({rows.start for (rows,) in shards.values()})
  num_processes = len({d.process_index for d in mesh.devices.flat})
  if num_local * num_processes != num_shards:
    raise ValueError(
      f'a mesh of {dict(mesh.shape)} puts the same examples into several of '
      f'{num_processes} processes; choose a smaller model axis'
    )
  return num_local


def to_global(batch, mesh):
  """Puts each process's numpy batch on the mesh as part of one global batch.

  Args:
    batch: arrays [b, ...], b rows of this process, equal in all processes
      and a multiple of `local_batch_multiple(mesh)`.

  Returns:
    The same keys, jax.Arrays [b * number of processes, ...].
  """
  sharding = batch_sharding(mesh)
  return {
    key: jax.make_array_from_process_local_data(sharding, value)
    for key, value in batch.items()
  }


def replicate(tree, mesh):
  """Copies a tree onto every device; leaves that lie on the mesh stay."""
  devices = set(mesh.devices.flat)

  def put(leaf):
    if isinstance(leaf, jax.Array) and leaf.sharding.device_set == devices:
      return leaf
    return jax.device_put(np.asarray(leaf), replicated(mesh))

  return jax.tree.map(put, tree)
