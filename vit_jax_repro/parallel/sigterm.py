"""Who handles SIGTERM in a process of several.

JAX catches SIGTERM as soon as the processes are joined, and reports it to a
training loop that asks after each update. Without a loop that asks, for example
while a process waits for the others, it would have no effect. So SIGTERM ends a
process, as usual, except between `tell_jax` and `end_process`.
"""

import ctypes
import os
import signal

_of_jax: list[int] = []  # address of JAX's handler while it is not in use


def end_process() -> None:
  """Makes SIGTERM end this process, which JAX has joined to others."""
  if os.name == 'posix' and not _of_jax:
    _of_jax.append(_exchanged(int(signal.SIG_DFL)))


def tell_jax() -> bool:
  """Lets JAX handle SIGTERM; returns whether `end_process` had changed that."""
  if not _of_jax:
    return False
  _exchanged(_of_jax.pop())
  return True


def _exchanged(handler):
  """Sets the handler of SIGTERM and returns the old one, as addresses.

  Python's module `signal` cannot set a handler that C code has made.
  """
  change = ctypes.CDLL(None).signal
  change.argtypes = (ctypes.c_int, ctypes.c_void_p)
  change.restype = ctypes.c_void_p
  return change(signal.SIGTERM, handler) or 0
