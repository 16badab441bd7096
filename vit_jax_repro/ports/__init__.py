"""State dicts of PyTorch ports, to and from the canonical tree, bit by bit.

Tables of names: `tables`; how arrays lie on either side: `leaves`.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages
from vit_jax_repro.ports import array_layouts, tables
from vit_jax_repro.ports.tables import LIBRARIES
from vit_jax_repro.weights import layouts, positions, trees

# What a wrapper puts before every name: DistributedDataParallel, torch.compile,
# and classes that hold the model as an attribute.
WRAPPERS = ('module.', '_orig_mod.', 'model.', 'backbone.')
PARTS = {'head': ('head/', 'head_dist/'), 'pre_logits': ('pre_logits/',)}

# One of these ends a name in every state dict of a library.
_MARKERS = {
  'patch_embed.proj.weight': 'timm',
  'stem.proj.weight': 'timm',
  'stem.conv.weight': 'timm',
  'layers.0.attention.q_proj.weight': 'transformers',
  'embedder.convolution.weight': 'transformers',
  'encoder.layer.0.attention.attention.query.weight': 'transformers_v4',
}


def wrapper_of(given: Collection[str]) -> str:
  """What of `WRAPPERS` all names begin with, one behind another; or ''."""
  start, count = '', -1
  while given and count < len(start):
    count = len(start)
    for wrapper in WRAPPERS:
      if all(name.startswith(start + wrapper) for name in given):
        start += wrapper
  return start


def library_of(given: Collection[str]) -> str:
  """Which of `LIBRARIES` has arrays of these names, wrapped or not.

  timm and facebookresearch/deit share their names; those with a distillation
  token are 'deit'.

  Raises:
    InputError: none has, or several have.
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
  """The canonical tree of a port's state dict, as `weights.load` gives it.

  Args:
    state: {name: array}; arrays are not changed, the result may share memory.
      What a wrapper put before all names (`wrapper_of`) is taken away.
    num_heads: A of the attention, which no array tells; by default that of
      the published model of this width (`leaves.NUM_HEADS`).
    library: one of `LIBRARIES`; by default what the names say.
    token_slots: whether timm's position embeddings have slots for class
      tokens (no_embed_class=False); by default by arithmetic
      (`positions.slots`), which takes those of some images that are not
      square for positions without.

  Raises:
    InputError: unknown library, names that are missing or have no place in a
      model (nothing is left out), shapes that make no sense, or an unknown
      number of heads.
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
  """The state dict that a port's own model of these parameters has.

  The port's model: timm's VisionTransformer (with fc_norm=False where it
  averages over patches; no_embed_class=True where positions come before the
  class token), VisionTransformerDistilled, ResNetV2 or MlpMixer; transformers'
  ViTForImageClassification (ViTModel without a head), DeiTForImage-
  ClassificationWithTeacher, BitForImageClassification. Elsewhere than in
  timm, positions that come before the class token get a slot of zeros for it.

  Args:
    params: canonical tree, stacked or not; arrays are not changed.
    library: one of `LIBRARIES`.
    drop: keys of `PARTS` to leave out.

  Raises:
    InputError: the library has no such model; what to leave out, if that
      helps.
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
  """A flat tree without the parts of it that `drop` names (of `PARTS`).

  Raises:
    InputError: unknown part, or a head that fits nothing without pre_logits.
  """
  if unknown := sorted(set(drop) - PARTS.keys()):
    raise InputError(f'cannot drop {unknown}; choose from {sorted(PARTS)}')
  starts = tuple(start for part in drop for start in PARTS[part])
  if 'head' not in drop and 'pre_logits' in drop:
    _check_head_fits(flat)
  return {n: array for n, array in flat.items() if not n.startswith(starts)}


def _read_form(state, library):
  """(family, form) of the table that a state dict belongs to."""
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
  """(family, form) of the table for a canonical tree."""
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
  """Every name has a place, and every place a name."""
  if 'fc_norm.weight' in given:
    raise InputError(
      f'this {library} model averages over patches and norms the average '
      "(fc_norm); the authors' models norm first, so none here computes this"
    )
  missing, unknown = wanted - set(given), set(given) - wanted
  if missing or unknown:
    raise InputError(
      f'not a {library} state dict of ViT, hybrid, BiT, Mixer or DeiT: missing '
      f'are {messages.listed(missing)}; unknown are {messages.listed(unknown)}'
    )


def _check_heads(flat):
  """A distilled model has both heads or none, and no tanh layer."""
  heads = [f'{head}/kernel' in flat for head in ('head', 'head_dist')]
  if 'dist' in flat and (heads[0] != heads[1] or 'pre_logits/kernel' in flat):
    raise InputError(
      'a distilled model (with a distillation token) has two heads or none and '
      'no pre_logits (pooler) layer'
    )


def _check_holds(flat, found, library):
  wanted = {name for leaf in found for name in leaf.canonical}
  missing, extra = wanted - flat.keys(), flat.keys() - wanted
  if layouts.POSITIONS in missing:
    raise InputError(
      f'{library} has no place for computed positions (sincos2d); only models '
      'that learned theirs can be converted'
    )
  if not missing and extra == {'pre_logits/kernel', 'pre_logits/bias'}:
    keep = ', or keep it and use --drop=head'
    raise InputError(
      f'{library} has no place for pre_logits with a head behind it; use '
      '--drop=pre_logits,head (features alone) or --drop=pre_logits (the head '
      'then sees what it was not trained on)'
      + (keep if library.startswith('transformers') else '')
    )
  if missing == {'cls'}:
    raise InputError(
      f"{library}'s ViT has a class token, and this model has none"
    )
  if missing or extra:
    raise InputError(
      f'{library} has no model with these parameters: without a place there '
      f'are {messages.listed(extra)}; missing are {messages.listed(missing)}'
    )


def _check_head_fits(flat):
  """Without pre_logits the head gets what entered them."""
  shape = np.shape(flat.get('pre_logits/kernel'))
  if len(shape) == 2 and shape[0] != shape[1] and 'head/kernel' in flat:
    raise InputError(
      f'pre_logits map {shape[0]} features to {shape[1]}, so the head fits '
      'nothing else; use --drop=pre_logits,head'
    )


def _with_slots(flat, library):
  """Gives positions the name in tables, and slots where a port needs them."""
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
  tokens = ('cls' in flat) + ('dist' in flat)
  if not tokens or layouts.POSITIONS not in flat:
    return
  if token_slots is None:
    count = flat[layouts.POSITIONS].shape[1]
    token_slots = positions.slots(count, tokens) != 0
  if not token_slots:
    flat[layouts.POSITIONS_BEFORE_CLS] = flat.pop(layouts.POSITIONS)
