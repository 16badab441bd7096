"""The manifest of a run: versions, devices, commit, seed, parts, data."""

import os
import platform
import subprocess
from typing import Any

import jax

from vit_jax_repro.parallel import installed


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
    'numerics': installed.numerics(),
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
    'versions': {'python': platform.python_version(), **installed.versions()},
    'platform': platform.platform(),
    'git_commit': _git_commit(),
  }


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
