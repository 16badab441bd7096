"""Tables of parameter names in PyTorch ports and their canonical names.

A table is a tuple of groups. A group has a prefix on either side and rows of
(canonical module, port module, kind). {i} counts blocks from 0. {s} and {u}
count a port's stages and units from 0; {s1} and {u1} count the canonical ones
from 1. The kind determines the arrays of a module and their layouts
(`array_layouts.LEAVES`). A `?` after it marks an optional module, and `first`
marks a module that only the first unit of a stage has. A row has several
canonical modules if the port fuses them.

The names were read off the installed libraries' modules (timm 1.0.31: models/
vision_transformer.py, vision_transformer_hybrid.py, resnetv2.py, deit.py and
mlp_mixer.py; transformers 5.23: models/vit, models/deit, models/bit). The
names of transformers v4 are the left sides of `ViTModel` in its
conversion_mapping.py.
"""

from vit_jax_repro.ports.array_layouts import Group
from vit_jax_repro.weights import layouts

LIBRARIES = ('timm', 'transformers', 'transformers_v4', 'deit')

_ATTENTION = 'MultiHeadDotProductAttention_0'
_QUERY, _KEY, _VALUE, _OUT = (
  f'{_ATTENTION}/{name}' for name in ('query', 'key', 'value', 'out')
)


def _blocks(port, rows):
  return Group('Transformer/encoderblock_{i}/', port, rows)


_TIMM_BLOCK = (
  ('LayerNorm_0', 'norm1', 'norm'),
  ((_QUERY, _KEY, _VALUE), 'attn.qkv', 'heads'),
  (_OUT, 'attn.proj', 'out'),
  ('LayerNorm_1', 'norm2', 'norm'),
  ('MlpBlock_0/Dense_0', 'mlp.fc1', 'dense'),
  ('MlpBlock_0/Dense_1', 'mlp.fc2', 'dense'),
)
_TIMM_TOP = (
  ('embedding', 'patch_embed.proj', 'conv'),
  (layouts.POSITIONS, 'pos_embed', 'tokens'),
  ('Transformer/encoder_norm', 'norm', 'norm'),
  ('head', 'head', 'dense?'),
)
_TIMM_CLS = ('cls', 'cls_token', 'tokens?')
_TIMM_DISTILLED = (
  ('dist', 'dist_token', 'tokens?'),
  ('head_dist', 'head_dist', 'dense?'),
)
_TIMM_MAP = Group(
  'MAPHead_0/',
  'attn_pool.',
  (
    ('probe', 'latent', 'tokens?'),
    (_QUERY, 'q', 'heads?'),
    ((_KEY, _VALUE), 'kv', 'heads?'),
    (_OUT, 'proj', 'out?'),
    ('LayerNorm_0', 'norm', 'norm?'),
    ('MlpBlock_0/Dense_0', 'mlp.fc1', 'dense?'),
    ('MlpBlock_0/Dense_1', 'mlp.fc2', 'dense?'),
  ),
)
_TIMM_VIT = (
  Group('', '', (*_TIMM_TOP, _TIMM_CLS, *_TIMM_DISTILLED)),
  _blocks('blocks.{i}.', _TIMM_BLOCK),
  _TIMM_MAP,
)
_DEIT = (  # facebookresearch/deit, models.py: always with a class token
  Group('', '', (*_TIMM_TOP, ('cls', 'cls_token', 'tokens'), *_TIMM_DISTILLED)),
  _blocks('blocks.{i}.', _TIMM_BLOCK),
)
_BACKBONE = 'patch_embed.backbone.'


def _timm_hybrid(stem):
  """Returns the table of a hybrid.

  Args:
    stem: prefix of the stem within the backbone; '' if the stem is the whole
      backbone (R+ViT-Ti_16).
  """
  convs = [(f'conv{n}', f'conv{n}', 'std_conv') for n in (1, 2, 3)]
  norms = [(f'gn{n}', f'norm{n}', 'norm') for n in (1, 2, 3)]
  shortcut = (
    ('conv_proj', 'downsample.conv', 'std_conv', 'first'),
    ('gn_proj', 'downsample.norm', 'norm', 'first'),
  )
  return (
    Group('', '', (*_TIMM_TOP, _TIMM_CLS)),
    _blocks('blocks.{i}.', _TIMM_BLOCK),
    Group('', _BACKBONE + stem, (
      ('conv_root', 'conv', 'std_conv'),
      ('gn_root', 'norm', 'norm'),
    )),
    Group(
      'block{s1}/unit{u1}/',
      _BACKBONE + 'stages.{s}.blocks.{u}.',
      (*convs, *norms, *shortcut),
    ),
  )  # fmt: skip


_TIMM_MIXER = (
  Group('', '', (
    ('stem', 'stem.proj', 'conv'),
    ('pre_head_layer_norm', 'norm', 'norm'),
    ('head', 'head', 'dense?'),
  )),
  Group('MixerBlock_{i}/', 'blocks.{i}.', (
    ('LayerNorm_0', 'norm1', 'norm'),
    ('token_mixing/Dense_0', 'mlp_tokens.fc1', 'dense'),
    ('token_mixing/Dense_1', 'mlp_tokens.fc2', 'dense'),
    ('LayerNorm_1', 'norm2', 'norm'),
    ('channel_mixing/Dense_0', 'mlp_channels.fc1', 'dense'),
    ('channel_mixing/Dense_1', 'mlp_channels.fc2', 'dense'),
  )),
)  # fmt: skip


def _bit(top, units):
  """Returns the table of a BiT.

  The pre-activation norm of a layer is the port's norm with that layer's
  number.

  Args:
    top: rows of the modules outside the blocks.
    units: prefix of the port's units.
  """
  layers = [
    row
    for n, layer in enumerate('abc', 1)
    for row in (
      (f'{layer}/group_norm', f'norm{n}', 'norm'),
      (f'{layer}/conv', f'conv{n}', 'std_conv'),
    )
  ]
  projection = ('a/proj', 'downsample.conv', 'std_conv', 'first')
  return (
    Group('', '', top),
    Group('block{s1}/unit{u1:02d}/', units, (*layers, projection)),
  )


_TIMM_BIT = _bit(
  (
    ('root_block/conv', 'stem.conv', 'std_conv'),
    ('group_norm', 'norm', 'norm'),
    ('head', 'head.fc', 'conv_head?'),
  ),
  'stages.{s}.blocks.{u}.',
)


def _transformers_bit(prefix):
  return _bit(
    (
      ('root_block/conv', f'{prefix}embedder.convolution', 'std_conv'),
      ('group_norm', f'{prefix}norm', 'norm'),
      *((('head', 'classifier.1', 'dense?'),) if prefix else ()),
    ),
    f'{prefix}encoder.stages.{{s}}.layers.{{u}}.',
  )


_V5_BLOCK = (
  ('LayerNorm_0', 'layernorm_before', 'norm'),
  (_QUERY, 'attention.q_proj', 'heads'),
  (_KEY, 'attention.k_proj', 'heads'),
  (_VALUE, 'attention.v_proj', 'heads'),
  (_OUT, 'attention.o_proj', 'out'),
  ('LayerNorm_1', 'layernorm_after', 'norm'),
  ('MlpBlock_0/Dense_0', 'mlp.fc1', 'dense'),
  ('MlpBlock_0/Dense_1', 'mlp.fc2', 'dense'),
)
_V4_BLOCK = (
  ('LayerNorm_0', 'layernorm_before', 'norm'),
  (_QUERY, 'attention.attention.query', 'heads'),
  (_KEY, 'attention.attention.key', 'heads'),
  (_VALUE, 'attention.attention.value', 'heads'),
  (_OUT, 'attention.output.dense', 'out'),
  ('LayerNorm_1', 'layernorm_after', 'norm'),
  ('MlpBlock_0/Dense_0', 'intermediate.dense', 'dense'),
  ('MlpBlock_0/Dense_1', 'output.dense', 'dense'),
)


# Modules outside the encoder. ViTModel's pooler is this package's pre_logits,
# with its tanh; a classifier never has a pooler before it.
_TRANSFORMERS_HEADS = {
  '': (('dist', 'embeddings.distillation_token', 'tokens?'),
       ('pre_logits', 'pooler.dense', 'dense?')),
  'vit.': (('head', 'classifier', 'dense?'),),
  'deit.': (('dist', 'deit.embeddings.distillation_token', 'tokens'),
            ('head', 'cls_classifier', 'dense'),
            ('head_dist', 'distillation_classifier', 'dense')),
}  # fmt: skip


def _transformers_vit(prefix, version):
  patches = f'{prefix}embeddings.patch_embeddings.projection'
  top = (
    ('embedding', patches, 'conv'),
    ('cls', f'{prefix}embeddings.cls_token', 'tokens'),
    (layouts.POSITIONS, f'{prefix}embeddings.position_embeddings', 'tokens'),
    ('Transformer/encoder_norm', f'{prefix}layernorm', 'norm'),
    *_TRANSFORMERS_HEADS[prefix],
  )
  if version == 4:
    blocks = _blocks(f'{prefix}encoder.layer.{{i}}.', _V4_BLOCK)
  else:
    blocks = _blocks(f'{prefix}layers.{{i}}.', _V5_BLOCK)
  return (Group('', '', top), blocks)


def _transformers(version):
  tables = {
    ('vit', prefix): _transformers_vit(prefix, version)
    for prefix in _TRANSFORMERS_HEADS
  }
  bits = {('bit', prefix): _transformers_bit(prefix) for prefix in ('', 'bit.')}
  return tables | bits


# library: {(family, form): groups}. The form is the prefix of transformers'
# classifiers, or the prefix of the stem in timm's hybrids.
TABLES = {
  'timm': {
    ('vit', ''): _TIMM_VIT,
    ('hybrid', ''): _timm_hybrid(''),
    ('hybrid', 'stem.'): _timm_hybrid('stem.'),
    ('mixer', ''): _TIMM_MIXER,
    ('bit', ''): _TIMM_BIT,
  },
  'transformers': _transformers(5),
  'transformers_v4': _transformers(4),
  'deit': {('vit', ''): _DEIT},
}
