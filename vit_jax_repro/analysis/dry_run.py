"""Memory and time bounds of a program, compiled for any hardware.

Nothing is computed and no parameters are made: a program is traced and
compiled from shapes, and what the compiler made of it is read.
"""

import collections
import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
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
from vit_jax_repro.parallel import chips
from vit_jax_repro.parallel import mesh as meshes

# How much longer an array of a collective may be than its parameter: XLA pads
# shards to its tiles.
_PADDED = 1.3
_TICK = 5.0  # seconds


@dataclasses.dataclass(frozen=True)
class Exchange:
  """The collectives of one kind over the same axes, in one step.

  Attributes:
    kind: such as 'all-gather'.
    axes: of the mesh, joined by '+'.
    dtype: of the arrays.
    number: how often one runs.
    bytes: of the whole arrays, on one device.
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
    memory: of one device; None: the compiler refused the program and did not
      say how much it needs.
    lower, compile: seconds that tracing and compiling took here.
    kernels: calls of library kernels in a step, by name.
    exchanges: what devices send each other; empty for one device.
    gathered: activations that cross the axes that divide the batch, such as
      'all-gather f32[512,197,768] over fsdp'.
    wide_products: the part of all multiply-adds that is float32.
    undivided: arrays of one device with a row for every image of the batch,
      such as 'f32[512,197,768]', where several devices divide it.
    bound: None where the chip has no row in the table.
  """

  memory: memory.Memory | None
  lower: float
  compile: float
  kernels: dict[str, int] = dataclasses.field(default_factory=dict)
  exchanges: tuple[Exchange, ...] = ()
  gathered: tuple[str, ...] = ()
  wide_products: float = 0.0
  undivided: tuple[str, ...] = ()
  bound: roofline.Bound | None = None

  @property
  def attention_kernels(self) -> tuple[int, int]:
    """Calls of cuDNN's attention, forward and backward."""
    backward = sum(
      n for name, n in self.kernels.items() if _is_attention(name, True)
    )
    forward = sum(
      n for name, n in self.kernels.items() if _is_attention(name, False)
    )
    return forward, backward

  def fits(self, limit: int | None, needed: int | None = None) -> bool:
    """Returns whether the program was compiled and keeps to a limit.

    Args:
      limit: bytes of a device; None: there is none.
      needed: bytes of a device; None: those of the program.
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
  show: Callable[[float], None],
) -> Analysis:
  """Compiles a jitted function for the devices of a mesh and reads the result.

  Args:
    function: jitted.
    arguments: shapes with shardings on the mesh.
    mesh: of devices that need not exist.
    params: shapes of the parameters, which may cross all axes.
    images: of a step, over all devices.
    parts: that they are computed in, one after the other.
    model_operations: floating-point operations of the model in a step, without
      what is computed twice.
    dtype: of the computation.
    show: called with the seconds that have passed, at the beginning and every
      few seconds: large programs compile for a minute.
  """
  with _ticking(show):
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
  """Lists arrays with `whole` rows, unless a parameter has such a size."""
  if meshes.batch_shards(mesh) == 1:
    return ()
  sizes = {side for leaf in jax.tree.leaves(params) for side in leaf.shape}
  found = {
    f'{array.dtype}[{",".join(map(str, array.shape))}]'
    for array in program.arrays()
    if len(array.shape) > 1 and (set(array.shape) & set(whole)) - sizes
  }
  return tuple(sorted(found))


@contextlib.contextmanager
def _ticking(show):
  """Calls `show` with the seconds that have passed until the block ends."""
  started, ended = time.perf_counter(), threading.Event()

  def tick():
    while not ended.wait(_TICK):
      show(time.perf_counter() - started)

  show(0.0)
  thread = threading.Thread(target=tick, daemon=True)
  thread.start()
  try:
    yield
  finally:
    ended.set()
    thread.join()


@contextlib.contextmanager
def without_cache() -> Iterator[None]:
  """Turns the persistent compilation cache off inside the block.

  A program for devices that are not there can be written to it, not read.
  """
  from jax.experimental.compilation_cache import compilation_cache

  before = jax.config.jax_enable_compilation_cache
  jax.config.update('jax_enable_compilation_cache', False)
  compilation_cache.reset_cache()  # JAX asks for the setting once
  try:
    yield
  finally:
    jax.config.update('jax_enable_compilation_cache', before)
    compilation_cache.reset_cache()


def largest(number: int, fits: Callable[[int], bool]) -> int:
  """Doubles a number while it fits, or halves it until it does.

  Returns:
    The largest number tried that fits; 0: none does.
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
  """Returns the bytes that JAX takes of a device, and what a run may use.

  A device of this machine reports its own; of another the table has it.
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
  """Describes what crosses the batch's axes and is no parameter.

  A parameter, or the block of it that a loop takes, is known by its number of
  elements; one that is gathered in stages, by what its first stage gives; one
  whose gradient is summed over data alone, by its fsdp shard. Flat arrays hold
  several gradients, and arrays smaller than one number for each row of a
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
  """Returns a dataclass for JSON, with the derived figures of its analyses."""
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
