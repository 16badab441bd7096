"""Memory of compiled programs and of devices, in bytes per device."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax

USABLE = 0.95  # part of the memory limit of a device; see `usable`


@dataclasses.dataclass(frozen=True)
class Memory:
  """The memory that a program takes on one device, as computed by its compiler.

  Attributes:
    arguments: bytes of parameters, optimiser state and batch.
    outputs: bytes of outputs that do not reuse the memory of arguments.
    temporaries: bytes of activations, gradients, ...; all bytes of a refused
      program.
    program: bytes of the code.
    is_refused: whether the compiler refused the program for lack of memory.
  """

  arguments: int
  outputs: int
  temporaries: int
  program: int
  is_refused: bool = False

  @property
  def total(self) -> int:
    """Returns the peak bytes while the program runs."""
    return self.arguments + self.outputs + self.temporaries + self.program


def memory_of(compiled: Any) -> Memory:
  """Returns the memory of a program from `jax.jit(f).lower(...).compile()`."""
  found = compiled.memory_analysis()
  return Memory(
    arguments=found.argument_size_in_bytes,
    outputs=found.output_size_in_bytes - found.alias_size_in_bytes,
    temporaries=found.temp_size_in_bytes,
    program=found.generated_code_size_in_bytes,
  )


def compile_and_measure(compile: Callable[[], Any]) -> Memory | None:
  """Returns the memory of the program that `compile` returns.

  XLA refuses to compile a program that can never fit into a TPU. Then the
  memory comes from its error message.

  Returns:
    The memory, or None if XLA refused the program without giving a number.
  """
  try:
    return memory_of(compile())
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return memory_of_refused(str(error))


def memory_of_refused(text: str) -> Memory | None:
  """Parses XLA's message on a refused program; None if it has no number."""
  found = re.search(
    r'(?:Used|required for HLO temporaries \() ?([\d.]+)([KMG])', text
  )
  if not found:
    return None
  unit = {'K': 2**10, 'M': 2**20, 'G': 2**30}[found[2]]
  return Memory(0, 0, int(float(found[1]) * unit), 0, is_refused=True)


def usable(device: jax.Device | None = None) -> int | None:
  """Returns the bytes of `limit` that a program may use.

  The rest is a reserve for fragmentation.
  """
  found = limit(device)
  return None if found is None else int(USABLE * found)


def limit(device: jax.Device | None = None) -> int | None:
  """Returns the bytes of a device that JAX may use; None if unknown (CPU).

  On a GPU this is the part of the card that XLA_PYTHON_CLIENT_MEM_FRACTION
  sets, by default three quarters.
  """
  device = jax.local_devices()[0] if device is None else device
  return (device.memory_stats() or {}).get('bytes_limit')


def peak(device: jax.Device | None = None) -> int | None:
  """Returns the peak bytes in use on a device so far; None on a CPU."""
  device = jax.local_devices()[0] if device is None else device
  return (device.memory_stats() or {}).get('peak_bytes_in_use')
