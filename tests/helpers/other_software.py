"""Makes a process look as if it had other software than the others."""

import pathlib
import shutil
import sys

from vit_jax_repro.parallel import installed


def change_version(root):
  """Makes Python find another version of JAX."""
  info = root / 'versions' / 'jax-9.9.9.dist-info'
  info.mkdir(parents=True)
  (info / 'METADATA').write_text('Name: jax\nVersion: 9.9.9\n')
  sys.path.insert(0, str(info.parent))


def change_code(root):
  """Lets a changed copy of the package count as the code."""
  source = pathlib.Path(installed.__file__).parents[1]
  copy = root / source.name
  shutil.copytree(source, copy, ignore=shutil.ignore_patterns('*.pyc'))
  with open(copy / 'training' / 'optim.py', 'a') as file:
    file.write('# changed\n')
  installed.__file__ = str(copy / 'parallel' / 'installed.py')
