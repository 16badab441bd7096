"""The device mesh and how batches and parameters lie on it.

Three axes: `data` and `fsdp` divide the batch, `fsdp` divides parameters and
all that follows them too, `model` divides the work on one example.
"""

import math
import re

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from vit_jax_repro.errors import InputError

AXES = ('data', 'fsdp', 'model')
BATCH_AXES = ('data', 'fsdp')


def create_mesh(data=None, fsdp=1, model=1, *, devices=None):
  """Returns a mesh over all devices of all processes.

  Args:
    data, fsdp, model: sizes of the axes; `data=None` takes what is left.
    devices: the devices to use, all there are by default.

  Raises:
    InputError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else list(devices)
  if data is None:
    data = len(devices) // max(1, fsdp * model)
  sizes = {'data': data, 'fsdp': fsdp, 'model': model}
  shape = tuple(sizes[axis] for axis in AXES)
  if min(shape) < 1 or np.prod(shape) != len(devices):
    raise InputError(
      f'a mesh of {sizes} does not cover {len(devices)} devices; the sizes '
      'must multiply to that number'
    )
  return jax.make_mesh(
    shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices
  )


def batch_sharding(mesh):
  """Examples divided over `data` and `fsdp`, every other axis whole."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_shards(mesh):
  """Parts that a batch is divided into."""
  return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def replicated(mesh):
  """Returns a whole copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


# How parameters lie on the mesh, by the end of their path; the first match
# counts. `model` divides the heads of attention and the inner width of MLPs:
# of two layers in a row the first by its outputs, the second by its inputs, so
# that their results are summed once (arXiv:1909.08053, section 3). `fsdp`
# divides the other large dimension. With each rule, what `model` divides.
PARAMETER_RULES = (
  # [D, A, d], [A, d], [A, d, D], [2N-1, A, d]
  (r'(query|key|value)/kernel', ('fsdp', 'model', None), 'heads'),
  (r'(query|key|value)/bias', ('model', None), 'heads'),
  (r'out/kernel', ('model', None, 'fsdp'), 'heads'),
  (r'relative_embedding', (None, 'model', 'fsdp'), 'heads'),
  # [D, F], [F], [F, D]
  (r'(MlpBlock_\d+|\w+_mixing)/Dense_0/kernel', ('fsdp', 'model'), 'units'),
  (r'(MlpBlock_\d+|\w+_mixing)/Dense_0/bias', ('model',), 'units'),
  (r'(MlpBlock_\d+|\w+_mixing)/Dense_1/kernel', ('model', 'fsdp'), 'units'),
)
# Rows of a tile. A TPU moves whole tiles: 10 rows as if they were 16.
TILE = 8
# Blocks stacked on axis 0, which stays whole: a scan takes one at a time.
_STACKED = re.compile(r'(^|/)encoderblock/')


def parameter_sharding(tree, mesh):
  """Shardings of a tree of arrays that are parameters or follow them.

  Optimiser state and averages that repeat the parameters' tree are found by
  the same paths. Where `fsdp` does not divide the dimension of its rule, or
  there is no rule, it divides the largest one that it can; dimensions whose
  parts are multiples of `TILE` go before others. Vectors (biases, norms,
  tokens) are small and stay whole. What no axis divides is whole on every
  device: see `unsharded_parameters`.

  Args:
    tree: arrays or shapes.

  Returns:
    A tree of NamedShardings.
  """

  def place(path, leaf):
    places = _places(_name(path), leaf.shape, mesh)
    return NamedSharding(mesh, PartitionSpec(*places))

  return jax.tree.map_with_path(place, tree)


def unsharded_parameters(params, mesh):
  """Returns one warning per parameter group that the mesh cannot shard.

  Args:
    params: arrays or shapes, parameters alone.

  Returns:
    A list of lines, empty where all is well; at most one for each number of
    heads or units, and one for `fsdp`.
  """
  model, fsdp = mesh.shape['model'], mesh.shape['fsdp']
  ruled, kept, whole = False, {}, []
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = _name(path)
    axes, what = _rule(name, leaf.shape)
    divided = {
      axis for axes in _places(name, leaf.shape, mesh) for axis in axes
    }
    ruled |= what is not None
    if 'model' in axes and 'model' not in divided:
      size = leaf.shape[axes.index('model')]
      part = re.sub('/(kernel|bias)$', '', name).rpartition('/')[2]
      kept.setdefault(f'{size} {what}', set()).add(part)
    if 'fsdp' in axes and 'fsdp' not in divided:
      whole.append(f'{name} {list(leaf.shape)}')
  lines = [
    f'model={model} does not divide the {what} of {", ".join(sorted(parts))}: '
    'each device holds them whole'
    for what, parts in kept.items()
  ]
  if model > 1 and not ruled:
    lines.append(
      f'model={model} divides nothing of a model without attention and MLP: so '
      'many devices each do the same work; use data or fsdp instead'
    )
  if whole:
    more = f' and {len(whole) - 3} more' if len(whole) > 3 else ''
    lines.append(
      f'fsdp={fsdp} divides no dimension of {", ".join(whole[:3])}{more}: each '
      'device holds them whole'
    )
  return lines


def local_device(mesh):
  """Returns a device of the mesh that this process owns, or its first one.

  None is owned where a program is compiled for devices that are not there.
  """
  devices = list(mesh.devices.flat)
  here = jax.process_index()
  return next((d for d in devices if d.process_index == here), devices[0])


def bytes_per_device(tree):
  """Returns the bytes of a tree of arrays or sharded shapes on each device."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def parameter_axes(name, shape, mesh):
  """Returns the mesh axes that divide each dimension: a list of tuples.

  Args:
    name: its path, of keys with '/' between them.
    shape: of one block where blocks are stacked.
  """
  first = _first(name)
  return _places(name, (1,) * first + tuple(shape), mesh)[first:]


def _name(path):
  return jax.tree_util.keystr(path, simple=True, separator='/')


def _rule(name, shape):
  """Returns each dimension's axis by the rules, and what `model` divides."""
  rank, own = len(shape), shape[_first(name) :]
  for pattern, axes, what in PARAMETER_RULES:
    if re.search(f'(^|/){pattern}$', name) and len(axes) <= rank:
      return (None,) * (rank - len(axes)) + axes, what
  if math.prod(own) <= max(own, default=1):  # a vector
    return (None,) * rank, None
  return (None,) * (rank - 1) + ('fsdp',), None


def _places(name, shape, mesh):
  """Returns the axes that divide each dimension of an array."""
  axes, what = _rule(name, shape)
  left = list(shape)
  places = [()] * len(shape)
  if 'model' in axes:
    dimension = axes.index('model')
    if left[dimension] % mesh.shape['model'] == 0:
      places[dimension] = ('model',)
      left[dimension] //= mesh.shape['model']
  if 'fsdp' in axes:
    fits = [
      dimension
      for dimension in range(_first(name), len(shape))
      if left[dimension] % mesh.shape['fsdp'] == 0
    ]
    tiled = [d for d in fits if left[d] // mesh.shape['fsdp'] % TILE == 0]
    fits = tiled or fits
    best = axes.index('fsdp')
    if fits and (what is None or best not in fits):
      best = max(fits, key=lambda dimension: (left[dimension], dimension))
    if fits:
      places[best] += ('fsdp',)
  return places


def _first(name):
  """Returns the first dimension that may be divided."""
  return 1 if _STACKED.search(name) else 0


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


def with_shardings(tree, shardings):
  """Returns the shapes of a tree of arrays, placed as `shardings` say."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    tree,
    shardings,
  )


def local_batch_multiple(mesh):
  """Returns the number that a process's rows must be a multiple of.

  Raises:
    InputError: processes share rows (the `model` axis crosses them), so that
      each could not contribute its own.
  """
  num_shards = batch_shards(mesh)
  shards = batch_sharding(mesh).addressable_devices_indices_map((num_shards,))
  num_local = len({rows.start for (rows,) in shards.values()})
  num_processes = len({d.process_index for d in mesh.devices.flat})
  if num_local * num_processes != num_shards:
    raise InputError(
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
