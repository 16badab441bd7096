"""Reads the parameters in checkpoints of Orbax, without optimizer state.

A checkpoint is a folder of arrays, or one with several items, such as `state`
and `meta` of a run's own `checkpoints/STEP`. Those of a run also have checksums
of all arrays, which are compared, and describe their model.
"""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax_repro import weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages, orbax_errors
from vit_jax_repro.output.messages import note
from vit_jax_repro.ports import file_kinds, jax_names
from vit_jax_repro.weights import (
  flax_files,
  integrity,
  layouts,
  model_card,
  npz,
)

# Where a run keeps the average that it evaluates (training/averaging.py).
_AVERAGE = 'opt_state/average/'
_CARD = 'model.json'  # of a finished run, in the folder of its checkpoints'


def read(
  folder: str | os.PathLike,
  *,
  ema: bool = False,
) -> tuple[dict[str, Any], model_card.ModelCard | None]:
  """Reads the parameters of a checkpoint, and the card of a run's own.

  If the run evaluates an average of its parameters, that is read, with a note.

  Args:
    folder: the checkpoint.
    ema: whether to take the averaged parameters of another program's.

  Raises:
    InputError: the checkpoint is damaged, or holds no model, or with `ema` no
      average.
    OSError: it cannot be read.
  """
  orbax_errors.silence_orbax()
  folder = pathlib.Path(folder).absolute()
  description = _description(folder)
  item = _item_of_model(folder, ema=ema)
  tree, shapes = _metadata(item)
  is_averaged = any(name.startswith(_AVERAGE) for name in shapes)
  is_ema = ema and not is_averaged and not _is_average(item)
  try:
    names = jax_names.parameters(shapes, folder, ema=is_ema)
    stored = _averaged(names, shapes)
    _check_sizes(item, [shapes[name] for name in stored.values()])
    arrays = _arrays(item, tree, set(stored.values()))
    if description is not None:
      _compare(folder, description, arrays)
    params = weights.from_names(
      {names[name]: arrays[stored[name]] for name in names}
    )
  except InputError as error:
    named = str(folder) in str(error)
    raise InputError(f'{"" if named else f"{folder}: "}{error}') from None
  return params, _card(folder, description)


def card_file(folder: str | os.PathLike) -> pathlib.Path:
  """Returns the path of the card of the run that a checkpoint may belong to."""
  return pathlib.Path(folder).absolute().parent.parent / _CARD


def _item_of_model(folder, *, ema):
  """Returns the folder of arrays with the model: the checkpoint or an item."""
  if _is_arrays(folder):
    return folder
  items = _items(folder)
  if not items:
    raise InputError(
      f'{folder} is an unfinished Orbax checkpoint without arrays; give an '
      'earlier one'
    )
  if len(items) == 1:
    return items[0]
  models = [item for item in items if _has_model(item)]
  averages = [item for item in models if _is_average(item)]
  others = [item for item in models if not _is_average(item)]
  if averages and not others:
    note(f'{folder}: {jax_names.ONLY_AVERAGE}')
  elif averages and not ema:
    note(f'{folder} {jax_names.average_too(averages[0].name)}')
  found = averages if averages and (ema or not others) else others
  if len(found) > 1:
    raise InputError(
      f'{folder} holds several models: '
      f'{messages.listed(item.name for item in found)}; give the folder of one '
      f'of them, such as {found[0]}'
    )
  return found[0] if found else items[0]


def _is_average(item):
  return item.name in layouts.AVERAGES


def _has_model(item):
  try:
    names = _metadata(item)[1]
    return bool(layouts.from_file(names)) or layouts.average_in(names)
  except InputError:
    return False


def _is_arrays(folder):
  return any((folder / name).is_file() for name in file_kinds.ORBAX_ARRAYS)


def _items(folder):
  """Returns the folders of arrays in a checkpoint."""
  return sorted(path for path in folder.iterdir() if _is_arrays(path))


def _description(folder):
  """Returns what a run saved with its checkpoint; None for others'."""
  if not (folder / integrity.FILE).is_file():
    return None
  try:
    return integrity.read_description(folder)
  except (ValueError, AttributeError):
    return None  # another program's item of this name
  except integrity.DamagedError as error:
    if (folder / 'state').is_dir() and _is_own(folder):
      raise InputError(_damaged(folder, error)) from None
    return None


def _is_own(folder):
  """Returns whether a description has the keys of a run's own."""
  text = (folder / integrity.FILE).read_text(encoding='utf-8')
  return all(f'"{key}"' in text for key in ('meta', 'score', 'leaves'))


def _damaged(folder, reason):
  return (
    f'{folder} is a damaged Orbax checkpoint ({messages.short(reason)}); give '
    'another checkpoint, or copy it again'
  )


def _metadata(item):
  """Returns the tree of an item, and {name: metadata} of its arrays."""
  import orbax.checkpoint as ocp
  from etils import epath

  try:
    tree = ocp.PyTreeCheckpointHandler().metadata(epath.Path(item)).tree
  except Exception as error:  # Orbax raises bare Exceptions on bad data
    raise InputError(_damaged(item, error)) from None
  shapes = flax_files.flatten(tree)
  return tree, {name: x for name, x in shapes.items() if x is not None}


def _check_sizes(item, arrays):
  """Raises an InputError if arrays claim far more bytes than their folder."""
  claimed = sum(
    math.prod(x.shape) * np.dtype(x.dtype).itemsize
    for x in arrays
    if getattr(x, 'shape', None) is not None
  )
  files = (path for path in item.rglob('*') if path.is_file())
  npz.check_claim(item, claimed, sum(path.stat().st_size for path in files))


def _averaged(names, shapes):
  """Returns {name: name of the array to read}, in place of it an average."""
  stored, count = {}, 0
  for name in names:
    average = _AVERAGE + name.removeprefix('params/')
    is_there = name.startswith('params/') and average in shapes
    stored[name] = average if is_there else name
    count += is_there
  if count:
    note(
      f'the run evaluates an average of its parameters, and so that is read '
      f'({count} arrays of {len(names)})'
    )
  return stored


def _arrays(item, tree, wanted):
  """Returns {name: array} of the wanted arrays of an item."""
  import orbax.checkpoint as ocp
  from etils import epath

  def chosen(node, start, leaf, other):
    if isinstance(node, Mapping):
      return {
        key: chosen(x, f'{start}{key}/', leaf, other) for key, x in node.items()
      }
    if isinstance(node, list | tuple):
      return [
        chosen(x, f'{start}{i}/', leaf, other) for i, x in enumerate(node)
      ]
    if node is None:
      return None
    return leaf if start.removesuffix('/') in wanted else other

  numpy = ocp.RestoreArgs(restore_type=np.ndarray)
  try:
    read = ocp.PyTreeCheckpointHandler().restore(
      epath.Path(item),
      args=ocp.args.PyTreeRestore(
        item=chosen(tree, '', 0, ocp.PLACEHOLDER),
        restore_args=chosen(tree, '', numpy, numpy),
      ),
    )
  except Exception as error:  # Orbax raises bare Exceptions on bad data
    raise InputError(_damaged(item, error)) from None
  return {
    name: x for name, x in flax_files.flatten(read).items() if name in wanted
  }


def _compare(folder, description, arrays):
  """Raises an InputError if an array is not the one that the run saved."""
  leaves = description['leaves']
  if leaves is None:
    note(f'{folder} is old and has no checksums: it is not checked')
    return
  found = integrity.describe_leaves(arrays)
  wrong = [name for name in found if found[name] != leaves.get(name)]
  if wrong:
    reason = f'the checksum of {messages.listed(wrong)} differs'
    raise InputError(_damaged(folder, reason))


def _card(folder, description):
  """Returns the card in a run's checkpoint or of the finished run, or None."""
  if description is None:
    return None
  card = description['meta'].get('card')
  if card is not None:
    return model_card.from_json(card, str(folder / integrity.FILE))
  return model_card.read_card(card_file(folder))
