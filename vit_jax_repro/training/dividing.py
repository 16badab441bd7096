"""Data-parallel and fully sharded computation over the rows of a batch.

Left to itself, XLA sums the gradients of a bfloat16 layer over devices in
bfloat16, and it shards activations like the sharded parameters. Here, each
device instead runs a layer as if it were alone, on its own rows of the batch,
and the collectives between devices are explicit.

Traffic of a bfloat16 model, for each parameter that `fsdp` shards and each
part of a batch (`accum_steps`): a gather of 2 bytes in the forward pass,
another in the backward pass, and a scatter of a gradient of 4 bytes (float32)
or 2 (bfloat16). With `data` alone, gradients of 4 or 2 bytes are summed, which
moves twice as much. XLA does this sum once for all parts if the blocks are not
scanned.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vit_jax_repro.models.transformer import DIVIDED_PRODUCT
from vit_jax_repro.parallel import mesh as mesh_lib
from vit_jax_repro.parallel.mesh import BATCH_AXES

# Layers that compute each row of the output from one row of the input. A
# module of this package that does the same with other parameters has a method
# `by_rows(params, x)`, which depends only on its arguments and the module's
# fields.
_LAYERS = (nn.Dense, nn.DenseGeneral, nn.Conv)
# XLA's TPU compiler replaces a gather over more than 32 or 64 chips by a sum
# of zero-padded arrays, which moves twice the bytes (v4, v5p, v5e, v6e).
_AT_ONCE, _NEAR = 32, 8


def divide_work(
  function: Callable, mesh: Mesh, *, grad_reduce_dtype: str = 'float32'
) -> Callable:
  """Returns the function with its work divided over the rows of the batch.

  The output of every flax module with one row per example is constrained to
  the sharding of the batch on its first dimension; XLA chooses the sharding of
  its other dimensions. Values change only by rounding.

  Args:
    function: (params, batch, ...) -> anything; applies flax modules.
    mesh: the devices. With a single device the function is returned unchanged.
    grad_reduce_dtype: dtype in which gradients are summed over devices. A
      layer that computes in a wider dtype sums in that one.
  """
  if mesh.size == 1:
    return function

  def divided(params, batch, *more):
    size = jax.tree.leaves(batch)[0].shape[0]

    def has_rows(x):
      return getattr(x, 'ndim', 0) > 1 and x.shape[0] == size

    def hold(x):
      if not has_rows(x):
        return x
      rest = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1)
      spec = PartitionSpec(BATCH_AXES, *rest)
      return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    def intercept(method, args, kwargs, context):
      layer = _layer(context, args)
      if layer is None:
        result = method(*args, **kwargs)
        if args and has_rows(args[0]):
          result = _repeated(result, args[0].shape)
        return jax.tree.map(hold, result)
      module, apply, own, x = layer
      if not module.path:  # called by `_exchange`, where arrays are local
        return method(*args, **kwargs)
      if not has_rows(x) or size % mesh_lib.batch_shards(mesh):
        return jax.tree.map(hold, method(*args, **kwargs))
      places = {
        name: mesh_lib.parameter_axes(
          '/'.join((*module.path, name)), leaf.shape, mesh
        )
        for name, leaf in own.items()
      }
      run = _exchange(apply, places, module.dtype, grad_reduce_dtype, mesh)
      result = hold(run(own, x))
      if isinstance(module, _LAYERS):
        result = checkpoint_name(result, DIVIDED_PRODUCT)
      return result

    with nn.intercept_methods(intercept):
      return function(params, batch, *more)

  return divided


def _layer(context, args):
  """Returns (module, (params, x) -> rows, params, x); None if not a layer."""
  module, name = context.module, context.method_name
  if name == 'by_rows':
    alone = module.clone(parent=None)
    own, x = args
    return module, lambda p, x: alone.apply({}, p, x, method=name), own, x
  if isinstance(module, _LAYERS) and name == '__call__':
    alone = module.clone(parent=None)
    own, x = module.variables['params'], args[0]
    return module, lambda p, x: alone.apply({'params': p}, x), own, x
  return None


def _repeated(result, shape):
  """Broadcasts an output shared by all rows, such as position embeddings.

  Otherwise its gradient would be summed over rows and devices in the dtype of
  the rows.
  """
  if getattr(result, 'shape', None) == (1, *shape[1:]):
    return jnp.broadcast_to(result, shape)
  return result


def _exchange(apply, places, dtype, grad_reduce_dtype, mesh):
  """Returns (params, x) -> rows that runs on each device's own rows.

  Args:
    apply: the same function on one device.
    places: for each parameter, the mesh axes of its dimensions; see
      `mesh.parameter_axes`.
    dtype: dtype to which the layer casts parameters, or None.
    grad_reduce_dtype: see `divide_work`.
    mesh: the devices.
  """
  stages = _stages(mesh)
  rows, whole = PartitionSpec(BATCH_AXES), PartitionSpec()
  specs = {n: PartitionSpec(*axes) for n, axes in places.items()}
  gathered = {n: _without_fsdp(axes) for n, axes in places.items()}
  apart = {n: PartitionSpec(BATCH_AXES, *spec) for n, spec in gathered.items()}
  dimensions = {n: _fsdp_dimension(axes, mesh) for n, axes in places.items()}
  on_mesh = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
  # XLA divides the work of a layer over `model`, so that axis is not manual.
  manual = set(mesh.axis_names) if mesh.shape['model'] == 1 else set(BATCH_AXES)
  on_rows = functools.partial(on_mesh, axis_names=manual)

  def gather_one(part, d):
    part = part.astype(dtype or part.dtype)
    for groups in () if d is None else stages:
      part = jax.lax.all_gather(
        part, 'fsdp', axis=d, tiled=True, axis_index_groups=groups
      )
    return part

  def scatter_one(gradient, d):
    gradient = gradient[0]
    wide = jnp.promote_types(gradient.dtype, grad_reduce_dtype)
    gradient = gradient.astype(wide)
    if d is None:
      return jax.lax.psum(gradient, BATCH_AXES)
    # TPUs scatter parts of any width along the first dimension, but only whole
    # tiles along the last ones.
    gradient = jnp.moveaxis(gradient, d, 0)
    for groups in reversed(stages):
      gradient = jax.lax.psum_scatter(
        gradient, 'fsdp', tiled=True, axis_index_groups=groups
      )
    return jnp.moveaxis(jax.lax.psum(gradient, 'data'), 0, d)

  @functools.partial(on_mesh, in_specs=(specs,), out_specs=gathered)
  def gather(params):
    return {n: gather_one(p, dimensions[n]) for n, p in params.items()}

  @functools.partial(on_mesh, in_specs=(apart,), out_specs=specs)
  def scatter(gradients):
    return {n: scatter_one(g, dimensions[n]) for n, g in gradients.items()}

  forward = on_rows(apply, in_specs=(whole, rows), out_specs=rows)

  @functools.partial(on_rows, in_specs=(whole, rows, rows), out_specs=rows)
  def backward(params, x, cotangent):
    gradients, of_x = jax.vjp(apply, params, x)[1](cotangent)
    # A new first axis keeps the gradients of each device's rows apart.
    return jax.tree.map(lambda g: g[None], gradients), of_x

  @jax.custom_vjp
  def run(params, x):
    return forward(gather(params), x)

  def pull(kept, cotangent):
    # Gathers the parameters a second time. If blocks are neither scanned nor
    # rematerialised, XLA may recognise the repetition and keep the first copy.
    params, x = kept
    gradients, of_x = backward(gather(params), x, cotangent)
    gradients = scatter(gradients)
    return {n: g.astype(params[n].dtype) for n, g in gradients.items()}, of_x

  run.defvjp(lambda params, x: (run(params, x), (params, x)), pull)
  return run


def _fsdp_dimension(places, mesh):
  """Returns the dimension that `fsdp` shards, or None."""
  if mesh.shape['fsdp'] == 1:
    return None
  return next((d for d, axes in enumerate(places) if 'fsdp' in axes), None)


def _without_fsdp(places):
  """Returns the partition spec of an array after its gather over `fsdp`."""
  return PartitionSpec(
    *(tuple(axis for axis in axes if axis != 'fsdp') for axes in places)
  )


def _stages(mesh: Mesh) -> tuple[Any, ...]:
  """Returns the groups of `fsdp` indices of each successive gather stage."""
  size = mesh.shape['fsdp']
  tpu = mesh.devices.flat[0].platform == 'tpu'
  if not tpu or size <= _AT_ONCE or size % _NEAR:
    return (None,)  # a single stage over all indices
  near = [list(range(i, i + _NEAR)) for i in range(0, size, _NEAR)]
  far = [list(group) for group in zip(*near, strict=True)]
  return near, far
