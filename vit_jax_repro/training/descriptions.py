"""What lies beside a saved state: what it was, to be compared when it is read.

A JSON-able dict of

  meta    whatever the run wants to have back
  score   how good the state is, or null
  leaves  {path: dtype, shape and checksum}, see `checksums`; null in one that
          was read and had been written before there were checksums
  digest  of all these
"""

import hashlib
import json
import os
import pathlib
from typing import Any

from vit_jax_repro.training import checksums

FILE = os.path.join('meta', 'metadata')  # where Orbax's JsonSave puts it


class DamagedError(Exception):
  """A checkpoint is not what was saved; the text says what is wrong."""


class OtherStateError(ValueError):
  """A checkpoint was saved by other settings."""


_KEYS = {'meta', 'score', 'leaves'}
_OLD = {'processes'}  # what stood there before there were checksums


def create(state: Any, meta: dict, score: float | None) -> dict:
  """Describes a state; all processes must call it together."""
  description = {
    'meta': meta,
    'score': score,
    'leaves': checksums.of_tree(state),
  }
  return description | {'digest': _digest(description)}


def read(folder: pathlib.Path) -> dict:
  """Reads what was put into a checkpoint's folder.

  Raises:
    DamagedError: it is not as it was written.
    OSError, ValueError: it cannot be read.
  """
  content = json.loads((folder / FILE).read_text(encoding='utf-8'))
  if not isinstance(content, dict):
    raise DamagedError('its description is none')
  if content.keys() == _OLD:
    return {'meta': content, 'score': None, 'leaves': None}
  digest = content.pop('digest', None)
  if content.keys() != _KEYS or digest != _digest(content):
    raise DamagedError('the checksum of its description is another')
  return content


def require_kind(description: dict, shapes: Any, folder: pathlib.Path) -> None:
  """Compares paths, dtypes and shapes with those that the settings make.

  Raises:
    OtherStateError: one line with the first that differs.
  """
  if description['leaves'] is None:
    return
  leaves = description['leaves'].items()
  saved = {path: kind.split()[0] for path, kind in leaves}
  wanted = checksums.of_shapes(shapes)
  for path in sorted(saved.keys() | wanted.keys()):
    if saved.get(path) != wanted.get(path):
      raise OtherStateError(
        f'{folder} holds another kind of state: {path} is '
        f'{saved.get(path, "not there")} and the settings make '
        f'{wanted.get(path, "none")}; continue with the settings and the '
        'version that the run began with'
      )


def require_same(description: dict, state: Any) -> None:
  """Compares every leaf, bit by bit; all processes must call it together.

  Raises:
    DamagedError: naming the first that differs.
  """
  leaves = description['leaves']
  if leaves is None:
    return
  found = checksums.of_tree(state)
  wrong = [path for path in found if found[path] != leaves[path]]
  if wrong:
    more = f' and of {len(wrong) - 1} more' if len(wrong) > 1 else ''
    raise DamagedError(f'the checksum of {wrong[0]}{more} is another')


def _digest(description):
  text = json.dumps(description, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()
