"""Work divided over a mesh: rows of the batch, and what layers exchange.

Left to itself XLA sums the gradients of a bfloat16 layer over devices in
bfloat16, and takes divided parameters for what activations should lie like. So
a layer runs as on one device, on its rows of the batch, with what it exchanges
written out. For each parameter that `fsdp` divides and each part of a batch
(`accum_steps`) a bfloat16 model gathers 2 bytes in the forward pass and 2 in
the backward pass, and scatters a gradient of 4 (float32) or 2 (bfloat16). With
`data` alone it sums 4 or 2, which moves twice as much; where blocks are not
scanned, XLA does so once for all parts.
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

# Layers that make each row of one row. A module of ours that does so with
# other parameters has a method `by_rows(params, x)`, which looks at its
# arguments and the module's fields alone.
_LAYERS = (nn.Dense, nn.DenseGeneral, nn.Conv)
# XLA's TPU compiler makes of a gather over more than 32 or 64 chips a sum of
# arrays padded with zeros: twice the bytes (v4, v5p, v5e, v6e).
_AT_ONCE, _NEAR = 32, 8


def divide_work(
  function: Callable, mesh: Mesh, *, grad_reduce_dtype: str = 'float32'
) -> Callable:
  """Makes a function of a batch that devices share as the batch lies.

  The result of every flax module that has a row for each example is held to
  the rows being divided; its other dimensions are XLA's to choose. Values are
  changed by rounding alone.

  Args:
    function: (params, batch, ...) -> anything; applies flax modules.
    mesh: of one device leaves the function as it is.
    grad_reduce_dtype: what gradients are summed over devices in, or the dtype
      that a layer computes in where that is wider.
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
      if not module.path:  # within `_exchange`, where arrays are local
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
  """(module, (params, x) -> rows, params, x) of a call of a layer, or None."""
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
  """Repeats what a module makes once for all rows, such as positions.

  Else its gradient would be summed over rows and devices in the rows' dtype.
  """
  if getattr(result, 'shape', None) == (1, *shape[1:]):
    return jnp.broadcast_to(result, shape)
  return result


def _exchange(apply, places, dtype, grad_reduce_dtype, mesh):
  """(params, x) -> rows, each device on its rows.

  Args:
    apply: the same on one device.
    places: of each parameter, see `mesh.parameter_axes`.
    dtype: that the layer casts parameters to, or None.
  """
  stages = _stages(mesh)
  rows, whole = PartitionSpec(BATCH_AXES), PartitionSpec()
  specs = {n: PartitionSpec(*axes) for n, axes in places.items()}
  gathered = {n: _without_fsdp(axes) for n, axes in places.items()}
  apart = {n: PartitionSpec(BATCH_AXES, *spec) for n, spec in gathered.items()}
  dimensions = {n: _fsdp_dimension(axes, mesh) for n, axes in places.items()}
  on_mesh = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
  # What a layer does is divided over `model` by XLA.
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
    # Of the first dimension TPUs take parts of any width, of the last ones
    # whole tiles alone.
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
    # Those of each device's rows, one after the other on a new first axis.
    return jax.tree.map(lambda g: g[None], gradients), of_x

  @jax.custom_vjp
  def run(params, x):
    return forward(gather(params), x)

  def pull(kept, cotangent):
    # Gathered again; XLA may see that it is the same and keep it, where blocks
    # are neither scanned nor rematerialised.
    params, x = kept
    gradients, of_x = backward(gather(params), x, cotangent)
    gradients = scatter(gradients)
    return {n: g.astype(params[n].dtype) for n, g in gradients.items()}, of_x

  run.defvjp(lambda params, x: (run(params, x), (params, x)), pull)
  return run


def _fsdp_dimension(places, mesh):
  """What there is to gather of an array that lies so, or None."""
  if mesh.shape['fsdp'] == 1:
    return None
  return next((d for d, axes in enumerate(places) if 'fsdp' in axes), None)


def _without_fsdp(places):
  return PartitionSpec(
    *(tuple(axis for axis in axes if axis != 'fsdp') for axes in places)
  )


def _stages(mesh: Mesh) -> tuple[Any, ...]:
  """Groups of places on `fsdp` to gather over, one stage after the other."""
  size = mesh.shape['fsdp']
  tpu = mesh.devices.flat[0].platform == 'tpu'
  if not tpu or size <= _AT_ONCE or size % _NEAR:
    return (None,)  # all at once
  near = [list(range(i, i + _NEAR)) for i in range(0, size, _NEAR)]
  far = [list(group) for group in zip(*near, strict=True)]
  return near, far
