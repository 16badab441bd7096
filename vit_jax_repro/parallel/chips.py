"""Accelerators: peaks, memory and links, as the makers publish them.

All figures are for one JAX device: half a chip of TPU v2, v3 and v7x, one chip
of the other TPUs, one GPU card. Units are 1e12 FLOP/s, GiB, and 1e9 bytes per
second in one direction.
"""

import dataclasses
import os
import re
from typing import Any

from vit_jax_repro.errors import InputError

GIB = 2**30
# Part of a card that JAX takes by default (docs.jax.dev, GPU memory
# allocation); XLA_PYTHON_CLIENT_MEM_FRACTION is another part.
_FRACTION = 0.75
_TWO_DEVICES = ('v2', 'v3', 'v7x')  # chips that JAX counts as two devices


@dataclasses.dataclass(frozen=True)
class Chip:
  """One row of the table of accelerators.

  Attributes:
    name: the name for the flag `--target`.
    kinds: strings of which `device_kind` in JAX contains one.
    bfloat16: peak of dense bfloat16 products with float32 sums, or that of
      float16 products if `has_bfloat16` is False.
    float32: peak of float32 products with JAX's default precision: bfloat16
      passes on TPUs, TensorFloat-32 on NVIDIA cards since Ampere.
    memory: capacity in GiB; for a TPU the part that its runtime leaves to
      programs.
    bandwidth: bandwidth of that memory.
    link: bandwidth of one port to a neighbouring chip (TPU), of all NVLinks of
      a card to the switch or its peers, or of PCI Express without NVLink.
    network: bandwidth to another host or slice; None if no standard machine
      has such a network.
    source: origin of the figures.
    has_bfloat16: whether it has units for bfloat16 products.
    fixed: properties of an NVIDIA card that XLA needs to compile for it, see
      `targets._CARD`; None if unknown.
  """

  name: str
  kinds: tuple[str, ...]
  bfloat16: float
  float32: float
  memory: float
  bandwidth: float
  link: float
  network: float | None
  source: str
  has_bfloat16: bool = True
  fixed: tuple | None = None

  @property
  def is_tpu(self) -> bool:
    """Returns whether the chip is a TPU; all others are NVIDIA cards."""
    return self.name.startswith('v') and self.name != 'v100'

  @property
  def can_be_compiled_for(self) -> bool:
    """Returns whether a machine without the chip can compile for it."""
    return self.is_tpu or self.fixed is not None

  @property
  def devices_per_chip(self) -> int:
    """Returns the number of devices that JAX counts for a chip."""
    return 2 if self.name in _TWO_DEVICES else 1

  def peak(self, dtype: str) -> float:
    """Returns the peak FLOP/s of products in 'float32' or a 16-bit dtype."""
    return 1e12 * (self.float32 if dtype == 'float32' else self.bfloat16)

  def usable(self) -> int:
    """Returns the bytes of one device's memory that JAX reserves."""
    fraction = 1.0 if self.is_tpu else memory_fraction()
    return int(self.memory * GIB * fraction)


_CLOUD = 'docs.cloud.google.com/tpu/docs/'
_V2 = 'Jouppi et al., CACM 63(7), 2020, table 1; ' + _CLOUD + 'v2'
_V4 = 'arXiv:2304.01433, table 4; ' + _CLOUD
_H100 = 'NVIDIA H100 data sheet; DGX H100 user guide (400 Gb/s a card)'
_A100 = 'NVIDIA A100 data sheet; DGX A100 user guide (200 Gb/s a card)'

# The memory of a TPU is the available memory that its compiler reports, which
# is less than in its data sheet. The ICI figure of a page is for all ports and
# both directions.
CHIPS = (
  Chip('v2', ('TPU v2',), 22.5, 22.5, 7.48, 350, 62, None, _V2),
  Chip('v3', ('TPU v3',), 61.5, 61.5, 15.48, 450, 70, None, _V4 + 'v3'),
  Chip('v4', ('TPU v4',), 275, 275, 30.75, 1200, 50, None, _V4 + 'v4'),
  Chip('v5e', ('TPU v5 lite', 'TPU v5e'), 197, 197, 15.75, 819, 50, 3.125,
       _CLOUD + 'v5e'),
  Chip('v5p', ('TPU v5', 'TPU v5p'), 459, 459, 95.73, 2765, 100, 6.25,
       _CLOUD + 'v5p'),
  Chip('v6e', ('TPU v6 lite', 'TPU v6e'), 918, 918, 31.24, 1638, 100, 12.5,
       _CLOUD + 'v6e'),
  Chip('v7x', ('TPU7x', 'TPU v7x'), 1153.5, 1153.5, 94.74, 3690, 100, 6.25,
       _CLOUD + 'tpu7x'),
  Chip('v100', ('V100',), 125, 15.7, 32, 900, 150, 6.25,
       'NVIDIA V100 data sheet (SXM2); DGX-1 user guide', has_bfloat16=False),
  Chip('t4', ('T4',), 65, 8.1, 15, 320, 16, None, 'NVIDIA T4 data sheet',
       has_bfloat16=False),
  Chip('a10g', ('A10G',), 70, 35, 22.5, 600, 32, None,
       'Amazon EC2 G5 instances; NVIDIA A10G product brief'),
  Chip('a10', ('A10',), 125, 62.5, 22.5, 600, 32, None,
       'NVIDIA A10 data sheet'),
  Chip('a30', ('A30',), 165, 82, 24, 933, 100, None, 'NVIDIA A30 data sheet'),
  Chip('a40', ('A40',), 149.7, 74.8, 44.5, 696, 56.25, None,
       'NVIDIA A40 data sheet'),
  Chip('a100-40gb', ('A100-SXM4-40GB', 'A100-PCIE-40GB'), 312, 156, 39.4,
       1555, 300, 25, _A100),
  # `targets._CARD` explains the numbers in `fixed`.
  Chip('a100', ('A100',), 312, 156, 84987740160 / GIB, 2039, 300, 25, _A100,
       fixed=('NVIDIA A100-SXM4-80GB', 108, 64, 167936, 166912, 41943040, 1.41,
              (8, 0))),
  Chip('l40s', ('L40S',), 362, 183, 44.5, 864, 32, None,
       'NVIDIA L40S data sheet'),
  Chip('l4', ('L4',), 121, 60, 22.5, 300, 32, None, 'NVIDIA L4 data sheet'),
  Chip('h100-pcie', ('H100 PCIe',), 756, 378, 79, 2000, 300, 50, _H100),
  Chip('h100-nvl', ('H100 NVL',), 835, 417.5, 93, 3900, 300, 50, _H100),
  Chip('h100', ('H100',), 989.4, 494.7, 84942979072 / GIB, 3352.32, 450, 50,
       _H100, fixed=('NVIDIA H100 80GB HBM3', 132, 128, 233472, 232448,
                     52428800, 1.98, (9, 0))),
  Chip('h200', ('H200',), 989.4, 494.7, 150754820096 / GIB, 4800, 450, 50,
       'NVIDIA H200 data sheet; DGX H200 user guide',
       fixed=('NVIDIA H200', 132, 128, 233472, 232448, 62914560, 1.98,
              (9, 0))),
  Chip('rtx3090', ('RTX 3090',), 71, 35.6, 23.7, 936, 32, None,
       'NVIDIA GA102 white paper, appendix A'),
  Chip('rtx4090', ('RTX 4090',), 165.2, 82.6, 23.6, 1008, 32, None,
       'NVIDIA Ada white paper, appendix A'),
)  # fmt: skip


def chip_of(device_kind: str) -> Chip | None:
  """Returns the chip of a `device_kind`; None if the table does not have it.

  The kind must contain one of `Chip.kinds` as whole words. The longest match
  decides: 'H100 PCIe' before 'H100'. A slice of a card (MIG) and the card of a
  laptop are not in the table.
  """
  if re.search(r'\b(MIG|Laptop|Max-Q)\b', device_kind):
    return None
  found = [
    (len(part), chip)
    for chip in CHIPS
    for part in chip.kinds
    if re.search(rf'(?<!\w){re.escape(part)}(?!\w)', device_kind)
  ]
  return max(found, key=lambda pair: pair[0])[1] if found else None


def peak(device_kind: str, dtype: str) -> float | None:
  """Returns the peak FLOP/s of a kind of device; None if it is not known."""
  chip = chip_of(device_kind)
  return None if chip is None else chip.peak(dtype)


def advice_on_dtype(device: Any, dtype: str | None) -> str | None:
  """Returns advice if a device has no units for a dtype, else None."""
  chip = chip_of(getattr(device, 'device_kind', ''))
  if chip is None or chip.has_bfloat16 or dtype != 'bfloat16':
    return None
  return (
    f'{device.device_kind} has no bfloat16 units and computes it slowly; take '
    'float32 to train, float32 or float16 to predict'
  )


def memory_fraction() -> float:
  """Returns the part of a card's memory that JAX reserves.

  Raises:
    InputError: XLA_PYTHON_CLIENT_MEM_FRACTION is no number above 0.
  """
  text = os.environ.get('XLA_PYTHON_CLIENT_MEM_FRACTION', '')
  try:
    fraction = float(text) if text else _FRACTION
  except ValueError:
    fraction = 0.0
  if not fraction > 0:
    raise InputError(
      f'XLA_PYTHON_CLIENT_MEM_FRACTION={text} must be a part of the memory '
      'such as 0.9; set or unset it'
    )
  return fraction
