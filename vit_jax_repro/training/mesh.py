"""The device mesh and how batches and parameters lie on it.

Three axes: `data` and `fsdp` divide the batch, `fsdp` may divide parameters
too, `model` divides the work on one example.
"""

import re

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


# How parameters lie on the mesh, by the end of their path; the first match
# counts. Attention heads and the MLP's inner width are divided over `model`,
# the other large dimension over `fsdp`. Whatever matches nothing is whole.
PARAMETER_RULES = (
  (r'(query|key|value)/kernel', ('fsdp', 'model', None)),  # [D, A, d]
  (r'(query|key|value)/bias', ('model', None)),
  (r'out/kernel', ('model', None, 'fsdp')),  # [A, d, D]
  (r'(MlpBlock_0|_mixing)/Dense_0/kernel', ('fsdp', 'model')),  # [D, F]
  (r'(MlpBlock_0|_mixing)/Dense_0/bias', ('model',)),
  (r'(MlpBlock_0|_mixing)/Dense_1/kernel', ('model', 'fsdp')),  # [F, D]
  (r'kernel', ('fsdp',)),  # the last dimension: convolutions, heads
)


def parameter_sharding(tree, mesh):
  """Shardings of a tree of arrays that are parameters or follow them.

  Optimiser state that repeats the parameters' tree is found by the same
  paths. Rules name a leaf's last dimensions, so blocks stacked on axis 0 keep
  that axis whole. A dimension that an axis does not divide is left whole.

  Args:
    tree: arrays or shapes.

  Returns:
    A tree of NamedShardings.
  """

  def place(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    for pattern, axes in PARAMETER_RULES:
      if re.search(f'{pattern}$', name):
        return NamedSharding(mesh, _spec(leaf.shape, axes, mesh))
    return replicated(mesh)

  return jax.tree.map_with_path(place, tree)


def _spec(shape, axes, mesh):
  if len(axes) > len(shape):
    return PartitionSpec()
  axes = (None,) * (len(shape) - len(axes)) + axes
  return PartitionSpec(
    *(
      axis if axis and size % mesh.shape[axis] == 0 else None
      for axis, size in zip(axes, shape, strict=True)
    )
  )


def put(tree, shardings):
  """Places a tree that every process holds whole, as `shardings` say."""

  def place(leaf, sharding):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      data = place(np.asarray(jax.random.key_data(leaf)), sharding)
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    leaf = np.asarray(leaf)
    return jax.make_array_from_callback(
      leaf.shape, sharding, lambda index: leaf[index]
    )

  return jax.tree.map(place, tree, shardings)


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
