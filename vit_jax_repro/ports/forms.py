"""The library of a state dict, and the table of names that it belongs to."""

from collections.abc import Collection, Mapping
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages
from vit_jax_repro.ports import other_tables, tables
from vit_jax_repro.ports.array_layouts import Group

LIBRARIES = (*tables.LIBRARIES, *other_tables.TABLES)

# Prefixes that a wrapper adds to every name: DistributedDataParallel,
# torch.compile, and classes that hold the model as an attribute.
WRAPPERS = ('module.', '_orig_mod.', 'model.', 'backbone.')
# In every state dict of a library, a name ends in one of these.
_MARKERS = {
  'patch_embed.proj.weight': 'timm',
  'stem.proj.weight': 'timm',
  'stem.conv.weight': 'timm',
  'conv_stem.weight': 'timm',
  'layers.0.attention.q_proj.weight': 'transformers',
  'embedder.convolution.weight': 'transformers',
  'encoder.layer.0.attention.q_proj.weight': 'transformers',
  'encoder.layer.0.attention.attention.query.weight': 'transformers_v4',
  **other_tables.MARKERS,
}
# Names of the model itself in transformers' models with a head.
_TRANSFORMERS_FORMS = ('vit.', 'deit.', 'bit.', *tables.DINOV2_PREFIXES)
# Names that timm's ViTs do not have, but those of other libraries that share
# the rest of their names with timm.
_TELLING = {
  'dist_token': 'deit',
  'blocks.0.gamma_1': 'deit',
  'mask_token': 'dinov2',
  'register_tokens': 'dinov2',
  'linear_head.weight': 'dinov2',
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


def prefixes(given: Collection[str]) -> list[str]:
  """Returns the prefix of each model among the names of arrays, sorted.

  A model within another model, such as the ResNet of a hybrid, has none of its
  own.
  """
  found = set()
  for marker in _MARKERS:
    for name in given:
      if name == marker or name.endswith(f'.{marker}'):
        found.add(_prefix(name.removesuffix(marker), marker, given))
  return sorted(
    prefix
    for prefix in found
    if not any(prefix != p and prefix.startswith(p) for p in found)
  )


def _prefix(prefix, marker, given):
  """Returns a prefix without the name of the model below its head."""
  if _MARKERS[marker].startswith('transformers'):
    for form in _TRANSFORMERS_FORMS:
      if prefix == form or prefix.endswith(f'.{form}'):
        return prefix.removesuffix(form)
  whole = prefix.removesuffix('backbone.')
  return whole if f'{whole}linear_head.weight' in given else prefix


def library_of(given: Collection[str]) -> str:
  """Returns the library of `LIBRARIES` whose arrays have these names.

  The names may have a wrapper's prefix. timm, facebookresearch/deit and
  facebookresearch/dinov2 share most of their names. A state dict with a
  distillation token or with their names of LayerScale counts as 'deit', and one
  with a mask token or their name of the registers as 'dinov2'.

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
      f'{messages.listed(given)}; known are ViT, hybrid, BiT, Mixer, DeiT, '
      f'DINOv2 and EfficientNet of {", ".join(LIBRARIES)}'
    )
  (library,) = found
  if library != 'timm':
    return library
  starts = wrapper_of(given), 'backbone.'  # only below the head of a DINOv2
  return next(
    (
      other
      for end, other in _TELLING.items()
      if any(f'{start}{end}' in given for start in starts)
    ),
    'timm',
  )


def check_library(library: str) -> None:
  """Raises an InputError if a library is none of `LIBRARIES`."""
  if library not in LIBRARIES:
    raise InputError(f'unknown {library=}; choose from {list(LIBRARIES)}')


def of_state(given: Collection[str], library: str) -> tuple[str, str]:
  """Returns (family, form) of the table that a state dict belongs to.

  Args:
    given: names of its arrays, without a wrapper's prefix.
    library: one of `LIBRARIES`.
  """
  if library == 'dinov2':
    return 'vit', 'backbone.' if 'linear_head.weight' in given else ''
  if library in ('timm', 'deit'):
    return _of_timm(given)
  if library in other_tables.TABLES:
    return 'vit', other_tables.form(given, library)
  return _of_transformers(given)


def _of_timm(given):
  if 'stem.proj.weight' in given:
    return 'mixer', ''
  if 'stem.conv.weight' in given:
    return 'bit', ''
  if 'conv_stem.weight' in given:
    return 'efficientnet', ''
  if any(name.startswith('patch_embed.backbone.') for name in given):
    stem = 'patch_embed.backbone.stem.conv.weight' in given
    return 'hybrid', 'stem.' if stem else ''
  return 'vit', ''


def _of_transformers(given):
  form = next(
    (f for f in _TRANSFORMERS_FORMS if any(n.startswith(f) for n in given)), ''
  )
  if f'{form}embedder.convolution.weight' in given:
    return 'bit', form
  ends = ('.layer_scale1.lambda1', 'embeddings.register_tokens')
  if any(name.endswith(ends) for name in given):
    return 'dinov2', form
  if form == 'deit.' and 'classifier.weight' in given:
    return 'vit', tables.ONE_HEAD_FORM
  return 'vit', form


def of_tree(flat: Mapping[str, Any], library: str) -> tuple[str, str]:
  """Returns (family, form) of the table to write a flat canonical tree.

  The library may not have such a table, see `table`.
  """
  has_head = 'head/kernel' in flat
  family = _family(flat)
  if family in ('mixer', 'efficientnet'):
    return family, ''
  if library in ('timm', 'deit'):
    stages = any(name.startswith('block1/') for name in flat)
    return family, 'stem.' if family == 'hybrid' and stages else ''
  if library == 'dinov2':
    return family, 'backbone.' if has_head and family == 'vit' else ''
  if library in other_tables.TABLES:
    return family, ''
  if family == 'vit' and is_dinov2(flat):
    form = tables.DINOV2_PREFIXES['registers' in flat]
    return 'dinov2', form if has_head else ''
  if not has_head or family == 'hybrid':
    return family, ''
  if family == 'vit' and 'dist' in flat:
    one_head = 'head_dist/kernel' not in flat
    return family, tables.ONE_HEAD_FORM if one_head else 'deit.'
  return family, f'{family}.'


def _family(flat):
  if 'stem/kernel' in flat:
    return 'mixer'
  if 'root_block/conv/kernel' in flat:
    return 'bit'
  if 'stem/conv/kernel' in flat:
    return 'efficientnet'
  return 'hybrid' if 'conv_root/kernel' in flat else 'vit'


def is_dinov2(flat: Mapping[str, Any]) -> bool:
  """Returns whether a flat tree has parts that transformers has in DINOv2."""
  return 'registers' in flat or is_scaled(flat)


def is_scaled(flat: Mapping[str, Any]) -> bool:
  """Returns whether a flat tree has LayerScales."""
  return 'Transformer/encoderblock_0/LayerScale_0/scale' in flat


def table(library: str, family: str, form: str) -> tuple[Group, ...]:
  """Returns the table of a library's models.

  Raises:
    InputError: it has no models of this family.
  """
  known = (tables.TABLES | other_tables.TABLES)[library]
  if (family, form) not in known:
    families = sorted({family for family, _ in known})
    raise InputError(
      f'{library} has no {family} models, only {" and ".join(families)}'
    )
  return known[family, form]
