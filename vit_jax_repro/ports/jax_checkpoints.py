"""Checkpoints of JAX programs: Flax's msgpack and Orbax's folders.

Of a folder with several checkpoints, the newest is read.
"""

import dataclasses
import os
from typing import Any

import numpy as np

from vit_jax_repro import weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import waiting
from vit_jax_repro.output.messages import note
from vit_jax_repro.ports import (
  file_kinds,
  flax_names,
  jax_names,
  orbax_folders,
)
from vit_jax_repro.weights import flax_files, integrity, model_card

KINDS = ('msgpack', 'orbax')


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """The weights of a checkpoint: a tree, or the arrays of transformers' model.

  Attributes:
    params: canonical tree; None for a model of transformers.
    state: for a model of transformers, the state dict of its PyTorch model.
    card: the description, if there is one.
  """

  params: dict[str, Any] | None = None
  state: dict[str, np.ndarray] | None = None
  card: model_card.ModelCard | None = None


def file_of(path: str) -> str:
  """Returns the file or folder of one checkpoint: the newest of several.

  Args:
    path: of a kind in `KINDS`.
  """
  if not os.path.isdir(path):
    return path
  for name in file_kinds.FLAX:
    if os.path.exists(os.path.join(path, name)):
      return os.path.join(path, name)
  return file_kinds.newest_step(path) or path


def card_file(path: str) -> str:
  """Returns the path of the JSON file that may describe a checkpoint.

  Args:
    path: of a kind in `KINDS`.
  """
  file = file_of(path)
  if os.path.isdir(file):
    return os.fspath(orbax_folders.card_file(file))
  return model_card.card_path(file)


def identity(path: str) -> str:
  """Returns a file that differs between any two checkpoints.

  Args:
    path: of a kind in `KINDS`.
  """
  file = file_of(path)
  if not os.path.isdir(file):
    return file
  own = os.path.join(file, integrity.FILE)
  if os.path.isfile(own):  # a run's own has checksums of its arrays
    return own
  items = sorted(entry.path for entry in os.scandir(file) if entry.is_dir())
  lists = [os.path.join(x, file_kinds.ORBAX_LIST) for x in (file, *items)]
  return next(filter(os.path.isfile, lists), file)


def read(path: str, *, ema: bool = False) -> Checkpoint:
  """Reads the weights of a checkpoint; optimizer state is not read.

  Args:
    path: of a kind in `KINDS`.
    ema: whether to take the averaged parameters.

  Raises:
    InputError: the checkpoint is damaged, or holds no model of this package, or
      with `ema` no average.
    OSError: it cannot be read.
  """
  file = file_of(path)
  if file != path and os.path.basename(file) not in file_kinds.FLAX:
    note(f'{path}: the newest checkpoint is {file}')
  with waiting.doing(f'reading {file}'):
    if os.path.isdir(file):
      params, card = orbax_folders.read(file, ema=ema)
      return Checkpoint(params=params, card=card)
    flat = flax_files.read(file)
  if flax_names.are_of_transformers(flat):
    if ema:
      raise InputError(f'{file}: {jax_names.NO_AVERAGE}')
    return Checkpoint(state=flax_names.state_dict(flat))
  try:
    names = jax_names.parameters(flat, file, ema=ema)
    params = weights.from_names({names[name]: flat[name] for name in names})
  except InputError as error:
    raise InputError(f'{file}: {error}') from None
  return Checkpoint(params=params, card=model_card.card_or_note(file))
