"""The software that computes: versions, the code of this package, options."""

import hashlib
import importlib.metadata
import os
import pathlib
from typing import Any

import jax

PACKAGES = (
  'vit_jax_repro',
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'numpy',
  'tensorflow',
  'tensorflow-cpu',
  'tensorflow-datasets',
)

# Options of JAX and variables of XLA and its libraries that change numbers.
_OPTIONS = {
  'jax_disable_jit': False,
  'jax_disable_most_optimizations': False,
  'jax_random_seed_offset': 0,
  'jax_threefry_partitionable': True,
}
_VARIABLES = ('XLA_FLAGS', 'LIBTPU_INIT_ARGS', 'NVIDIA_TF32_OVERRIDE')


def numerics() -> dict[str, str]:
  """Returns {option: text} of JAX's options that change a run's numbers.

  Options with their default value are left out.
  """
  config: Any = jax.config  # options become attributes at run time
  found = {}
  if config.jax_enable_x64:
    found['jax_enable_x64'] = '64-bit arrays (JAX_ENABLE_X64)'
  products = config.jax_default_matmul_precision
  if products is not None:
    found['jax_default_matmul_precision'] = f'products in {products} precision'
  if config.jax_default_prng_impl != 'threefry2x32':
    found['jax_default_prng_impl'] = (
      f'random numbers by {config.jax_default_prng_impl}'
    )
  for option, default in _OPTIONS.items():
    value = getattr(config, option, default)
    if value != default:
      found[option] = f'{option.upper()}={value}'
  for name in _VARIABLES:
    if os.environ.get(name):
      found[name] = f'{name}={os.environ[name]}'
  return found


def versions() -> dict[str, str]:
  """Returns {package: version} of those of `PACKAGES` that are installed."""
  found = {}
  for package in PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found


def code() -> dict[str, str]:
  """Returns {path: SHA-256} of the modules of this package.

  The paths begin with `vit_jax_repro/`.
  """
  package = pathlib.Path(__file__).parents[1]
  return {
    path.relative_to(package.parent).as_posix(): hashlib.sha256(
      path.read_bytes()
    ).hexdigest()
    for path in sorted(package.rglob('*.py'))
  }
