"""Memory of compiled programs and of devices, in bytes of one device."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax

USABLE = 0.95  # of what a device reports


@dataclasses.dataclass(frozen=True)
class Memory:
  """The memory that a program takes on one device, as its compiler expects.

  Attributes:
    arguments: parameters, optimiser state, batch.
    outputs: those that do not take the place of arguments.
    temporaries: activations, gradients, ...; of a refused program everything.
    program: the code itself.
    is_refused: the compiler made no program, for want of memory.
  """

  arguments: int
  outputs: int
  temporaries: int
  program: int
  is_refused: bool = False

  @property
  def total(self) -> int:
    """Returns the peak while it runs."""
    return self.arguments + self.outputs + self.temporaries + self.program


def memory_of(compiled: Any) -> Memory:
  """Returns the memory of `jax.jit(f).lower(...).compile()`."""
  found = compiled.memory_analysis()
  return Memory(
    arguments=found.argument_size_in_bytes,
    outputs=found.output_size_in_bytes - found.alias_size_in_bytes,
    temporaries=found.temp_size_in_bytes,
    program=found.generated_code_size_in_bytes,
  )


def compile_and_measure(compile: Callable[[], Any]) -> Memory | None:
  """Returns the memory of what `compile` returns, or of what XLA refused.

  XLA refuses to compile what can never fit into a TPU.

  Returns:
    None where it refused a program and did not say how much it needs.
  """
  try:
    return memory_of(compile())
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return memory_of_refused(str(error))


def memory_of_refused(text: str) -> Memory | None:
  """Reads how much a refused program needs; None if the text has no figure."""
  found = re.search(
    r'(?:Used|required for HLO temporaries \() ?([\d.]+)([KMG])', text
  )
  if not found:
    return None
  unit = {'K': 2**10, 'M': 2**20, 'G': 2**30}[found[2]]
  return Memory(0, 0, int(float(found[1]) * unit), 0, is_refused=True)


def usable(device: jax.Device | None = None) -> int | None:
  """Returns the usable part of `limit`; fragments take the rest."""
  found = limit(device)
  return None if found is None else int(USABLE * found)


def limit(device: jax.Device | None = None) -> int | None:
  """Returns the bytes that JAX may take of a device; None if unknown (CPU).

  On a GPU this is what XLA_PYTHON_CLIENT_MEM_FRACTION leaves, by default three
  quarters of the card.
  """
  device = jax.local_devices()[0] if device is None else device
  return (device.memory_stats() or {}).get('bytes_limit')


def peak(device: jax.Device | None = None) -> int | None:
  """Returns the peak bytes in use on a device so far; None on a CPU."""
  device = jax.local_devices()[0] if device is None else device
  return (device.memory_stats() or {}).get('peak_bytes_in_use')
