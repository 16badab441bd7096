"""Keeps what JAX compiles on disk, so that the second run starts at once.

JAX's own cache. What the environment says of it counts; for example
JAX_ENABLE_COMPILATION_CACHE=false turns it off.
"""

import hashlib
import os
import pathlib
import platform

_MAX_BYTES = 4 * 2**30  # of the folder; what was not used longest goes first
# Of compiling; JAX's default of 1 leaves most programs out.
MIN_SECONDS = 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'


def keep() -> None:
  """Sets JAX's environment; before JAX is imported."""
  if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
    return
  try:
    folder = default_folder()
    folder.mkdir(parents=True, exist_ok=True)
  except (OSError, RuntimeError):  # RuntimeError: a user without a home
    return
  if not os.access(folder, os.W_OK):
    return
  os.environ['JAX_COMPILATION_CACHE_DIR'] = str(folder)
  os.environ.setdefault(MIN_SECONDS, '0.2')
  os.environ.setdefault('JAX_COMPILATION_CACHE_MAX_SIZE', str(_MAX_BYTES))


def default_folder() -> pathlib.Path:
  """One for each kind of processor, as homes may be shared between machines."""
  root = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return (
    pathlib.Path(root).expanduser()
    / 'vit_jax_repro'
    / f'compiled-{platform.machine()}-{_features()}'
  )


def _features():
  """8 hex digits of what the processor can do, where Linux says it."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    lines = []
  names = ('model name', 'flags', 'Features', 'CPU part')
  said = sorted({line for line in lines if line.startswith(names)})
  return hashlib.sha256('\n'.join(said).encode()).hexdigest()[:8]
