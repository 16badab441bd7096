"""Accelerators that a program is compiled for, in this machine or not.

XLA's compilers for TPUs and NVIDIA cards come in wheels and run on any x86
machine, so a program can be compiled for chips that are not there.

All figures are those of one JAX device: half a chip for TPU v2, v3 and v7x, a
chip for the other TPUs, a card for GPUs. Units are 1e12 FLOP/s, GiB, and 1e9
bytes a second in one direction.
"""

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vit_jax_repro.errors import InputError

GIB = 2**30
# Part of a card that JAX takes by default (docs.jax.dev, GPU memory
# allocation); XLA_PYTHON_CLIENT_MEM_FRACTION is another part.
_FRACTION = 0.75


@dataclasses.dataclass(frozen=True)
class Chip:
  """One row of the table of accelerators.

  Attributes:
    name: as `--target` spells it.
    kinds: parts of the `device_kind` that JAX gives to such a device.
    bfloat16: peak of dense products of bfloat16 numbers, summed in float32.
    float32: peak of float32 products as JAX computes them by default:
      bfloat16 passes on TPUs, TensorFloat-32 on NVIDIA cards from Ampere on.
    memory: capacity in GiB; of a TPU what its runtime leaves to programs.
    bandwidth: of that memory.
    link: of one port to a neighbouring chip (TPU), or of all NVLinks of a
      card to the switch or its peers, or of PCI Express where there are none.
    network: to another host or slice; None where no standard machine has one.
    source: of the figures.
    has_bfloat16: whether it has units for bfloat16 products.
    fixed: what XLA must know to compile for an NVIDIA card; see `_CARD`.
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
    """Whether it is a TPU; all others are NVIDIA cards."""
    return self.name.startswith('v') and self.name != 'v100'

  @property
  def can_be_compiled_for(self) -> bool:
    """Whether programs can be compiled for it without it."""
    return self.is_tpu or self.fixed is not None

  def peak(self, dtype: str) -> float:
    """FLOP/s of products in 'float32' or a 16-bit dtype."""
    return 1e12 * (self.float32 if dtype == 'float32' else self.bfloat16)

  def usable(self) -> int:
    """Bytes that JAX takes of the memory of one device."""
    fraction = 1.0 if self.is_tpu else _memory_fraction()
    return int(self.memory * GIB * fraction)


_CLOUD = 'docs.cloud.google.com/tpu/docs/'
_V2 = 'Jouppi et al., CACM 63(7), 2020, table 1; ' + _CLOUD + 'v2'
_V4 = 'arXiv:2304.01433, table 4; ' + _CLOUD
_H100 = 'NVIDIA H100 data sheet; DGX H100 user guide (400 Gb/s a card)'
_A100 = 'NVIDIA A100 data sheet; DGX A100 user guide (200 Gb/s a card)'
_NO_BFLOAT16 = dict(has_bfloat16=False)  # the peak is that of float16

# A memory of a TPU is what its compiler says is available, which is less than
# its data sheet has. An ICI figure of a page is that of all ports, both ways.
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
       'NVIDIA V100 data sheet (SXM2); DGX-1 user guide', **_NO_BFLOAT16),
  Chip('t4', ('T4',), 65, 8.1, 15, 320, 16, None, 'NVIDIA T4 data sheet',
       **_NO_BFLOAT16),
  Chip('a10g', ('A10G',), 70, 35, 22.5, 600, 32, None,
       'Amazon EC2 G5 instances; NVIDIA A10G product brief'),
  Chip('a10', ('A10',), 125, 62.5, 22.5, 600, 32, None,
       'NVIDIA A10 data sheet'),
  Chip('a30', ('A30',), 165, 82, 24, 933, 100, None, 'NVIDIA A30 data sheet'),
  Chip('a40', ('A40',), 149.7, 74.8, 44.5, 696, 56.25, None,
       'NVIDIA A40 data sheet'),
  Chip('a100-40gb', ('A100-SXM4-40GB', 'A100-PCIE-40GB'), 312, 156, 39.4,
       1555, 300, 25, _A100),
  # The last column: see `_CARD`.
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
_BY_NAME = {chip.name: chip for chip in CHIPS}
_ALIASES = {'tpu7x': 'v7x', 'a100-80gb': 'a100'}
# As libtpu spells it, where that differs, and generations of which two cores
# make one device.
_LIBTPU = {'v7x': 'tpu7x'}
_MEGACORE = ('v4', 'v5p')
_TWO_DEVICES = ('v2', 'v3', 'v7x')  # of each chip

# XLA's GpuTargetConfigProto (stream_executor/device_description.proto) as
# text. `Chip.fixed` has the name, the multiprocessors and float32 units of
# each, the bytes of shared memory of each and of one block, the bytes of L2,
# the clock in GHz and the compute capability, all from NVIDIA's white papers
# (A100, H100) and CUDA programming guide (table of compute capabilities).
_CARD = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared}
  shared_memory_per_block_optin: {block}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  core_count: {cores}
  fpus_per_core: {units}
  memory_bandwidth: {bandwidth}
  device_memory_size: {memory}
  l2_cache_size: {l2}
  clock_rate_ghz: {clock}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
device_description_str: "{name}"
"""


def _memory_fraction():
  """Returns the part of a card's memory that JAX takes."""
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


@dataclasses.dataclass(frozen=True)
class Target:
  """Some chips of one kind that a program is compiled for.

  Attributes:
    chip: a row of `CHIPS`.
    shape: chips along each axis of a TPU slice, or (hosts, cards of each).
  """

  chip: Chip
  shape: tuple[int, ...]

  @property
  def name(self) -> str:
    """As `--target` spells it: 'v5e:2x4', 'h100', 'h100:1x8'."""
    if not self.chip.is_tpu and self.shape == (1, 1):
      return self.chip.name
    return f'{self.chip.name}:{"x".join(map(str, self.shape))}'

  @property
  def num_chips(self) -> int:
    """Chips of a slice, or cards."""
    return math.prod(self.shape)

  @property
  def num_devices(self) -> int:
    """Devices as JAX counts them: two of a chip for some TPUs."""
    return self.num_chips * (2 if self.chip.name in _TWO_DEVICES else 1)

  def check(self) -> None:
    """Raises ValueError where no program can be compiled for the chip here."""
    if not self.chip.can_be_compiled_for:
      names = ', '.join(c.name for c in CHIPS if c.can_be_compiled_for)
      raise InputError(
        f'--target={self.chip.name}: its peaks are known, but compiling for '
        f'it needs the card itself; choose from {names}'
      )
    if self.chip.is_tpu:
      self._check_tpu()
    else:
      self._check_card()

  def devices(self) -> list[Any]:
    """Describes the devices to XLA; none of them need exist.

    Call it before anything else asks JAX for devices: from then on JAX
    computes on this machine's processor alone.

    Raises:
      InputError: no program can be compiled for the chip or the shape here;
        the line says what to install or choose.
    """
    self.check()
    jax.config.update('jax_platforms', 'cpu')
    return self._tpus() if self.chip.is_tpu else self._cards()

  def _check_tpu(self):
    if importlib.util.find_spec('libtpu') is None:
      version = importlib.metadata.version('jax')
      raise InputError(
        f'--target={self.name} needs the compiler for TPUs: pip install '
        f"'jax[tpu]=={version}'"
      )

  def _tpus(self):
    os.environ['TPU_SKIP_MDS_QUERY'] = '1'  # ask no server what is attached
    os.environ['ALLOW_MULTIPLE_LIBTPU_LOAD'] = '1'  # beside a run on the chips
    os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
    os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-8')
    name = _LIBTPU.get(self.chip.name, self.chip.name)
    options = {}
    if self.chip.name in _MEGACORE:
      options['chip_config_name'] = 'megacore'
    sides = 'x'.join(map(str, self.shape))
    return self._described(
      platform='tpu', topology_name=f'{name}:{sides}', **options
    )

  def _check_card(self):
    _memory_fraction()
    jaxlib = importlib.metadata.version('jaxlib')
    plugin = next(
      (
        number
        for number in (13, 12)
        if importlib.util.find_spec(f'jax_cuda{number}_plugin')
      ),
      None,
    )
    if plugin is None:
      raise InputError(
        f'--target={self.name} needs the compiler for NVIDIA cards: pip '
        f'install --no-deps jax-cuda12-plugin=={jaxlib} '
        f'jax-cuda12-pjrt=={jaxlib} nvidia-cudnn-cu12'
      )
    if _missing('nvidia.cudnn'):
      raise InputError(
        f'--target={self.name} needs cuDNN, to choose kernels: pip install '
        f'--no-deps nvidia-cudnn-cu{plugin}'
      )

  def _cards(self):
    jax.devices()  # so that JAX finds its plugins, once
    hosts, cards = self.shape
    return self._described(
      platform='cuda',
      topology_name=self.chip.name,
      topology=f'1x{hosts}x{cards}',
      target_config=_card(self.chip),
    )

  def _described(self, **options):
    from jax.experimental import topologies

    try:
      return list(topologies.get_topology_desc(**options).devices)
    except Exception as error:  # of a compiler in a wheel: any class
      line = ' '.join(str(error).split())[:200]
      what = 'could not be described to its compiler'
      if 'INVALID_ARGUMENT' in line:
        what = 'is no shape that its compiler knows'
      raise InputError(f'--target={self.name} {what}: {line}') from error


LINKS = (
  'links: ring algorithms; a TPU uses a port towards each neighbour in the '
  'group, a card all its NVLinks to the others of its host and its network '
  'adapter to other hosts; what can overlap counts as its maximum'
)


def exchange_seconds(
  chip: Chip, devices: Sequence[Any], *, kind: str, payload: float
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

  def sent(size, number):
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
    shared = 2 if chip.name in _TWO_DEVICES else 1  # of the chip's ports
    return shared * sent(payload, number) / (ports * chip.link * 1e9)
  hosts = len({device.process_index for device in devices})
  within = sent(payload, number) / (chip.link * 1e9)
  if hosts == 1:
    return within
  if chip.network is None:
    raise InputError(f'no bandwidth between hosts is known for {chip.name}')
  share = payload * hosts / number  # that a card sends to other hosts
  return max(within, sent(share, hosts) / (chip.network * 1e9))


def parse(text: str) -> Target:
  """Reads a target: 'v5e:2x4', 'h100', or 'h100:1x8' (hosts x cards).

  Raises:
    InputError: an unknown chip, or a shape that it cannot have.
  """
  name, _, sides = text.strip().lower().partition(':')
  chip = _BY_NAME.get(_ALIASES.get(name, name))
  if chip is None:
    raise InputError(
      f'unknown --target={text}; choose from {", ".join(_BY_NAME)}, such as '
      'v5e:2x4 (chips along each side of the slice) or h100:1x8 (hosts x cards)'
    )
  if not sides and not chip.is_tpu:
    sides = '1x1'
  shape = tuple(int(side) for side in re.findall(r'\d+', sides))
  ranks = (2,) if not chip.is_tpu else (2, 3)
  spelt = re.fullmatch(r'\d+(x\d+)*', sides) is not None
  if not spelt or len(shape) not in ranks or 0 in shape:
    example = 'v4:2x2x2 or v5e:2x4' if chip.is_tpu else f'{chip.name}:1x8'
    means = 'chips along each side of the slice' if chip.is_tpu else (
      'hosts x cards of each'
    )  # fmt: skip
    raise InputError(
      f'--target={text} must be one target, {chip.name}:SHAPE, such as '
      f'{example}: {means}'
    )
  return Target(chip, shape)


def chip_of(device_kind: str) -> Chip | None:
  """Finds the chip of a `device_kind`; None if it is not in the table.

  A kind contains a part of the table as whole words, of which the longest
  decides: 'H100 PCIe' before 'H100'. A slice of a card and a laptop's card
  are others.
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


def advice_on_dtype(device: Any, dtype: str) -> str | None:
  """Says which dtype to take where a device has no units for this one."""
  chip = chip_of(getattr(device, 'device_kind', ''))
  if chip is None or chip.has_bfloat16 or dtype != 'bfloat16':
    return None
  return (
    f'{device.device_kind} has no bfloat16 units and computes it slowly; take '
    'float32 to train, float32 or float16 to predict'
  )


def _missing(module: str) -> bool:
  try:
    return importlib.util.find_spec(module) is None
  except ModuleNotFoundError:
    return True


def _card(chip: Chip) -> str:
  name, cores, units, shared, block, l2, clock, capability = chip.fixed
  major, minor = capability
  return _CARD.format(
    name=name,
    cores=cores,
    units=units,
    shared=shared,
    block=block,
    l2=l2,
    clock=clock,
    major=major,
    minor=minor,
    bandwidth=int(chip.bandwidth * 1e9),
    memory=int(chip.memory * GIB),
  )
