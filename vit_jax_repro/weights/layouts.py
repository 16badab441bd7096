"""Converts names of all published file layouts to and from the canonical tree.

The canonical tree has linen's current numbering inside a block, unrolled
blocks, GroupNorm parameters [C] and a dense head:

  ViT, hybrid, DeiT, big_vision: as the published ViT files, renumbered;
  Mixer: as the published files;
  BiT: `resnet/` dropped, `standardized_conv2d` -> `conv` (`proj` for the
    projection), gamma/beta -> scale/bias, `head/conv2d` -> `head`.

A position embedding is `Transformer/posembed_input/pos_embedding` if it has a
slot for the class token, or if the model has no class token. It is
`pos_embedding` if it is added before the class token is prepended (big_vision).

Sources of the layouts: vit_jax/checkpoint.py, bit_jax/tf2jax.py,
big_vision/models/{vit,bit}.py and the sizes of the released files.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages
from vit_jax_repro.weights import trees

POSITIONS = 'Transformer/posembed_input/pos_embedding'
POSITIONS_BEFORE_CLS = 'pos_embedding'

LAYOUTS = ('official', 'linen', 'big_vision', 'big_vision_scan')

# Each canonical tree has one of these names, which identifies the family.
FAMILY_MARKERS = ('embedding/kernel', 'stem/kernel', 'root_block/conv/kernel')

# Their names in files, and possible prefixes: none; big_vision's; a whole
# optimizer checkpoint's (sam/ViT-S_16, old big_vision); and the prefix of the
# image tower in big_vision's image-text models.
_MARKERS = (*FAMILY_MARKERS, 'resnet/root_block/')
_PREFIXES = ('', 'params/', 'opt/target/')
_TOWERS = ('', 'img/')

# Modules with one counter per class inside a block; older code has one counter
# for all classes.
_NUMBERED = re.compile(
  r'(LayerNorm|MultiHeadDotProductAttention|MlpBlock)_([0-9]{1,9})'
)
_PRE_LINEN = {
  'LayerNorm_0': 'LayerNorm_0',
  'MultiHeadDotProductAttention_0': 'MultiHeadDotProductAttention_1',
  'LayerNorm_1': 'LayerNorm_2',
  'MlpBlock_0': 'MlpBlock_3',
}
_BIT_CONV = re.compile(r'standardized_conv2d(_[0-9]+)?')


def from_file(names: Iterable[str]) -> dict[str, str]:
  """Maps the parameter names of a file to canonical names.

  Other names (optimizer state, a text tower) are omitted. Scan-stacked blocks
  keep the name `encoderblock` (see `trees.unstack`).

  Raises:
    InputError: the names belong to no known layout.
  """
  names = list(names)
  prefix = _find_prefix(names)
  stripped = [n.removeprefix(prefix) for n in names if n.startswith(prefix)]
  if any(n.startswith('resnet/') for n in stripped):
    renamed = [_from_bit(n) for n in stripped]
  else:
    renamed = _from_transformer(stripped)
  mapping = {prefix + n: new for n, new in zip(stripped, renamed, strict=True)}
  doubled = [name for name, times in Counter(renamed).items() if times > 1]
  if doubled:
    raise InputError(
      f'several arrays of the file would become {messages.listed(doubled)}; '
      'it holds more than one model, or is damaged'
    )
  return mapping


def from_file_shape(name: str, array: np.ndarray) -> np.ndarray:
  """Returns an array from a file in its canonical shape, without a copy."""
  if _is_group_norm(name) and array.shape[:-1] == (1, 1, 1):
    return array.reshape(array.shape[-1])  # files from before Flax 0.3.6
  if name == 'head/kernel' and array.ndim == 4 and array.shape[:2] == (1, 1):
    return array.reshape(array.shape[2:])  # BiT's head is a 1x1 convolution
  return array


def to_file(
  params: Mapping[str, np.ndarray], layout: str
) -> dict[str, np.ndarray]:
  """Renames a flat canonical tree {'a/b': array} to a file layout.

  Args:
    params: flat, unrolled, canonical; arrays are not changed.
    layout: 'official' (as the family's released files: pre-linen numbering;
      TensorFlow names for BiT; big_vision's names if only big_vision has such
      a model; the flattened tree if no such model was released), 'linen' (the
      flattened canonical tree), 'big_vision', or 'big_vision_scan' (with
      stacked blocks).

  Raises:
    InputError: the layout is unknown, or big_vision has no such model.
  """
  if layout not in LAYOUTS:
    raise InputError(f'unknown {layout=}; choose from {list(LAYOUTS)}')
  if layout == 'linen' or 'dist' in params:
    return dict(params)
  if unreleased := _unreleased(params):
    if layout != 'official':
      raise InputError(
        f'big_vision layouts have no place for {messages.listed(unreleased)}; '
        "use layout='official'"
      )
    return dict(params)
  if layout.startswith('big_vision'):
    return _to_big_vision(params, scan=layout.endswith('_scan'))
  if 'root_block/conv/kernel' in params:
    return dict(_to_bit(name, array) for name, array in params.items())
  if 'embedding/kernel' in params and _only_big_vision(params):
    return _to_big_vision(params)
  return dict(_to_official(name, array) for name, array in params.items())


def advice(flat: Mapping[str, Any]) -> str:
  """Returns advice for messages on which tree to pass instead of this one."""
  if any(f'params/{marker}' in flat for marker in FAMILY_MARKERS):
    return "pass the tree inside 'params'"
  return 'pass the whole tree of a ViT, hybrid, Mixer or BiT'


def _find_prefix(names):
  for prefix in _PREFIXES:
    for tower in _TOWERS:
      starts = tuple(prefix + tower + marker for marker in _MARKERS)
      if any(name.startswith(starts) for name in names):
        return prefix + tower
  raise InputError(
    f'unknown layout: {len(names)} arrays named {messages.listed(names)}; '
    'known are the published ViT, hybrid, Mixer, BiT and big_vision files '
    '(other ports: convert them first)'
  )


def _from_transformer(names):
  """Renumbers by class and parent: `MlpBlock_3` of a block -> `MlpBlock_0`."""
  numbers = {}  # (parent, class) -> numbers in the names
  for name in names:
    for parent, kind, number in _numbered(name):
      numbers.setdefault((parent, kind), set()).add(number)
  has_cls = 'cls' in names

  def rename(name):
    parts = name.split('/')
    for i, (parent, kind, number) in _numbered_at(name):
      rank = sorted(numbers[parent, kind]).index(number)  # 10 after 9
      parts[i] = f'{kind}_{rank}'
    name = '/'.join(parts)
    return POSITIONS if name == POSITIONS_BEFORE_CLS and not has_cls else name

  return [rename(name) for name in names]


def _numbered_at(name):
  parts = name.split('/')
  for i, part in enumerate(parts):
    if match := _NUMBERED.fullmatch(part):
      yield i, ('/'.join(parts[:i]), match[1], int(match[2]))


def _numbered(name):
  return [module for _, module in _numbered_at(name)]


def _from_bit(name):
  name = name.removeprefix('resnet/')
  name = _BIT_CONV.sub('conv', name)
  name = name.replace('proj/conv/', 'proj/').replace('head/conv2d/', 'head/')
  return name.replace('/gamma', '/scale').replace('/beta', '/bias')


def _to_bit(name, array):
  if name.startswith('head/'):
    if name == 'head/kernel':
      array = array[None, None]
    return f'resnet/{name.replace("head/", "head/conv2d/")}', array
  name = name.replace('/proj/kernel', '/proj/conv/kernel')
  name = name.replace('/conv/', '/standardized_conv2d/')
  name = name.replace('/scale', '/gamma').replace('/bias', '/beta')
  return f'resnet/{name}', array


def _to_official(name, array):
  parts = name.split('/')
  if parts[0] == 'Transformer' and parts[1].startswith('encoderblock_'):
    parts[2] = _PRE_LINEN.get(parts[2], parts[2])
  if _is_group_norm(name):
    array = array[None, None, None]
  return '/'.join(parts), array


def _is_group_norm(name):
  """Returns whether it is a GroupNorm of the hybrid stem.

  These are gn_root, gn1 ... gn3 and gn_proj.
  """
  return re.search(r'(^|/)gn(_root|_proj|\d)/(scale|bias)$', name) is not None


def _unreleased(params):
  """Returns the names of position embeddings that no released model has."""
  return [n for n in params if '/posembed_' in n and n != POSITIONS]


def _only_big_vision(params):
  return (
    'MAPHead_0/probe' in params
    or POSITIONS_BEFORE_CLS in params
    or POSITIONS not in params
  )


def _to_big_vision(params, scan=False):
  if 'root_block/conv/kernel' in params or 'conv_root/kernel' in params:
    raise InputError(
      'big_vision layouts have no file for BiT and hybrids; use '
      "layout='official'"
    )
  params = dict(params)
  if POSITIONS in params:
    positions = params.pop(POSITIONS)
    if 'cls' in params:  # big_vision adds the slot to the token in advance
      params['cls'] = params['cls'] + positions[:, :1]
      positions = positions[:, 1:]
    params[POSITIONS_BEFORE_CLS] = positions
  if scan:
    params = trees.stack(params)
  return {f'params/{name}': array for name, array in params.items()}
