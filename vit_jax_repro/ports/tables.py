"""Tables of parameter names in PyTorch ports and their canonical names.

A table is a tuple of groups. A group has a prefix on either side and rows of
(canonical module, port module, kind). {i} counts blocks from 0. {s} and {u}
count a port's stages and units from 0; {s1} and {u1} count the canonical ones
from 1. The kind determines the arrays of a module and their layouts
(`array_layouts.LEAVES`). A `?` after it marks an optional module. `first` marks
a module that only the first unit of a stage has, `first stage` and `later
stages` one that only units of these have. A row has several canonical modules
if the port fuses them.

The names were read off the installed libraries' modules (timm 1.0.31: models/
vision_transformer.py, vision_transformer_hybrid.py, resnetv2.py, deit.py,
mlp_mixer.py and efficientnet.py; transformers 5.23: models/vit,
models/deit, models/bit, models/dinov2 and models/dinov2_with_registers). The
names of transformers v4 are the left sides of `ViTModel` and `Dinov2Model` in
its conversion_mapping.py.
Those of the authors of DeiT and DINOv2 are in facebookresearch/deit (models.py,
models_v2.py) and facebookresearch/dinov2 (dinov2/models/vision_transformer.py;
hub/classifiers.py for the head).
"""

from vit_jax_repro.ports.array_layouts import Group
from vit_jax_repro.weights import layouts

LIBRARIES = ('timm', 'transformers', 'transformers_v4', 'deit', 'dinov2')

_ATTENTION = 'MultiHeadDotProductAttention_0'
_QUERY, _KEY, _VALUE, _OUT = (
  f'{_ATTENTION}/{name}' for name in ('query', 'key', 'value', 'out')
)


def _blocks(port, rows):
  return Group('Transformer/encoderblock_{i}/', port, rows)


def _layer_scales(attention, mlp, kind='vector'):
  """Returns the rows of a block's LayerScales, which are vectors."""
  return (
    ('LayerScale_0/scale', attention, kind),
    ('LayerScale_1/scale', mlp, kind),
  )


_TIMM_BLOCK = (
  ('LayerNorm_0', 'norm1', 'norm'),
  ((_QUERY, _KEY, _VALUE), 'attn.qkv', 'heads'),
  (_OUT, 'attn.proj', 'out'),
  ('LayerNorm_1', 'norm2', 'norm'),
  ('MlpBlock_0/Dense_0', 'mlp.fc1', 'dense'),
  ('MlpBlock_0/Dense_1', 'mlp.fc2', 'dense'),
)
_TIMM_GAMMAS = ('ls1.gamma', 'ls2.gamma')
_TIMM_STEM = (
  ('embedding', 'patch_embed.proj', 'conv'),
  (layouts.POSITIONS, 'pos_embed', 'tokens'),
)
_TIMM_TOP = (
  *_TIMM_STEM,
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
  Group('', '', (
    *_TIMM_STEM,
    ('Transformer/encoder_norm', 'norm', 'norm?'),  # it has one of these norms
    ('fc_norm', 'fc_norm', 'norm?'),
    ('head', 'head', 'dense?'),
    _TIMM_CLS,
    ('registers', 'reg_token', 'tokens?'),
    *_TIMM_DISTILLED,
  )),
  _blocks(
    'blocks.{i}.', (*_TIMM_BLOCK, *_layer_scales(*_TIMM_GAMMAS, 'vector?'))
  ),
  _TIMM_MAP,
)  # fmt: skip
_DEIT = (  # always with a class token
  Group('', '', (*_TIMM_TOP, ('cls', 'cls_token', 'tokens'), *_TIMM_DISTILLED)),
  _blocks(
    'blocks.{i}.',
    (*_TIMM_BLOCK, *_layer_scales('gamma_1', 'gamma_2', 'vector?')),
  ),
)


def _dinov2(prefix):
  """Returns the table of a DINOv2; the one with a prefix has a head."""
  top = (
    ('embedding', f'{prefix}patch_embed.proj', 'conv'),
    ('cls', f'{prefix}cls_token', 'tokens'),
    (layouts.POSITIONS, f'{prefix}pos_embed', 'tokens'),
    ('registers', f'{prefix}register_tokens', 'tokens?'),
    ('mask', f'{prefix}mask_token', 'mask?'),
    ('Transformer/encoder_norm', f'{prefix}norm', 'norm'),
    *((('head', 'linear_head', 'dense'),) if prefix else ()),
  )
  rows = (*_TIMM_BLOCK, *_layer_scales(*_TIMM_GAMMAS))
  blocks = _blocks(f'{prefix}blocks.{{i}}.', rows)
  return (Group('', '', top), blocks)


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


def _conv_norms(*rows):
  return tuple(
    each
    for ours, conv, norm, *where in rows
    for each in (
      (f'{ours}/conv', conv, 'std_conv', *where),
      (f'{ours}/norm', norm, 'batch_norm', *where),
    )
  )


_TIMM_EFFICIENTNET = (
  Group('', '', (
    *_conv_norms(('stem', 'conv_stem', 'bn1'), ('top', 'conv_head', 'bn2')),
    ('head', 'classifier', 'dense?'),
  )),
  Group('block{s1}/unit{u1:02d}/', 'blocks.{s}.{u}.', (
    *_conv_norms(
      ('depthwise', 'conv_dw', 'bn1', 'first stage'),
      ('project', 'conv_pw', 'bn2', 'first stage'),
      ('expand', 'conv_pw', 'bn1', 'later stages'),
      ('depthwise', 'conv_dw', 'bn2', 'later stages'),
      ('project', 'conv_pwl', 'bn3', 'later stages'),
    ),
    ('squeeze/reduce', 'se.conv_reduce', 'conv?'),
    ('squeeze/expand', 'se.conv_expand', 'conv?'),
  )),
)  # fmt: skip


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


_V5_DINOV2_BLOCK = (
  ('LayerNorm_0', 'norm1', 'norm'),
  *_V5_BLOCK[1:5],
  ('LayerNorm_1', 'norm2', 'norm'),
  ('MlpBlock_0/Dense_0', 'mlp.fc1', 'dense'),
  ('MlpBlock_0/Dense_1', 'mlp.fc2', 'dense'),
  *_layer_scales('layer_scale1.lambda1', 'layer_scale2.lambda1'),
)
_V4_DINOV2_BLOCK = (
  _V5_DINOV2_BLOCK[0],
  *_V4_BLOCK[1:5],
  *_V5_DINOV2_BLOCK[5:],
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
# DeiTForImageClassification has the token, and one head on the class token.
_ONE_HEAD = (
  ('dist', 'deit.embeddings.distillation_token', 'tokens'),
  ('head', 'classifier', 'dense'),
)


def _transformers_vit(prefix, version, heads):
  patches = f'{prefix}embeddings.patch_embeddings.projection'
  top = (
    ('embedding', patches, 'conv'),
    ('cls', f'{prefix}embeddings.cls_token', 'tokens'),
    (layouts.POSITIONS, f'{prefix}embeddings.position_embeddings', 'tokens'),
    ('Transformer/encoder_norm', f'{prefix}layernorm', 'norm'),
    *heads,
  )
  if version == 4:
    blocks = _blocks(f'{prefix}encoder.layer.{{i}}.', _V4_BLOCK)
  else:
    blocks = _blocks(f'{prefix}layers.{{i}}.', _V5_BLOCK)
  return (Group('', '', top), blocks)


def _transformers_dinov2(prefix, version):
  """Returns the table of a Dinov2Model, or with a prefix of a classifier."""
  embeddings = f'{prefix}embeddings'
  top = (
    ('embedding', f'{embeddings}.patch_embeddings.projection', 'conv'),
    ('cls', f'{embeddings}.cls_token', 'tokens'),
    (layouts.POSITIONS, f'{embeddings}.position_embeddings', 'tokens'),
    ('registers', f'{embeddings}.register_tokens', 'tokens?'),
    ('mask', f'{embeddings}.mask_token', 'mask?'),
    ('Transformer/encoder_norm', f'{prefix}layernorm', 'norm'),
    *((('head', 'classifier', 'dense'),) if prefix else ()),
  )
  rows = _V4_DINOV2_BLOCK if version == 4 else _V5_DINOV2_BLOCK
  return (Group('', '', top), _blocks(f'{prefix}encoder.layer.{{i}}.', rows))


# Prefixes of transformers' Dinov2Model and Dinov2WithRegistersModel in their
# classifiers.
DINOV2_PREFIXES = ('dinov2.', 'dinov2_with_registers.')
ONE_HEAD_FORM = 'deit., one head'


def _transformers(version):
  tables = {
    ('vit', prefix): _transformers_vit(prefix, version, heads)
    for prefix, heads in _TRANSFORMERS_HEADS.items()
  }
  one_head = _transformers_vit('deit.', version, _ONE_HEAD)
  bits = {('bit', prefix): _transformers_bit(prefix) for prefix in ('', 'bit.')}
  dinov2s = {
    ('dinov2', prefix): _transformers_dinov2(prefix, version)
    for prefix in ('', *DINOV2_PREFIXES)
  }
  return tables | {('vit', ONE_HEAD_FORM): one_head} | bits | dinov2s


# library: {(family, form): groups}. The form is the prefix of transformers'
# classifiers (or `ONE_HEAD_FORM`), the prefix of the stem in timm's hybrids, or
# that of the model below its head in facebookresearch/dinov2.
TABLES = {
  'timm': {
    ('vit', ''): _TIMM_VIT,
    ('hybrid', ''): _timm_hybrid(''),
    ('hybrid', 'stem.'): _timm_hybrid('stem.'),
    ('mixer', ''): _TIMM_MIXER,
    ('bit', ''): _TIMM_BIT,
    ('efficientnet', ''): _TIMM_EFFICIENTNET,
  },
  'transformers': _transformers(5),
  'transformers_v4': _transformers(4),
  'deit': {('vit', ''): _DEIT},
  'dinov2': {('vit', form): _dinov2(form) for form in ('', 'backbone.')},
}
