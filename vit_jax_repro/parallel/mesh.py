"""The device mesh, and the shardings of batches and parameters on it.

The mesh has three axes. `data` and `fsdp` divide the batch. `fsdp` also divides
the parameters, the optimiser state and the averages. `model` divides the work
on one example.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vit_jax_repro.errors import InputError

AXES = ('data', 'fsdp', 'model')
BATCH_AXES = ('data', 'fsdp')


def create_mesh(
  data: int | None = None,
  fsdp: int = 1,
  model: int = 1,
  *,
  devices: Sequence[Any] | None = None,
) -> Mesh:
  """Returns a mesh over all devices of all processes.

  Args:
    data, fsdp, model: sizes of the axes; `data=None` means the number of
      devices divided by the other two.
    devices: the devices to use; by default all devices.

  Raises:
    InputError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else list(devices)
  count = len(devices)
  rest = count // max(1, fsdp * model)
  shape = (rest if data is None else data, fsdp, model)
  if min(shape) < 1 or math.prod(shape) != count:
    given = zip(AXES, (data, fsdp, model), strict=True)
    sizes = ', '.join(f'{k}={v}' for k, v in given if v is not None)
    *divisors, last = (str(n) for n in range(1, count + 1) if count % n == 0)
    choices = f'{", ".join(divisors)} or {last}' if divisors else last
    raise InputError(
      f'a mesh of {sizes} does not cover {count} devices; choose fsdp and '
      f'model whose product is {choices}, and leave data out (None), which '
      'then is the number of devices divided by it'
    )
  return jax.make_mesh(
    shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices
  )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of batches: `data` and `fsdp` divide axis 0."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_shards(mesh: Mesh) -> int:
  """Returns the number of parts into which a mesh divides a batch."""
  return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of an array with a whole copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


# Axes that divide the dimensions of a parameter, by the end of its path; the
# first match counts. `model` divides the heads of attention and the units of
# MLPs, which the third column names: the outputs of the first of two layers and
# the inputs of the second, so that their results are summed once
# (arXiv:1909.08053, section 3). `fsdp` divides the other large dimension.
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
# Rows of a tile. A TPU moves whole tiles, so that 10 rows cost as much as 16.
TILE = 8
# Stacked blocks. Axis 0 is never divided, because a scan takes one block of it
# at a time.
_STACKED = re.compile(r'(^|/)encoderblock/')


def parameter_sharding(tree: Any, mesh: Mesh) -> Any:
  """Returns the shardings of a tree of parameters or of a training state.

  Optimiser state and averages that repeat the parameters' tree get the same
  shardings, because their paths have the same ends. If the size of `fsdp` does
  not divide the dimension of its rule, or if there is no rule, `fsdp` divides
  the largest dimension that it can; dimensions whose parts are multiples of
  `TILE` have priority. Vectors (biases, norms, tokens) are small and are not
  divided. An array that no axis divides is whole on every device, see
  `unsharded_parameters`.

  Args:
    tree: arrays or shapes.
    mesh: the device mesh.

  Returns:
    A tree of NamedShardings.
  """

  def place(path, leaf):
    places = _places(_name(path), leaf.shape, mesh)
    return NamedSharding(mesh, PartitionSpec(*places))

  return jax.tree.map_with_path(place, tree)


def check_model_axis(params: Any, mesh: Mesh) -> None:
  """Refuses a `model` axis whose devices would all do the same work.

  Args:
    params: arrays or shapes of the parameters, without optimiser state.
    mesh: the device mesh.

  Raises:
    InputError: the size of the axis is above 1 and divides no parameter.
  """
  used, kept, _ = _division(params, mesh)
  model = mesh.shape['model']
  if model == 1 or 'model' in used:
    return
  what = 'a model without attention and MLP'
  if kept:
    what = ' or '.join(f'the {name}' for name in kept)
  raise InputError(
    f'config.mesh.model={model} does not divide {what}: {model} devices would '
    'each do the same work; choose a number that does, or use config.mesh.data '
    'or fsdp instead'
  )


def unsharded_parameters(params: Any, mesh: Mesh) -> list[str]:
  """Returns one warning per parameter group that the mesh cannot shard.

  Args:
    params: arrays or shapes of the parameters, without optimiser state.
    mesh: the device mesh.

  Returns:
    A list of lines: at most one for each number of heads or units, and one for
    `fsdp`. It is empty if the mesh shards every group.
  """
  model, fsdp = mesh.shape['model'], mesh.shape['fsdp']
  used, kept, whole = _division(params, mesh)
  lines = [
    f'model={model} does not divide the {what} of {", ".join(sorted(parts))}: '
    f'{model} devices hold them whole and each do all of their work'
    for what, parts in kept.items()
  ]
  if whole and 'fsdp' not in used:
    lines.append(
      f'fsdp={fsdp} divides no parameter: it divides the batch, as data does, '
      'and saves no memory'
    )
  elif whole:
    more = f' and {len(whole) - 3} more' if len(whole) > 3 else ''
    lines.append(
      f'fsdp={fsdp} divides no dimension of {", ".join(whole[:3])}{more}: each '
      'device holds them whole'
    )
  return lines


def _division(params, mesh):
  """Returns what the axes of a mesh divide and do not divide.

  Returns:
    The axes that divide a parameter; {'4 heads': {part, ...}} that `model`
    leaves whole; and the names of parameters that `fsdp` leaves whole.
  """
  used, kept, whole = set(), {}, []
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = _name(path)
    axes, what = _rule(name, leaf.shape)
    divided = {
      axis for axes in _places(name, leaf.shape, mesh) for axis in axes
    }
    used |= divided
    if 'model' in axes and 'model' not in divided:
      size = leaf.shape[axes.index('model')]
      part = re.sub('/(kernel|bias)$', '', name).rpartition('/')[2]
      kept.setdefault(f'{size} {what}', set()).add(part)
    if 'fsdp' in axes and 'fsdp' not in divided:
      whole.append(f'{name} {list(leaf.shape)}')
  return used, kept, whole


def local_device(mesh: Mesh) -> Any:
  """Returns a device of the mesh that this process owns, or its first device.

  This process owns no device of a mesh that a program is only compiled for.
  """
  devices = list(mesh.devices.flat)
  here = jax.process_index()
  return next((d for d in devices if d.process_index == here), devices[0])


def bytes_of(tree: Any) -> int:
  """Returns the bytes of a tree of arrays or shapes, counted once."""
  return sum(
    math.prod(leaf.shape) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def bytes_per_device(tree: Any) -> int:
  """Returns the bytes of a tree of arrays or sharded shapes on each device."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def parameter_axes(
  name: str, shape: Sequence[int], mesh: Mesh
) -> list[tuple[str, ...]]:
  """Returns the mesh axes that divide each dimension of a parameter.

  Args:
    name: path of the parameter, of keys with '/' between them.
    shape: shape of the parameter; of one block if blocks are stacked.
    mesh: the device mesh.
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
  places: list[tuple[str, ...]] = [()] * len(shape)
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


def put(tree: Any, shardings: Any) -> Any:
  """Places a tree on the devices by a tree of shardings.

  Every process must hold the whole tree.
  """

  def place(leaf, sharding):
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      data = place(np.asarray(jax.random.key_data(leaf)), sharding)
      return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    leaf = np.asarray(leaf)
    return jax.make_array_from_callback(
      leaf.shape, sharding, lambda index: leaf[index]
    )

  return jax.tree.map(place, tree, shardings)


def with_shardings(tree: Any, shardings: Any) -> Any:
  """Returns a tree's shapes (jax.ShapeDtypeStruct) with the given shardings."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    tree,
    shardings,
  )


def local_batch_multiple(mesh: Mesh) -> int:
  """Returns the number that divides each process's rows of a batch.

  Raises:
    InputError: the `model` axis crosses processes. They share rows then, so
      that no process can contribute rows of its own.
  """
  num_shards = batch_shards(mesh)
  shards = batch_sharding(mesh).addressable_devices_indices_map((num_shards,))
  starts = {index[0].start for index in shards.values() if index is not None}
  num_processes = len({d.process_index for d in mesh.devices.flat})
  num_local = len(starts)
  if num_local * num_processes != num_shards:
    raise InputError(
      f'a mesh of {dict(mesh.shape)} puts the same examples into several of '
      f'{num_processes} processes; choose a smaller model axis'
    )
  return num_local


def to_global(
  batch: Mapping[str, np.ndarray], mesh: Mesh
) -> dict[str, jax.Array]:
  """Puts each process's numpy batch on the mesh as part of one global batch.

  Args:
    batch: arrays [b, ...] of this process. b must be the same number in all
      processes and a multiple of `local_batch_multiple(mesh)`.
    mesh: the device mesh.

  Returns:
    Arrays [b * number of processes, ...] under the same keys.
  """
  sharding = batch_sharding(mesh)
  return {
    key: jax.make_array_from_process_local_data(sharding, value)
    for key, value in batch.items()
  }


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Copies a tree to every device; leaves that are on the mesh are kept."""
  devices = set(mesh.devices.flat)

  def put(leaf):
    if isinstance(leaf, jax.Array) and leaf.sharding.device_set == devices:
      return leaf
    return jax.device_put(np.asarray(leaf), replicated(mesh))

  return jax.tree.map(put, tree)
