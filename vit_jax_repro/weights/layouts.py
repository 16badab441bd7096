"""Converts names of all published file layouts to and from the canonical tree.

The canonical tree has linen's current numbering inside a block, unrolled
blocks, GroupNorm parameters [C] and a dense head:

  ViT, hybrid, DeiT, big_vision: as the published ViT files, renumbered;
  Mixer: as the published files;
  BiT: `resnet/` dropped, `standardized_conv2d` -> `conv` (`proj` for the
    projection), gamma/beta -> scale/bias, `head/conv2d` -> `head`;
  EfficientNet: names of this package, the same in files. Released are
    checkpoints of TensorFlow.

Parts that no file of the authors has keep their names in the tree: `dist` and
`head_dist` (DeiT), `Transformer/encoderblock_0/LayerScale_0/scale` of the
attention and `LayerScale_1` of the MLP, `registers`, and `fc_norm`.

A position embedding is `Transformer/posembed_input/pos_embedding` if it has a
slot for the class token, or if the model has no class token. It is
`pos_embedding` if it is added before the class token is prepended (big_vision).

An image-text model has two towers: `img/` is the canonical tree of its image
tower, `txt/` has the names of the released LiT files, `t` is the logarithm of
the temperature and `b`, in SigLIP, the bias of the loss.

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
# The norm after the blocks, of all tokens or of the pooled vector. A model has
# one of them.
LAST_NORM, POOLED_NORM = LAST_NORMS = ('Transformer/encoder_norm', 'fc_norm')

LAYOUTS = ('official', 'linen', 'big_vision', 'big_vision_scan')

# Each canonical tree has one of these names, which identifies the family.
FAMILY_MARKERS = (
  'embedding/kernel',
  'stem/kernel',
  'root_block/conv/kernel',
  'stem/conv/kernel',
)

# Their names in files.
_MARKERS = (*FAMILY_MARKERS, 'resnet/root_block/')
# What names in files may begin with, the most usual first: nothing; the
# parameters of a training state, alone or in what a trainer saves (`opt/target`
# and `optimizer/target` are those of Flax before linen, as in sam/ViT-S_16 and
# old big_vision; `0` of the tuple that the original's trainer saves); and the
# image tower of big_vision's image-text models.
_STATES = (
  'opt/target/',
  'optimizer/target/',
  'opt/',
  '0/',
  'target/',
  'model/',
  'state/',
  'train_state/',
)
_PREFIXES = (
  '',
  'params/',
  'params/params/',
  *(f'{state}{inside}' for state in _STATES for inside in ('params/', '')),
)
# Keys of averaged parameters (EMA), and what their names begin with.
AVERAGES = ('ema_params', 'params_ema', 'ema')
_AVERAGES = tuple(
  f'{state}{average}/{inside}'
  for state in ('', '0/', 'model/', 'state/', 'train_state/')
  for average in AVERAGES
  for inside in ('params/', '')
)
IMAGE, TEXT = 'img/', 'txt/'  # towers
SCALARS = ('t', 'b')
_TOWERS = ('', IMAGE)

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


def from_file(
  names: Iterable[str], *, averaged: bool = False
) -> dict[str, str]:
  """Maps the parameter names of a file to canonical names.

  Other names (optimizer state) are omitted. Scan-stacked blocks
  keep the name `encoderblock` (see `trees.unstack`).

  Args:
    names: of all arrays of the file.
    averaged: whether to take the averaged parameters, see `average_in`.

  Raises:
    InputError: the names belong to no known layout.
  """
  names = list(names)
  prefix = _find_prefix(names, _AVERAGES if averaged else _PREFIXES)
  if prefix is None:
    raise InputError(
      f'unknown layout: {len(names)} arrays named {messages.listed(names)}; '
      'known are the published ViT, hybrid, Mixer, BiT and big_vision files '
      '(other ports: convert them first)'
    )
  above = prefix.removesuffix(IMAGE)
  if above != prefix and any(n.startswith(above + TEXT) for n in names):
    pairs = _from_two_towers(names, above)
  else:
    pairs = _from_one_tower(names, prefix)
  mapping, times = dict(pairs), Counter(new for _, new in pairs)
  doubled = [name for name, number in times.items() if number > 1]
  if doubled:
    raise InputError(
      f'several arrays of the file would become {messages.listed(doubled)}; '
      'it holds more than one model, or is damaged'
    )
  return mapping


def _from_one_tower(names, prefix):
  stripped = [n.removeprefix(prefix) for n in names if n.startswith(prefix)]
  if any(n.startswith('resnet/') for n in stripped):
    renamed = [_from_bit(n) for n in stripped]
  else:
    renamed = _from_transformer(stripped)
  return [(prefix + n, new) for n, new in zip(stripped, renamed, strict=True)]


def _from_two_towers(names, prefix):
  image = _from_one_tower(names, prefix + IMAGE)
  text = [n for n in names if n.startswith(prefix + TEXT)]
  renamed = _renumbered([n.removeprefix(prefix) for n in text])
  return [
    *((name, IMAGE + new) for name, new in image),
    *zip(text, renamed, strict=True),
    *((prefix + n, n) for n in SCALARS if prefix + n in names),
  ]


def has_two_towers(names: Iterable[str]) -> bool:
  """Returns whether a tree is that of an image-text model.

  Args:
    names: the keys of a canonical tree, nested or flat.
  """
  return {IMAGE[:-1], TEXT[:-1]} <= {name.split('/')[0] for name in names}


def tower(params: Mapping[str, Any], prefix: str) -> dict[str, Any]:
  """Returns the flat tree of one tower of an image-text model.

  Args:
    params: a canonical tree, nested or flat.
    prefix: `IMAGE` or `TEXT`.
  """
  return {
    name.removeprefix(prefix): leaf
    for name, leaf in trees.flatten(params).items()
    if name.startswith(prefix)
  }


def average_in(names: Iterable[str]) -> str | None:
  """Returns what the names of averaged parameters begin with, or None.

  Averages of an optimiser, such as those of its updates, do not count.
  """
  return _find_prefix(list(names), _AVERAGES)


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
      a model; the flattened tree of a LiT model, or if the authors released
      no such model, whose names other libraries' readers of .npz files do not
      know), 'linen' (the flattened canonical tree), 'big_vision', or
      'big_vision_scan' (with stacked blocks).

  Raises:
    InputError: the layout is unknown, or big_vision has no such model.
  """
  if layout not in LAYOUTS:
    raise InputError(f'unknown {layout=}; choose from {list(LAYOUTS)}')
  if layout == 'linen':
    return dict(params)
  if has_two_towers(params):
    return _to_two_towers(params, layout)
  if parts := unreleased(params):
    if layout != 'official':
      raise InputError(
        f'big_vision layouts have no place for {messages.listed(parts)}; '
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


def _to_two_towers(params, layout):
  image = tower(params, IMAGE)
  if layout == 'official' and 'b' not in params and not _only_big_vision(image):
    return dict(params)
  scan = layout == 'big_vision_scan'
  others = {n: x for n, x in params.items() if not n.startswith(IMAGE)}
  others = trees.stack(others) if scan else others
  return {
    name.replace('params/', f'params/{IMAGE}', 1): array
    for name, array in _to_big_vision(image, scan).items()
  } | {f'params/{name}': array for name, array in others.items()}


def advice(flat: Mapping[str, Any]) -> str:
  """Returns advice for messages on which tree to pass instead of this one."""
  if any(f'params/{marker}' in flat for marker in FAMILY_MARKERS):
    return "pass the tree inside 'params'"
  return 'pass the whole tree of a ViT, hybrid, Mixer, BiT or EfficientNet'


def _find_prefix(names, prefixes):
  for prefix in prefixes:
    for tower in _TOWERS:
      starts = tuple(prefix + tower + marker for marker in _MARKERS)
      if any(name.startswith(starts) for name in names):
        return prefix + tower
  return None


def _from_transformer(names):
  """Renumbers, and moves positions that have no class token after them."""
  has_cls = 'cls' in names
  return [
    POSITIONS if name == POSITIONS_BEFORE_CLS and not has_cls else name
    for name in _renumbered(names)
  ]


def _renumbered(names):
  """Renumbers by class and parent: `MlpBlock_3` of a block -> `MlpBlock_0`."""
  numbers = {}  # (parent, class) -> numbers in the names
  for name in names:
    for parent, kind, number in _numbered(name):
      numbers.setdefault((parent, kind), set()).add(number)

  def rename(name):
    parts = name.split('/')
    for i, (parent, kind, number) in _numbered_at(name):
      rank = sorted(numbers[parent, kind]).index(number)  # 10 after 9
      parts[i] = f'{kind}_{rank}'
    return '/'.join(parts)

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


# Parts that no file of the authors and of big_vision has.
_UNRELEASED = re.compile(
  r'(dist|registers)$|(head_dist|fc_norm)/|.*/(LayerScale_\d|posembed_\w+)/'
)


def unreleased(params: Iterable[str]) -> set[str]:
  """Returns the names of parts that no released model has, once per block."""
  return {
    re.sub(r'encoderblock_\d+', 'encoderblock_*', name)
    for name in params
    if name != POSITIONS and _UNRELEASED.match(name)
  }


def _only_big_vision(params):
  return (
    'MAPHead_0/probe' in params
    or POSITIONS_BEFORE_CLS in params
    or POSITIONS not in params
  )


def _to_big_vision(params, scan=False):
  others = ('root_block/conv/kernel', 'conv_root/kernel', 'stem/conv/kernel')
  if any(name in params for name in others):
    raise InputError(
      'big_vision layouts have no file for BiT, EfficientNet and hybrids; use '
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
