"""Memory and time bounds of a program, compiled for any hardware.

The program is traced and compiled from shapes, and the text of the compiled
program is analysed. Nothing is computed, and no parameters are allocated.
"""

import collections
import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax
import numpy as np

from vit_jax_repro.analysis import (
  collectives,
  cost,
  hlo,
  memory,
  roofline,
  traffic,
)
from vit_jax_repro.output import waiting
from vit_jax_repro.parallel import chips
from vit_jax_repro.parallel import mesh as meshes

# Largest ratio of an array in a collective to its parameter: XLA pads shards to
# tiles.
_PADDED = 1.3
# Smallest batch that is recognised by its size. XLA cuts the images of a small
# batch into as many blocks as devices.
_RECOGNISABLE = 64


@dataclasses.dataclass(frozen=True)
class Exchange:
  """The collectives of one kind over the same axes, in one step.

  Attributes:
    kind: name of the collective, such as 'all-gather'.
    axes: axes of the mesh, joined by '+'.
    dtype: dtype of the arrays.
    number: number of executions.
    bytes: bytes of the whole arrays, on one device.
  """

  kind: str
  axes: str
  dtype: str
  number: int
  bytes: int


@dataclasses.dataclass(frozen=True)
class Analysis:
  """Memory, traffic and exchanges of a compiled program.

  Attributes:
    memory: memory of one device; None if the compiler refused the program
      without giving a number.
    lower, compile: seconds that tracing and compiling took.
    kernels: {name of a library kernel: its calls in a step}.
    exchanges: collectives between devices; empty for one device.
    gathered: activations that cross the axes that divide the batch, such as
      'all-gather f32[512,197,768] over fsdp'.
    wide_products: float32's part of all multiply-adds.
    undivided: arrays of one device with a row for every image of the batch,
      such as 'f32[512,197,768]', although several devices divide the batch.
      None if the batch is too small to be recognised by its size.
    bound: lower bound of the time; None if the chip is not in the table.
  """

  memory: memory.Memory | None
  lower: float
  compile: float
  kernels: dict[str, int] = dataclasses.field(default_factory=dict)
  exchanges: tuple[Exchange, ...] = ()
  gathered: tuple[str, ...] = ()
  wide_products: float = 0.0
  undivided: tuple[str, ...] | None = ()
  bound: roofline.Bound | None = None

  @property
  def attention_kernels(self) -> tuple[int, int]:
    """Returns the calls of cuDNN's attention, forward and backward."""
    backward = sum(
      n for name, n in self.kernels.items() if _is_attention(name, True)
    )
    forward = sum(
      n for name, n in self.kernels.items() if _is_attention(name, False)
    )
    return forward, backward

  def fits(self, limit: int | None, needed: int | None = None) -> bool:
    """Returns whether the program was compiled and its memory is in a limit.

    Args:
      limit: bytes of a device that may be used; None for no limit.
      needed: bytes of a device that are needed; by default the bytes of the
        program.
    """
    if self.memory is None or self.memory.is_refused:
      return False
    needed = self.memory.total if needed is None else needed
    return limit is None or needed <= limit


def analyse(
  function: Callable,
  arguments: Sequence[Any],
  *,
  mesh: jax.sharding.Mesh,
  params: Any,
  images: int,
  parts: int,
  model_operations: float,
  dtype: str,
  name: str,
) -> Analysis:
  """Compiles a jitted function for the devices of a mesh and analyses it.

  Args:
    function: a jitted function.
    arguments: shapes with shardings on the mesh.
    mesh: a mesh of devices, which need not exist.
    params: shapes of the parameters, which may cross all axes.
    images: images of a step, over all devices.
    parts: number of parts in which they are computed, one after the other.
    model_operations: floating-point operations of the model in a step, without
      recomputed ones.
    dtype: dtype of the computation.
    name: of the program, for the line that shows while it is compiled.
  """
  with waiting.doing(f'compiling {name}'):
    return _analyse(
      function,
      arguments,
      mesh,
      params,
      images,
      parts,
      model_operations,
      dtype,
    )


def _analyse(
  function, arguments, mesh, params, images, parts, operations, dtype
):
  started = time.perf_counter()
  traced = function.trace(*arguments)
  lowered = traced.lower()
  between = time.perf_counter()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    seconds = time.perf_counter() - between
    return Analysis(
      memory.memory_of_refused(str(error)), between - started, seconds
    )
  ended = time.perf_counter()
  program = hlo.HloModule(compiled.as_text())
  products = cost.products(traced.jaxpr)
  devices = list(mesh.devices.flat)
  exchanged = collectives.find(program, dict(mesh.shape))
  chip = chips.chip_of(devices[0].device_kind)
  wide = sum(n for name, n in products.items() if name == 'float32')
  return Analysis(
    memory=memory.memory_of(compiled),
    lower=between - started,
    compile=ended - between,
    kernels=dict(program.custom_calls()),
    exchanges=_exchanges(exchanged),
    gathered=tuple(dict.fromkeys(_gathered(exchanged, params, mesh, images))),
    wide_products=wide / max(1, sum(products.values())),
    undivided=_undivided(program, params, mesh, (images, images // parts)),
    bound=None
    if chip is None
    else roofline.bound(
      products=products,
      traffic=traffic.total(program),
      collectives=exchanged,
      devices=devices,
      chip=chip,
      images=images,
      model_operations=operations,
      dtype=dtype,
    ),
  )


def _undivided(program, params, mesh, whole):
  """Lists arrays of a program that hold the whole batch on every device.

  An array is recognised by a dimension in `whole`, the numbers of rows of the
  whole batch. Dimensions that parameters have, too, are ignored.

  Returns:
    Their dtypes and shapes; None if `whole` has a number that widths of images,
    of windows and of blocks have, too.
  """
  if meshes.batch_shards(mesh) == 1:
    return ()
  if min(whole) < _RECOGNISABLE:
    return None
  sizes = {side for leaf in jax.tree.leaves(params) for side in leaf.shape}
  found = {
    f'{array.dtype}[{",".join(map(str, array.shape))}]'
    for array in program.arrays()
    if len(array.shape) > 1 and (set(array.shape) & set(whole)) - sizes
  }
  return tuple(sorted(found))


@contextlib.contextmanager
def without_cache() -> Generator[None]:
  """Turns the persistent compilation cache off inside the block.

  JAX can write a program for absent devices to the cache, but not read it.
  """
  from jax.experimental.compilation_cache import compilation_cache

  config: Any = jax.config  # options become attributes at run time
  before = config.jax_enable_compilation_cache
  jax.config.update('jax_enable_compilation_cache', False)
  compilation_cache.reset_cache()  # JAX reads the setting only once
  try:
    yield
  finally:
    jax.config.update('jax_enable_compilation_cache', before)
    compilation_cache.reset_cache()


def largest(number: int, fits: Callable[[int], bool]) -> int:
  """Doubles a number while it fits, or halves it until it fits.

  Returns:
    The largest tried number that fits; 0 if none fits.
  """
  if fits(number):
    while fits(2 * number):
      number *= 2
    return number
  while number := number // 2:
    if fits(number):
      return number
  return 0


def limits(device: Any) -> tuple[int | None, int | None]:
  """Returns the bytes of a device that JAX reserves and that a run may use.

  A device of this machine reports its memory; for others the table of
  accelerators is used. Both are None if unknown.
  """
  chip = chips.chip_of(getattr(device, 'device_kind', ''))
  if _is_here(device):
    return memory.limit(device), memory.usable(device)
  if chip is None:
    return None, None
  return chip.usable(), int(memory.USABLE * chip.usable())


def _is_here(device):
  return type(device.client).__name__ != 'CompileOnlyPyClient'


def _is_attention(name, backward):
  return 'fmha' in name.lower() and ('backward' in name.lower()) == backward


def _exchanges(exchanged) -> tuple[Exchange, ...]:
  number, size = collections.Counter(), collections.Counter()
  for each in exchanged:
    dtypes = collections.Counter()
    for array in each.arrays:
      dtypes[array.dtype] += array.bytes
    for dtype, part in dtypes.items():
      key = each.kind, '+'.join(each.axes), dtype
      number[key] += each.times
      size[key] += each.times * part
  return tuple(
    Exchange(*key, number[key], size[key])
    for key in sorted(size, key=lambda key: -size[key])
  )


def _gathered(exchanged, params, mesh, images):
  """Yields descriptions of activations that cross the axes of the batch.

  Arrays are distinguished by their numbers of elements. A parameter has the
  number of the whole parameter or of the block of it that a loop uses. If it is
  gathered in stages, it has the number of the first stage's result; if its
  gradient is summed over data only, the number of its fsdp shard. Flat arrays
  hold several gradients. Arrays smaller than one number for each row of a
  device are sums.
  """
  rows = images // meshes.batch_shards(mesh)
  sizes = set()
  for leaf in jax.tree.leaves(params):
    for size in (leaf.size, leaf.size // (leaf.shape or (1,))[0]):
      sizes |= {size, size // mesh.shape['model']}
  ordered = np.array(sorted(sizes))
  for each in exchanged:
    if not set(each.axes) & {'data', 'fsdp'}:
      continue
    if each.kind == 'collective-permute':
      continue  # pieces of a gather, or the partners of mixing
    devices = math.prod(mesh.shape[axis] for axis in each.axes)
    stages = {1, devices // len(each.group)}
    if 'fsdp' not in each.axes:
      stages.add(mesh.shape['fsdp'])
    for array in each.arrays:
      shape = [side for side in array.shape if side > 1]
      is_parameter = any(
        ((ordered <= size) & (size <= _PADDED * ordered)).any()
        for size in (stage * array.size for stage in stages)
      )
      if len(shape) < 2 or is_parameter or array.size <= rows * shape[-1]:
        continue
      sides = ','.join(map(str, array.shape))
      where = '+'.join(each.axes)
      yield f'{each.kind} {array.dtype}[{sides}] over {where}'


def as_dict(found: Any) -> Any:
  """Returns dataclasses as dicts for JSON, with some derived properties."""
  if isinstance(found, list | tuple):
    return [as_dict(each) for each in found]
  if not dataclasses.is_dataclass(found):
    return found
  values = {
    field.name: as_dict(getattr(found, field.name))
    for field in dataclasses.fields(found)
  }
  derived = {
    memory.Memory: ('total',),
    roofline.Bound: ('seconds', 'limited_by'),
    Analysis: ('attention_kernels',),
  }.get(type(found), ())
  return values | {name: as_dict(getattr(found, name)) for name in derived}
