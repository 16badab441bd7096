"""Names that known libraries give the modules of the named activations."""

import re
from collections.abc import Collection

from vit_jax_repro.ports import forms

# Paths of the modules that compute the reference's activations: the output of
# the module at a path is compared with the named activation. Sources: timm 1.0,
# transformers 4 and 5, facebookresearch/deit and facebookresearch/dinov2.

# Prefixes of the paths below in a model with a head, or in a wrapper.
_HOLDERS = ('', *forms.WRAPPERS)
_PREFIXES = tuple(
  holder + part
  for holder in _HOLDERS
  for part in (
    '',
    'vit.',
    'deit.',
    'bit.',
    'dinov2.',
    'dinov2_with_registers.',
  )
)

BLOCK = 'Transformer/encoderblock_{}'
POSITIONS = 'Transformer/posembed_input'
# {name of the reference: paths, of which the first existing one is used}. `{}`
# is a number, and `{-1}` a number that the port counts from 0 and the reference
# from 1; `{-}` is the number of a block before it, counted in the same way.
_PATHS = {
  'conv_root': (
    'patch_embed.backbone.stem.conv',
    'patch_embed.backbone.conv',
  ),
  'gn_root': (  # between the norm and the ReLU of timm's GroupNormAct
    'patch_embed.backbone.stem.norm.drop',
    'patch_embed.backbone.norm.drop',
  ),
  'root_block': ('embedder', 'stem'),
  'block{-}/unit{}': ('blocks.{-}.{-1}',),
  'top': ('bn2',),
  'block{}': (
    'patch_embed.backbone.stages.{-1}',
    'encoder.stages.{-1}',
    'stages.{-1}',
  ),
  'embedding': ('embeddings.patch_embeddings', 'patch_embed'),
  'stem': ('stem', 'bn1'),
  POSITIONS: ('embeddings', 'norm_pre', 'pos_drop'),
  BLOCK: ('encoder.layer.{}', 'layers.{}', 'blocks.{}'),
  'MixerBlock_{}': ('blocks.{}',),
  'Transformer/encoder_norm': ('layernorm', 'norm'),
  'fc_norm': ('fc_norm',),
  'pre_head_layer_norm': ('norm',),
  'pre_logits': (
    'pooler.dense',
    'head_drop',
    'head.global_pool',
    'pooler',
    'global_pool',
  ),
  'pre_logits_tanh': ('pooler.activation',),
}


def module_paths(
  names: Collection[str], modules: Collection[str]
) -> dict[str, str]:
  """Returns {name of the reference: path of a module} by names of libraries.

  Args:
    names: names of activations of the reference.
    modules: paths of all modules of the port.
  """
  found = {}
  for name in names:
    number = re.search(r'\d+$', name)
    block = re.match(r'block(\d+)/', name)
    key = re.sub(r'\d+$', '{}', name)
    key = re.sub(r'^block\d+/', 'block{-}/', key)
    stage = str(int(block[1]) - 1) if block else ''
    candidates = [
      prefix + _numbered(path.replace('{-}', stage), number)
      for path in _PATHS.get(key, ())
      for prefix in _PREFIXES
    ]
    there = [path for path in candidates if path in modules]
    if there:
      found[name] = there[0]
  return found


def _numbered(path, number):
  if number is None:
    return path
  path = path.replace('{-1}', str(int(number[0]) - 1))
  return path.replace('{}', number[0])
