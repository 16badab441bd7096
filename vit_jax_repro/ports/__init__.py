"""Conversion between state dicts of PyTorch ports and the canonical tree.

Conversion is exact to the last bit. `tables` has the names, `array_layouts` the
layouts of arrays.
"""

import re
import sys
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages
from vit_jax_repro.ports import (
  array_layouts,
  forms,
  tensors,
  token_positions,
  unsupported,
)
from vit_jax_repro.ports.forms import (
  LIBRARIES,
  library_of,
  prefixes,
  wrapper_of,
)
from vit_jax_repro.ports.token_positions import has_token_slots
from vit_jax_repro.weights import layouts, trees

__all__ = [
  'COUNTER',
  'DROPS',
  'LIBRARIES',
  'PARTS',
  'from_state_dict',
  'has_token_slots',
  'library_of',
  'prefixes',
  'remedy',
  'to_state_dict',
  'without',
  'wrapper_of',
]

PARTS = {
  'head': ('head/', 'head_dist/'),
  'pre_logits': ('pre_logits/',),
  'mask': ('mask',),
  'txt': ('txt/',),  # tower of an image-text model
}
# What may be left out so that a library holds the rest, the least first.
DROPS = (
  ('mask',),
  ('head',),
  ('head', 'mask'),
  ('pre_logits', 'head'),
  ('pre_logits', 'head', 'mask'),
)
# Batches that a norm of PyTorch has seen in training. No output depends on the
# number, and PyTorch loads a state dict without it.
COUNTER = '.num_batches_tracked'
_CHUNK = re.compile(r'\bblocks\.[0-9]+\.([0-9]+)\.')


def from_state_dict(
  state: Mapping[str, Any],
  *,
  num_heads: int | None = None,
  library: str | None = None,
  token_slots: bool | None = None,
) -> dict[str, Any]:
  """Returns the canonical tree of a port's state dict, as `weights.load` does.

  Args:
    state: {name: array or tensor of PyTorch}, such as model.state_dict(). It is
      not changed; the result may share its memory. A wrapper's prefix
      (`wrapper_of`) is removed from the names, and counters of batches are left
      out.
    num_heads: A of the attention, which a state dict does not store; by
      default that of the published model of this width
      (`array_layouts.NUM_HEADS`).
    library: one of `LIBRARIES`; by default it is derived from the names.
    token_slots: whether timm's position embeddings have slots for class tokens
      (no_embed_class=False). The default is derived from their number
      (`positions.slots`), which is wrong for some images that are not square:
      it takes their embeddings for embeddings without slots. Slots for
      registers, which no model here has, are added to the registers.

  Raises:
    InputError: the library is unknown, names are missing or unknown (none is
      ignored), a shape is impossible, or the number of heads is unknown.
  """
  start = len(wrapper_of(state))
  state = {
    name[start:]: _array(name, array)
    for name, array in state.items()
    if not name.endswith(COUNTER)
  }
  unsupported.check_one_model(state)
  unsupported.check_numbers(state)
  library = library or library_of(state)
  forms.check_library(library)
  if library == 'dinov2':  # its blocks may be saved in chunks
    state = {_CHUNK.sub(r'blocks.\1.', n): array for n, array in state.items()}
  table = forms.table(library, *forms.of_state(state, library))
  found = array_layouts.leaves(table, state, 'port')
  unsupported.check_names(state, {leaf.port for leaf in found}, library)
  flat = {}
  for leaf in found:
    arrays = array_layouts.split(leaf, np.asarray(state[leaf.port]), num_heads)
    flat |= zip(leaf.canonical, arrays, strict=True)
  unsupported.check_parts(flat)
  if library in ('timm', 'deit'):
    flat = token_positions.from_timm(flat, token_slots)
  return trees.nest(flat)


def _array(name, value):
  """Returns an array of a state dict that may hold tensors of PyTorch."""
  torch = sys.modules.get('torch')  # without it there are no tensors
  if torch is not None and isinstance(value, torch.Tensor):
    return tensors.to_numpy(torch, 'state dict', name, value)
  if not hasattr(value, 'dtype'):
    raise InputError(
      f'state dict: {messages.quoted(name)} is of type {type(value).__name__}, '
      'not an array or a tensor; give only model.state_dict()'
    )
  return value


def to_state_dict(
  params: Mapping[str, Any],
  library: str,
  *,
  drop: Collection[str] = (),
) -> dict[str, np.ndarray]:
  """Returns the state dict of the port's own model with these parameters.

  The port's model is one of timm's VisionTransformer (with fc_norm=False if it
  averages over patches; with no_embed_class=True if positions are added before
  the class token), VisionTransformerDistilled, ResNetV2, MlpMixer and
  EfficientNet, or one of transformers' ViTForImageClassification (ViTModel
  without a head), DeiTForImageClassification,
  DeiTForImageClassificationWithTeacher, BitForImageClassification,
  Dinov2ForImageClassification and
  Dinov2WithRegistersForImageClassification (or their models without a head); or
  one of the models of facebookresearch/deit and facebookresearch/dinov2. Except
  in timm, positions that are added before the class token get a slot of zeros
  for it.

  Args:
    params: canonical tree, stacked or not; arrays are not changed. Of an
      image-text model, the image tower is taken.
    library: one of `LIBRARIES`.
    drop: keys of `PARTS` to leave out.

  Raises:
    InputError: the library has no such model. The message names what to leave
      out, or another library, if that helps.
  """
  forms.check_library(library)
  if layouts.has_two_towers(params):
    params = layouts.tower(params, layouts.IMAGE)
  flat = without(trees.unstack(trees.flatten(params)), drop)
  unsupported.check_parts(flat)
  try:
    flat, found = _in_library(flat, library)
  except unsupported.NotHeldError as error:
    raise InputError(f'{error}; {remedy(flat, library)}') from None
  return {
    leaf.port: array_layouts.join(
      leaf, [np.asarray(flat[name]) for name in leaf.canonical]
    )
    for leaf in found
  }


def _in_library(flat, library):
  """Returns a flat tree as a library has it, and the arrays of its model.

  Raises:
    NotHeldError, InputError: the library has no such model.
  """
  family, form = forms.of_tree(flat, library)
  table = forms.table(library, family, form)
  if library == 'deit' and forms.is_scaled(flat) and has_token_slots(flat):
    raise unsupported.NotHeldError(
      'models of facebookresearch/deit with LayerScale have no position for '
      'the class token, and this one has'
    )
  flat = token_positions.for_library(flat, library)
  if family == 'dinov2' and 'registers' in flat and 'mask' not in flat:
    # transformers asks for it.
    flat['mask'] = np.zeros_like(flat['registers'][:, :1])
  found = array_layouts.leaves(table, flat, 'canonical')
  unsupported.check_encoder(flat, found, library)
  unsupported.check_head_width(flat, library, family)
  unsupported.check_library_holds(flat, found, library)
  return flat, found


def remedy(
  flat: Mapping[str, Any],
  library: str,
  *,
  drops: Collection[tuple[str, ...]] = DROPS,
  others: Collection[str] = LIBRARIES,
) -> str:
  """Returns what to do with a model that a library does not have.

  Only what leads to a file is named.

  Args:
    flat: the canonical tree.
    library: one of `LIBRARIES`.
    drops: sets of keys of `PARTS` to try to leave out.
    others: libraries to try instead.
  """
  ways = []
  for drop in drops:
    rest = without(flat, drop)
    if len(rest) < len(flat) and _is_held(rest, library):
      ways.append(f'--drop={",".join(drop)}')
      break
  if others := [other for other in others if _is_held(flat, other)]:
    ways.append(f'--to={" or ".join(others)}')
  if not ways:
    return 'no library here has such a model; keep it as .npz'
  return f'use {", or ".join(ways)}'


def _is_held(flat, library):
  try:
    _in_library(flat, library)
  except InputError:
    return False
  return True


def without(flat: Mapping[str, Any], drop: Collection[str]) -> dict[str, Any]:
  """Returns a flat tree without the parts of `PARTS` named in `drop`.

  Raises:
    InputError: a part is unknown, or the head does not fit without pre_logits.
  """
  if unknown := sorted(set(drop) - PARTS.keys()):
    raise InputError(f'cannot drop {unknown}; choose from {sorted(PARTS)}')
  starts = tuple(start for part in drop for start in PARTS[part])
  if 'head' not in drop and 'pre_logits' in drop:
    unsupported.check_head_fits(flat)
  return {n: array for n, array in flat.items() if not n.startswith(starts)}
