"""Conversion between state dicts of PyTorch ports and the canonical tree.

Conversion is exact to the last bit. `tables` has the names, `array_layouts` the
layouts of arrays.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages
from vit_jax_repro.ports import array_layouts, tables
from vit_jax_repro.ports.tables import LIBRARIES
from vit_jax_repro.weights import layouts, positions, trees

# Prefixes that a wrapper adds to every name: DistributedDataParallel,
# torch.compile, and classes that hold the model as an attribute.
WRAPPERS = ('module.', '_orig_mod.', 'model.', 'backbone.')
PARTS = {'head': ('head/', 'head_dist/'), 'pre_logits': ('pre_logits/',)}

# In every state dict of a library, a name ends in one of these.
_MARKERS = {
  'patch_embed.proj.weight': 'timm',
  'stem.proj.weight': 'timm',
  'stem.conv.weight': 'timm',
  'layers.0.attention.q_proj.weight': 'transformers',
  'embedder.convolution.weight': 'transformers',
  'encoder.layer.0.attention.attention.query.weight': 'transformers_v4',
}


def wrapper_of(given: Collection[str]) -> str:
  """Returns the prefixes of `WRAPPERS` that all names have, joined; or ''."""
  start, count = '', -1
  while given and count < len(start):
    count = len(start)
    for wrapper in WRAPPERS:
      if all(name.startswith(start + wrapper) for name in given):
        start += wrapper
  return start


def library_of(given: Collection[str]) -> str:
  """Returns the library of `LIBRARIES` whose arrays have these names.

  The names may have a wrapper's prefix. timm and facebookresearch/deit share
  their names; a state dict with a distillation token counts as 'deit'.

  Raises:
    InputError: the names belong to no library, or to several.
  """
  found = {
    library
    for marker, library in _MARKERS.items()
    if any(name == marker or name.endswith(f'.{marker}') for name in given)
  }
  if len(found) != 1:
    raise InputError(
      f'unknown state dict: {len(given)} arrays named '
      f'{messages.listed(given)}; known are ViT, hybrid, BiT, Mixer and DeiT '
      f'of {", ".join(LIBRARIES)}'
    )
  (library,) = found
  distilled = f'{wrapper_of(given)}dist_token' in given
  return 'deit' if library == 'timm' and distilled else library


def from_state_dict(
  state: Mapping[str, np.ndarray],
  *,
  num_heads: int | None = None,
  library: str | None = None,
  token_slots: bool | None = None,
) -> dict[str, Any]:
  """Returns the canonical tree of a port's state dict, as `weights.load` does.

  Args:
    state: {name: array}. Arrays are not changed; the result may share their
      memory. A wrapper's prefix (`wrapper_of`) is removed from the names.
    num_heads: A of the attention, which a state dict does not store; by
      default that of the published model of this width
      (`array_layouts.NUM_HEADS`).
    library: one of `LIBRARIES`; by default it is derived from the names.
    token_slots: whether timm's position embeddings have slots for class tokens
      (no_embed_class=False). The default is derived from their number
      (`positions.slots`), which is wrong for some images that are not square:
      it takes their embeddings for embeddings without slots.

  Raises:
    InputError: the library is unknown, names are missing or unknown (none is
      ignored), a shape is impossible, or the number of heads is unknown.
  """
  start = len(wrapper_of(state))
  state = {name[start:]: array for name, array in state.items()}
  library = library or library_of(state)
  family, form = _read_form(state, library)
  table = _table(library, family, form)
  found = array_layouts.leaves(table, state, 'port')
  _check_names(state, {leaf.port for leaf in found}, library)
  flat = {}
  for leaf in found:
    arrays = array_layouts.split(leaf, np.asarray(state[leaf.port]), num_heads)
    flat |= zip(leaf.canonical, arrays, strict=True)
  _check_heads(flat)
  if library in ('timm', 'deit'):
    _name_positions(flat, token_slots)
  return trees.nest(flat)


def to_state_dict(
  params: Mapping[str, Any],
  library: str,
  *,
  drop: Collection[str] = (),
) -> dict[str, np.ndarray]:
  """Returns the state dict of the port's own model with these parameters.

  The port's model is one of timm's VisionTransformer (with fc_norm=False if it
  averages over patches; with no_embed_class=True if positions are added before
  the class token), VisionTransformerDistilled, ResNetV2 and MlpMixer, or one of
  transformers' ViTForImageClassification (ViTModel without a head),
  DeiTForImageClassificationWithTeacher and BitForImageClassification. Except
  in timm, positions that are added before the class token get a slot of zeros
  for it.

  Args:
    params: canonical tree, stacked or not; arrays are not changed.
    library: one of `LIBRARIES`.
    drop: keys of `PARTS` to leave out.

  Raises:
    InputError: the library has no such model. The message names the parts to
      leave out if that helps.
  """
  if library not in LIBRARIES:
    raise InputError(f'unknown {library=}; choose from {list(LIBRARIES)}')
  flat = without(trees.unstack(trees.flatten(params)), drop)
  _check_heads(flat)
  family, form = _written_form(flat, library)
  table = _table(library, family, form)
  flat = _with_slots(flat, library)
  found = array_layouts.leaves(table, flat, 'canonical')
  _check_holds(flat, found, library)
  return {
    leaf.port: array_layouts.join(
      leaf, [np.asarray(flat[name]) for name in leaf.canonical]
    )
    for leaf in found
  }


def without(flat: Mapping[str, Any], drop: Collection[str]) -> dict[str, Any]:
  """Returns a flat tree without the parts of `PARTS` named in `drop`.

  Raises:
    InputError: a part is unknown, or the head does not fit without pre_logits.
  """
  if unknown := sorted(set(drop) - PARTS.keys()):
    raise InputError(f'cannot drop {unknown}; choose from {sorted(PARTS)}')
  starts = tuple(start for part in drop for start in PARTS[part])
  if 'head' not in drop and 'pre_logits' in drop:
    _check_head_fits(flat)
  return {n: array for n, array in flat.items() if not n.startswith(starts)}


def _read_form(state, library):
  """Returns (family, form) of the table that a state dict belongs to."""
  if library not in LIBRARIES:
    raise InputError(f'unknown {library=}; choose from {list(LIBRARIES)}')
  if library in ('timm', 'deit'):
    if 'stem.proj.weight' in state:
      return 'mixer', ''
    if 'stem.conv.weight' in state:
      return 'bit', ''
    if any(name.startswith('patch_embed.backbone.') for name in state):
      stem = 'patch_embed.backbone.stem.conv.weight' in state
      return 'hybrid', 'stem.' if stem else ''
    return 'vit', ''
  forms = ('vit.', 'deit.', 'bit.')
  form = next((f for f in forms if any(n.startswith(f) for n in state)), '')
  bit = f'{form}embedder.convolution.weight' in state
  return 'bit' if bit else 'vit', form


def _written_form(flat, library):
  """Returns (family, form) of the table for a canonical tree."""
  if 'stem/kernel' in flat:
    return 'mixer', ''
  is_bit = 'root_block/conv/kernel' in flat
  if library in ('timm', 'deit'):
    if is_bit:
      return 'bit', ''
    if 'conv_root/kernel' in flat:
      stages = any(name.startswith('block1/') for name in flat)
      return 'hybrid', 'stem.' if stages else ''
    return 'vit', ''
  if 'conv_root/kernel' in flat:
    return 'hybrid', ''
  if 'head/kernel' not in flat:
    return 'bit' if is_bit else 'vit', ''
  if is_bit:
    return 'bit', 'bit.'
  return 'vit', 'deit.' if 'dist' in flat else 'vit.'


def _table(library, family, form):
  known = tables.TABLES[library]
  if (family, form) not in known:
    families = sorted({family for family, _ in known})
    raise InputError(
      f'{library} has no {family} models, only {" and ".join(families)}'
    )
  return known[family, form]


def _check_names(given, wanted, library):
  """Raises an InputError if names are missing or unknown."""
  if 'fc_norm.weight' in given:
    raise InputError(
      f'this {library} model averages over patches and norms the average '
      "(fc_norm); the authors' models norm first, so this package has no such "
      'model'
    )
  missing, unknown = wanted - set(given), set(given) - wanted
  if missing or unknown:
    raise InputError(
      f'not a {library} state dict of ViT, hybrid, BiT, Mixer or DeiT: missing '
      f'are {messages.listed(missing)}; unknown are {messages.listed(unknown)}'
    )


def _check_heads(flat):
  """Raises an InputError if a distilled model has one head or a tanh layer."""
  heads = [f'{head}/kernel' in flat for head in ('head', 'head_dist')]
  if 'dist' in flat and (heads[0] != heads[1] or 'pre_logits/kernel' in flat):
    raise InputError(
      'a distilled model (with a distillation token) has two heads or none and '
      'no pre_logits (pooler) layer'
    )


def _check_holds(flat, found, library):
  """Raises an InputError if the library has no model of these parameters."""
  wanted = {name for leaf in found for name in leaf.canonical}
  missing, extra = wanted - flat.keys(), flat.keys() - wanted
  if layouts.POSITIONS in missing:
    raise InputError(
      f'models of {library} learn their position embeddings, and these are '
      'computed (sincos2d); they cannot be converted'
    )
  if not missing and extra == {'pre_logits/kernel', 'pre_logits/bias'}:
    keep = ', or keep it and use --drop=head'
    raise InputError(
      f'models of {library} have no pre_logits layer before the head; use '
      '--drop=pre_logits,head (only features) or --drop=pre_logits (the head '
      'then receives features that it was not trained on)'
      + (keep if library.startswith('transformers') else '')
    )
  if missing == {'cls'}:
    raise InputError(
      f"{library}'s ViT has a class token, and this model has none"
    )
  if missing or extra:
    raise InputError(
      f'{library} has no model with these parameters: unknown to it are '
      f'{messages.listed(extra)}; missing are {messages.listed(missing)}'
    )


def _check_head_fits(flat):
  """Raises an InputError if the head does not fit the input of pre_logits."""
  shape = np.shape(flat.get('pre_logits/kernel'))
  if len(shape) == 2 and shape[0] != shape[1] and 'head/kernel' in flat:
    raise InputError(
      f'pre_logits map {shape[0]} features to {shape[1]}, so the head does not '
      'fit without them; use --drop=pre_logits,head'
    )


def _with_slots(flat, library):
  """Renames positions as in the tables, and adds slots if a port needs them."""
  if layouts.POSITIONS_BEFORE_CLS not in flat:
    return flat
  flat = dict(flat)
  array = np.asarray(flat.pop(layouts.POSITIONS_BEFORE_CLS))
  if library != 'timm':
    count = ('cls' in flat) + ('dist' in flat)
    array = np.concatenate([np.zeros_like(array[:, :count]), array], axis=1)
  flat[layouts.POSITIONS] = array
  return flat


def _name_positions(flat, token_slots):
  """Renames, in place, positions without slots for class tokens."""
  tokens = ('cls' in flat) + ('dist' in flat)
  if not tokens or layouts.POSITIONS not in flat:
    return
  if token_slots is None:
    count = flat[layouts.POSITIONS].shape[1]
    token_slots = positions.slots(count, tokens) != 0
  if not token_slots:
    flat[layouts.POSITIONS_BEFORE_CLS] = flat.pop(layouts.POSITIONS)
