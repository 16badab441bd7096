"""Installs the clone that this file lies in, if the package is missing.

The notebooks run it. It keeps the TensorFlow and JAX of Colab.
"""

import importlib.util
import pathlib
import subprocess
import sys

MISSING_ON_COLAB = (
  'clu',
  'importlib-resources',
  'ml_collections',
  'safetensors',
  'protobuf>=6.31.1',
  'tensorflow-datasets>=4.9.10',
)


def has(name):
  """Returns whether a package can be imported."""
  return importlib.util.find_spec(name) is not None


def pip_install(*arguments):
  """Installs packages into the environment of the notebook."""
  command = [sys.executable, '-m', 'pip', 'install', '--quiet', *arguments]
  subprocess.run(command, check=True)


if not has('vit_jax_repro'):
  clone = pathlib.Path(__file__).resolve().parents[1]
  if has('tensorflow') and has('jax'):
    pip_install(*MISSING_ON_COLAB)
    pip_install('--no-deps', clone)
  else:
    pip_install(clone)
  importlib.invalidate_caches()
