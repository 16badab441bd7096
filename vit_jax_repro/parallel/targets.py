"""Targets: hardware to compile a program for, which need not exist here.

XLA's compilers for TPUs and NVIDIA cards are in wheels and run on any x86
machine, so they can compile a program for chips that this machine lacks.
"""

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import re
from typing import Any

import jax

from vit_jax_repro.errors import InputError
from vit_jax_repro.parallel import chips

_BY_NAME = {chip.name: chip for chip in chips.CHIPS}
_ALIASES = {'tpu7x': 'v7x', 'a100-80gb': 'a100'}
_LIBTPU = {'v7x': 'tpu7x'}  # {name: different name in libtpu}
_MEGACORE = ('v4', 'v5p')  # two cores are one device

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


@dataclasses.dataclass(frozen=True)
class Target:
  """A number of chips of one kind to compile a program for.

  Attributes:
    chip: a row of `chips.CHIPS`.
    shape: chips along each axis of a TPU slice, or (hosts, cards per host).
  """

  chip: chips.Chip
  shape: tuple[int, ...]

  @property
  def name(self) -> str:
    """Returns the value of `--target`: 'v5e:2x4', 'h100', 'h100:1x8'."""
    if not self.chip.is_tpu and self.shape == (1, 1):
      return self.chip.name
    return f'{self.chip.name}:{"x".join(map(str, self.shape))}'

  @property
  def num_chips(self) -> int:
    """Returns the number of chips of a slice, or of cards."""
    return math.prod(self.shape)

  @property
  def num_devices(self) -> int:
    """Returns the number of JAX devices, which is two per chip on some TPUs."""
    return self.num_chips * self.chip.devices_per_chip

  def check(self) -> None:
    """Raises an InputError if this machine cannot compile for the chip."""
    if not self.chip.can_be_compiled_for:
      names = ', '.join(c.name for c in chips.CHIPS if c.can_be_compiled_for)
      raise InputError(
        f'--target={self.chip.name}: its peaks are known, but compiling for '
        f'it needs the card itself; choose from {names}'
      )
    if self.chip.is_tpu:
      self._check_tpu()
    else:
      self._check_card()

  def devices(self) -> list[Any]:
    """Returns device descriptions for XLA; the devices need not exist.

    Must be called before any other code initialises JAX's devices. Afterwards
    JAX computes only on the CPU of this machine.

    Raises:
      InputError: this machine cannot compile for the chip or the shape; the
        message names the package to install or a value to choose.
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
    # Keeps libtpu from asking the metadata server for attached chips.
    os.environ['TPU_SKIP_MDS_QUERY'] = '1'
    # Allows compilation while a run uses the chips of this machine.
    os.environ['ALLOW_MULTIPLE_LIBTPU_LOAD'] = '1'
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
    chips.memory_fraction()
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
    jax.devices()  # loads JAX's plugins
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
    except Exception as error:  # the compilers raise various classes
      line = ' '.join(str(error).split())[:200]
      what = 'could not be described to its compiler'
      if 'INVALID_ARGUMENT' in line:
        what = 'is no shape that its compiler knows'
      raise InputError(f'--target={self.name} {what}: {line}') from error


def parse(text: str) -> Target:
  """Parses a target: 'v5e:2x4', 'h100', or 'h100:1x8' (hosts x cards).

  Raises:
    InputError: the chip is unknown, or it cannot have the shape.
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


def _missing(module: str) -> bool:
  try:
    return importlib.util.find_spec(module) is None
  except ModuleNotFoundError:
    return True


def _card(chip: chips.Chip) -> str:
  assert chip.fixed is not None, 'check() refuses other cards'
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
    memory=int(chip.memory * chips.GIB),
  )
