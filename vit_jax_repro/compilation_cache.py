"""Turns on JAX's compilation cache on disk, so that the next run starts faster.

JAX's environment variables take precedence; for example
JAX_ENABLE_COMPILATION_CACHE=false turns the cache off.
"""

import hashlib
import os
import pathlib
import platform
import warnings

from vit_jax_repro.output import files, locations

_MAX_BYTES = 4 * 2**30  # of the folder; JAX removes the least recently used
# Programs that compile faster than this are not cached. JAX's default of 1
# second leaves most programs out.
MIN_SECONDS = 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'


def keep() -> str | None:
  """Sets JAX's environment variables; call it before JAX is imported.

  Returns:
    A line for the user if JAX_COMPILATION_CACHE_DIR cannot be written. JAX
    would print three for each program.
  """
  # Another process has the lock of the folder for longer than JAX waits: the
  # program is compiled again, and nothing is wrong.
  warnings.filterwarnings(
    'ignore', r'.*persistent compilation cache.*could not be acquired'
  )
  if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
    return _check(os.environ['JAX_COMPILATION_CACHE_DIR'])
  try:
    folder = default_folder()
    folder.mkdir(parents=True, exist_ok=True)
  except (OSError, RuntimeError):  # RuntimeError: the user has no home folder
    return None
  if not os.access(folder, os.W_OK):
    return None
  os.environ['JAX_COMPILATION_CACHE_DIR'] = str(folder)
  os.environ.setdefault(MIN_SECONDS, '0.2')
  os.environ.setdefault('JAX_COMPILATION_CACHE_MAX_SIZE', str(_MAX_BYTES))
  return None


def _check(folder):
  """Turns the cache off if its folder cannot be written; returns a line."""
  if not folder or locations.is_address(folder):  # JAX writes to buckets, too
    return None
  reason = 'Permission denied'
  try:
    os.makedirs(folder, exist_ok=True)
  except OSError as error:
    reason = error.strerror
  else:
    if os.access(folder, os.W_OK):
      return None
  os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
  return (
    f'JAX_COMPILATION_CACHE_DIR={folder} cannot be written ({reason}), so '
    'every run compiles its programs; set it to another folder or unset it'
  )


def default_folder() -> pathlib.Path:
  """Returns the cache folder for this kind of processor.

  Machines with different processors may share a home folder.
  """
  return files.cache_folder(f'compiled-{platform.machine()}-{_features()}')


def _features():
  """Returns 8 hex digits of the CPU flags that Linux lists."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    lines = []
  names = ('model name', 'flags', 'Features', 'CPU part')
  found = sorted({line for line in lines if line.startswith(names)})
  return hashlib.sha256('\n'.join(found).encode()).hexdigest()[:8]
