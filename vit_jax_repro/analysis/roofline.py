"""The least time that a compiled program can take on its devices.

A roofline (Williams et al., CACM 52(4), 2009) with a third roof for the links:
a step takes at least as long as its operations at the peak, its bytes at the
bandwidth of the memory, and its exchanges at that of the links. All three may
overlap, so the bound is the largest.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax_repro.analysis.collectives import Collective
from vit_jax_repro.errors import InputError
from vit_jax_repro.parallel import chips

LINKS = (
  'links: ring algorithms; a TPU uses a port towards each neighbour in the '
  'group, a card all its NVLinks to the others of its host and its network '
  'adapter to other hosts; what can overlap counts as its maximum'
)


@dataclasses.dataclass(frozen=True)
class Bound:
  """Bounds of one step, in seconds.

  Attributes:
    compute: products at the peak of their dtype.
    memory: bytes read and written at the bandwidth of the memory.
    links: exchanges between devices, one after the other.
    operations: of the products that one device computes, recomputed ones too.
    traffic: bytes that one device reads and writes, see `traffic.total`.
    images_per_sec: at most, of one device.
    utilisation: at most, of the operations of the model alone.
  """

  compute: float
  memory: float
  links: float
  operations: float
  traffic: int
  images_per_sec: float
  utilisation: float

  @property
  def seconds(self) -> float:
    """The least time of a step."""
    return max(self.compute, self.memory, self.links)

  @property
  def limited_by(self) -> str:
    """The roof that is lowest: 'compute', 'memory' or 'links'."""
    return max(('compute', 'memory', 'links'), key=lambda k: getattr(self, k))


def bound(
  *,
  products: Mapping[str, int],
  traffic: int,
  collectives: Sequence[Collective],
  devices: Sequence[Any],
  chip: chips.Chip,
  images: int,
  model_operations: float,
  dtype: str,
) -> Bound:
  """Bounds a step from what its program computes, moves and exchanges.

  Args:
    products: multiply-adds by dtype over all devices, see `cost.products`.
    traffic: bytes that one device reads and writes.
    collectives: of the compiled program.
    devices: of the mesh, in its order.
    chip: their row in the table of accelerators.
    images: of a step, over all devices.
    model_operations: of a step over all devices, without recomputed ones.
    dtype: of the computation, whose peak utilisation is a part of.
  """
  number = len(devices)
  compute = sum(
    2 * count / number / chip.peak('float32' if _is_wide(name) else 'bfloat16')
    for name, count in products.items()
  )
  links = sum(
    each.times
    * exchange_seconds(
      chip,
      [devices[i] for i in each.group],
      kind=each.kind,
      payload=each.payload / each.times,
    )
    for each in collectives
  )
  memory = traffic / (chip.bandwidth * 1e9)
  seconds = max(compute, memory, links)
  peak = chip.peak('float32' if _is_wide(dtype) else 'bfloat16')
  return Bound(
    compute=compute,
    memory=memory,
    links=links,
    operations=2 * sum(products.values()) / number,
    traffic=traffic,
    images_per_sec=images / number / seconds,
    # The model's operations include gradients of images, which XLA leaves out.
    utilisation=min(1.0, model_operations / number / seconds / peak),
  )


def exchange_seconds(
  chip: chips.Chip, devices: Sequence[Any], *, kind: str, payload: float
) -> float:
  """Bounds from below the time of one exchange between devices.

  A ring gather or scatter sends all parts but one from each device, an
  all-reduce twice that, a permutation its array. On a TPU slice the chips of
  the group form a torus: a side of two chips is one port of each, a longer one
  two. Cards of several hosts first exchange within their host, so that each
  sends its part to the other hosts.

  Args:
    chip: of the devices.
    devices: of one group, as `Target.devices` gives them.
    kind: an XLA collective, such as 'all-reduce'.
    payload: bytes of the whole array; of a permutation what a device sends.
  """

  def sent(size: float, number: int) -> float:
    if kind == 'collective-permute':
      return size
    passes = 2 if kind == 'all-reduce' else 1
    return passes * size * (number - 1) / number

  number = len(devices)
  if chip.is_tpu:
    places = np.array([device.coords for device in devices])  # [devices, 3]
    ports = sum(min(len(set(side)) - 1, 2) for side in places.T.tolist())
    if not ports:
      return 0.0  # cores of one chip
    shared = chip.devices_per_chip  # which share the chip's ports
    return shared * sent(payload, number) / (ports * chip.link * 1e9)
  hosts = len({device.process_index for device in devices})
  within = sent(payload, number) / (chip.link * 1e9)
  if hosts == 1:
    return within
  if chip.network is None:
    raise InputError(f'no bandwidth between hosts is known for {chip.name}')
  share = payload * hosts / number  # that a card sends to other hosts
  return max(within, sent(share, hosts) / (chip.network * 1e9))


def _is_wide(dtype):
  return dtype in ('float32', 'float64')
