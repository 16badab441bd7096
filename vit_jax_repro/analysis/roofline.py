"""Lower bound of the time that a compiled program takes on its devices.

This is a roofline (Williams et al., CACM 52(4), 2009) with a third roof for the
links. A step takes at least as long as its operations at the peak, its bytes at
the bandwidth of the memory, and its exchanges at the bandwidth of the links.
All three may overlap, so the bound is the largest of the three.
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
  """Lower bounds of the time of one step.

  Attributes:
    compute: seconds for the products at the peak of their dtype.
    memory: seconds for the traffic at the bandwidth of the memory.
    links: seconds for the exchanges between devices, one after the other.
    operations: floating-point operations in the products that one device
      computes, including recomputed ones.
    traffic: bytes that one device reads and writes, see `traffic.total`.
    images_per_sec: upper bound of the images per second of one device.
    utilisation: upper bound of the model's operations, without recomputed
      ones, as a part of the peak.
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
    """Returns the lower bound of the time of a step in seconds."""
    return max(self.compute, self.memory, self.links)

  @property
  def limited_by(self) -> str:
    """Returns the limit that bounds the step: compute, memory or links."""
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
  """Bounds a step by the products, traffic and collectives of its program.

  Args:
    products: {dtype: multiply-adds} over all devices, see `cost.products`.
    traffic: bytes that one device reads and writes.
    collectives: collectives of the compiled program.
    devices: devices of the mesh, in its order.
    chip: their row in the table of accelerators.
    images: images of a step, over all devices.
    model_operations: operations of a step over all devices, without recomputed
      ones.
    dtype: dtype of the computation; its peak is the base of `utilisation`.
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
    # min: the model's operations include the gradients of the images, which
    # XLA does not compute.
    utilisation=min(1.0, model_operations / number / seconds / peak),
  )


def exchange_seconds(
  chip: chips.Chip, devices: Sequence[Any], *, kind: str, payload: float
) -> float:
  """Returns a lower bound of the seconds of one exchange between devices.

  In a ring gather or scatter each device sends all parts but one, in an
  all-reduce twice as much, in a permutation its array. The chips of a TPU slice
  form a torus: along a side of two chips each uses one port, along a longer
  side two. Cards of several hosts first exchange within their host, so that
  each card sends its part to the other hosts.

  Args:
    chip: the type of the devices.
    devices: the devices of one group, as from `Target.devices`.
    kind: an XLA collective, such as 'all-reduce'.
    payload: bytes of the whole array; for a permutation, bytes that a device
      sends.
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
    shared = chip.devices_per_chip  # devices that share the chip's ports
    return shared * sent(payload, number) / (ports * chip.link * 1e9)
  hosts = len({device.process_index for device in devices})
  within = sent(payload, number) / (chip.link * 1e9)
  if hosts == 1:
    return within
  if chip.network is None:
    raise InputError(f'no bandwidth between hosts is known for {chip.name}')
  share = payload * hosts / number  # bytes that a card sends to other hosts
  return max(within, sent(share, hosts) / (chip.network * 1e9))


def _is_wide(dtype):
  return dtype in ('float32', 'float64')
