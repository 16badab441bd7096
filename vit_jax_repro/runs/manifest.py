"""The manifest of a run: versions, devices, commit, seed, parts, data."""

import importlib.metadata
import os
import platform
import subprocess
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


def create(
  *, seed: int, mesh: jax.sharding.Mesh, data: Any, trained: Any
) -> dict:
  """Returns a JSON-able description of the machine and software of a run.

  Args:
    seed: the seed of the run.
    mesh: the devices of the run.
    data: JSON-able identification of the data sets.
    trained: JSON-able description of the trained parameters.
  """
  return {
    **software(),
    'devices': {**devices(mesh), 'mesh': dict(mesh.shape)},
    'numerics': numerics(),
    'seed': seed,
    'trained': trained,
    'data': data,
  }


def devices(mesh: jax.sharding.Mesh | None = None) -> dict:
  """Returns kind, platform and number of devices and processes, JSON-able.

  Args:
    mesh: the devices; by default all devices of JAX's default backend.
  """
  found = jax.devices() if mesh is None else list(mesh.devices.flat)
  return {
    'kind': found[0].device_kind,
    'platform': found[0].platform,
    'count': len(found),
    'processes': jax.process_count(),
  }


def software() -> dict:
  """Returns versions, platform and git_commit, JSON-able."""
  return {
    'versions': {'python': platform.python_version(), **_versions()},
    'platform': platform.platform(),
    'git_commit': _git_commit(),
  }


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


def _versions():
  versions = {}
  for package in PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return versions


def _git_commit():
  """Returns the commit of the checkout that holds this code, or None.

  An installed package has none, also where its folder lies in the checkout of
  another project. A commit with uncommitted changes has the suffix '-modified'.
  """
  try:
    _git('ls-files', '--error-unmatch', os.path.basename(__file__))
    commit = _git('rev-parse', 'HEAD').strip()
    changed = _git('status', '--porcelain', '--untracked-files=no')
  except (OSError, subprocess.CalledProcessError):
    return None
  return commit + ('-modified' if changed else '')


def _git(*arguments):
  return subprocess.run(
    ['git', *arguments],
    cwd=os.path.dirname(os.path.abspath(__file__)),
    capture_output=True,
    text=True,
    check=True,
  ).stdout
