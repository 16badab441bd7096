"""Weights as a file or folder of a library, read back and compared."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_jax_repro import models, ports, weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, messages
from vit_jax_repro.output.messages import note
from vit_jax_repro.ports import (
  code_constants,
  file_kinds,
  folders,
  state_dicts,
  weight_sources,
)
from vit_jax_repro.weights import layouts, model_card, npz, trees

_SIGMOID = (
  "a port's file of weights alone does not say that the model decides each "
  'class on its own: take the sigmoid of its logits, not the softmax, or write '
  'a folder'
)


def write(
  path: str, read: weight_sources.WeightSource, to: str
) -> dict[str, np.ndarray]:
  """Writes weights and reads them back; returns the arrays of the file.

  Args:
    path: of the new file, or the new folder of a port.
    read: the weights, with the description of their model.
    to: one of `converting.TARGETS`.

  Raises:
    InputError: the target has no such model.
    OSError: a file cannot be written, or differs when it is read back.
  """
  if to in layouts.LAYOUTS:
    return _write_npz(path, read, to)
  return _write_port(path, read, to)


def _write_npz(path, read, layout):
  """Writes an .npz file and reads it back; returns its arrays."""
  if read.is_described:
    card = read.card
    model_card.save_model(
      path,
      read.params,
      architecture=card.architecture,
      class_names=card.class_names,
      preprocessing=card.preprocessing,
      image_size=card.image_size,
      orientation=card.orientation,
      loss=card.loss,
      layout=layout,
    )
  else:
    weights.save(path, read.params, layout=layout)
  flat = {name: npz.widened(array) for name, array in read.flat.items()}
  arrays = layouts.to_file(flat, layout)
  _check_same(arrays, dict(npz.read(path)))
  _check_tree(flat, weights.load(path))
  if _has_moved_slot(arrays, read.flat):
    note(
      "big_vision's files have no position for the class token, so it was "
      'added to the token: the same logits, but other numbers in the file'
    )
  return arrays


def _has_moved_slot(arrays, flat):
  """Returns whether the class token's position was added to the token."""
  prefix = layouts.IMAGE if layouts.has_two_towers(flat) else ''
  return f'params/{prefix}cls' in arrays and prefix + layouts.POSITIONS in flat


def _write_port(path, read, library):
  """Writes a port's file or folder and reads it back; returns its arrays."""
  module = models.create(read.card.architecture)
  check_pooling(module, read.params, library)
  state = ports.to_state_dict(read.params, library)
  file = path
  if path.endswith(state_dicts.SUFFIXES):
    if read.card.loss == 'sigmoid':
      note(_SIGMOID)
    code_constants.note_on_differences(library, read.card.architecture)
  else:
    os.mkdir(path)
    file = os.path.join(path, file_kinds.FILES[0])
    _write_configs(path, read, module, library)
  wrapper = 'model' if library == 'deit' else None
  state_dicts.write(file, state, wrapper=wrapper)
  back = state_dicts.read(file)
  _check_same(state, back)
  tree = ports.from_state_dict(
    back,
    num_heads=getattr(module, 'num_heads', None),
    library=library,
    token_slots=ports.has_token_slots(read.flat),
  )
  _check_tree(read.flat, tree)
  return state


def check_pooling(module: Any, params: Mapping[str, Any], library: str) -> None:
  """Raises an InputError if only the card shows what the head takes.

  A port's arrays do not show that a model with a class token averages patches,
  and only timm has such a model.

  Args:
    module: the model.
    params: its parameters, a canonical tree.
    library: one of `ports.LIBRARIES`.
  """
  if library == 'timm' or 'cls' not in params or 'head' not in params:
    return
  if module.classifier == 'gap' and not module.fc_norm:
    flat = trees.flatten(params)
    heads = [drop for drop in ports.DROPS if 'head' in drop]
    ways = ports.remedy(flat, library, drops=heads, others=['timm'])
    raise InputError(
      f'models of {library} do not classify by the mean of the patches beside '
      f'a class token, as this one does; {ways}'
    )


def _write_configs(folder, read, module, library):
  card = read.card
  spec = weights.describe(read.params)
  configs, remark = folders.files(
    library,
    module,
    read.params,
    image_size=card.image_size or model_card.default_image_size(spec),
    class_names=card.class_names,
    preprocessing=card.preprocessing
    or model_card.default_preprocessing(spec, module),
    loss=card.loss,
  )
  for name, config in configs.items():
    files.write_json(os.path.join(folder, name), config)
  if remark is not None:
    note(remark)


def _check_tree(flat, back):
  """Raises an OSError if the tree read back is not the one written.

  Positions may have moved to or from the class token's slot. Class token and
  positions are then left out here; the arrays of the file were compared before.
  """
  back = trees.flatten(back)
  # A mask of zeros may have been added, which transformers asks for.
  moving = {'cls', 'mask', layouts.POSITIONS, layouts.POSITIONS_BEFORE_CLS}
  moving |= {layouts.IMAGE + name for name in moving}
  moving = moving if flat.keys() != back.keys() else set()
  _check_same(
    *(
      {n: a for n, a in tree.items() if n not in moving}
      for tree in (flat, back)
    )
  )


def _check_same(written, read):
  wrong = written.keys() ^ read.keys()
  wrong |= {
    n for n in written.keys() & read.keys() if not _same(written[n], read[n])
  }
  if wrong:
    raise OSError(
      'the written arrays differ when read back, so the file was removed: '
      f'{messages.listed(wrong)}; check the disk'
    )


def _same(array, other):
  """Returns whether two arrays are equal to the last bit, NaNs included."""
  array, other = (np.ascontiguousarray(a) for a in (array, other))
  if (array.dtype, array.shape) != (other.dtype, other.shape):
    return False
  return np.array_equal(array.view(np.uint8), other.view(np.uint8))
