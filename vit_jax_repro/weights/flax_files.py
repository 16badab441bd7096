"""Reads checkpoints of Flax: trees of arrays in msgpack.

`flax.training.checkpoints.save_checkpoint` writes them as `checkpoint_100`,
which is what the trainer of the original code leaves in its workdir, and
`flax.serialization.to_bytes` as a file of any name. They hold only numbers,
texts and arrays, and reading them runs no code.
"""

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from flax import serialization

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages
from vit_jax_repro.weights import part_index

# Of save_checkpoint: a file, or a folder if Orbax wrote it. A number may have a
# fraction (flax/training/checkpoints.py, natural_sort).
_STEP = re.compile(r'checkpoint_([0-9]+(?:\.[0-9]+)?)')


def newest(folder: str | os.PathLike) -> str | None:
  """Returns the path of the checkpoint with the highest step, or None.

  Args:
    folder: a folder of files or folders `checkpoint_STEP`.
  """
  found = {}
  for name in os.listdir(folder):
    if match := _STEP.fullmatch(name):
      found[float(match[1])] = os.path.join(folder, name)
  return found[max(found)] if found else None


def read(path: str | os.PathLike) -> dict[str, Any]:
  """Reads a file into a flat tree: {'0/params/cls': array}.

  The file and its arrays are in memory together.

  Args:
    path: a file of msgpack, or the .index.json of a file in several parts.

  Raises:
    FileNotFoundError: a file does not exist.
    InputError: the file is damaged, or is no tree of Flax.
    OSError: the file cannot be read.
  """
  path = pathlib.Path(path)
  if path.name.endswith('.json'):
    return part_index.read(path, read)
  encoded = path.read_bytes()
  try:
    tree = serialization.msgpack_restore(encoded)
  except Exception as error:  # damaged bytes make it raise any exception
    raise InputError(f'{path} {_why_unreadable(error)}') from None
  if not isinstance(tree, dict | list):
    raise InputError(
      f'{path} holds a {type(tree).__name__} and no tree of arrays; save the '
      'parameters with flax.serialization.to_bytes'
    )
  return flatten(tree)


def flatten(tree: Any) -> dict[str, Any]:
  """Flattens dicts and lists of any depth: {'0/params/cls': leaf}.

  Flax writes a tuple as a dict of its numbers. Orbax reads one as a list, which
  gets the same names here.
  """
  flat = {}
  pending = [('', tree)]  # not recursive: a hostile file may be deep
  while pending:
    start, node = pending.pop()
    if isinstance(node, list | tuple):
      node = dict(enumerate(node))
    if isinstance(node, Mapping):
      pending += [(f'{start}{key}/', value) for key, value in node.items()]
    else:
      flat[start.removesuffix('/')] = node
  return dict(sorted(flat.items()))


def _why_unreadable(error):
  if 'incomplete input' in str(error):
    return (
      'is a truncated file of Flax (msgpack); copy it again, or give an '
      'earlier one'
    )
  reason = messages.short(error) or type(error).__name__
  return f"is no file of Flax's msgpack, or damaged ({reason}); copy it again"
