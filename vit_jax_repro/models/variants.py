"""The tables of named models, and the accepted spellings of their names.

Sizes: ViT paper Table 1, AugReg paper (arXiv:2106.10270) Tables 1-2, DeiT
paper Table 1, DeiT III paper (arXiv:2204.07118) Table 1, Mixer paper Table 1,
BiT paper section 3; EfficientNet: efficientnet_params of the authors'
efficientnet_builder.py (tensorflow/tpu). Structure of the released hybrids:
vit_jax/configs/models.py; of DINOv2: dinov2/hub/backbones.py.
"""

import re
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.models.efficientnet import round_channels, round_units
from vit_jax_repro.models.layers import TORCH_GELU
from vit_jax_repro.output import messages

VIT_SIZES = {  # hidden_size, mlp_dim, num_heads, num_layers
  'Ti': (192, 768, 3, 12),
  'S': (384, 1536, 6, 12),
  'B': (768, 3072, 12, 12),
  'L': (1024, 4096, 16, 24),
  'H': (1280, 5120, 16, 32),
}
VIT_PATCHES = (8, 14, 16, 32)

# Patch size in cells of the stem's output, units per stage. R+ViT-Ti_16 has an
# effective patch of 32, despite its name (AugReg code; 49 tokens at 224).
# R50+ViT-B_32 and R50+ViT-L_16 were never released (ViT paper section 4.1).
HYBRIDS = {
  'R+ViT-Ti_16': ('Ti', 8, ()),
  'R26+ViT-S_32': ('S', 1, (2, 2, 2, 2)),
  'R26+ViT-B_32': ('B', 1, (2, 2, 2, 2)),
  'R50+ViT-B_16': ('B', 1, (3, 4, 9)),
  'R50+ViT-B_32': ('B', 1, (3, 4, 6, 3)),
  'R50+ViT-L_16': ('L', 1, (3, 4, 9)),
  'R50+ViT-L_32': ('L', 1, (3, 4, 6, 3)),
}

# Fine-tuning dropout of the released code; 0 for every other name.
DROPOUT = {
  'ViT-L_16': 0.1,
  'ViT-H_14': 0.1,
  'R50+ViT-B_16': 0.1,
  'R50+ViT-L_32': 0.1,
}

MIXER_SIZES = {  # hidden_dim, tokens_mlp_dim, channels_mlp_dim, num_blocks
  'S': (512, 256, 2048, 8),
  'B': (768, 384, 3072, 12),
  'L': (1024, 512, 4096, 24),
  'H': (1280, 640, 5120, 32),
}
MIXERS = ('S_8', 'S_16', 'S_32', 'B_16', 'B_32', 'L_16', 'L_32', 'H_14')

BIT_UNITS = {  # units of the four blocks; R200: big_vision/models/bit.py
  50: (3, 4, 6, 3),
  101: (3, 4, 23, 3),
  152: (3, 8, 36, 3),
  200: (3, 24, 36, 3),
}
BIT_WIDTHS = (1, 2, 3, 4)
# Classes of the pre-training sets behind S (ILSVRC-2012), M (ImageNet-21k) and
# L (JFT-300M, BiT paper section 4.1); the -ILSVRC2012 files were fine-tuned.
BIT_CLASSES = {'': 1000, 'S-': 1000, 'M-': 21_843, 'L-': 18_291}
_BIT_NAME = re.compile(r'BiT-([SML]-)?R(\d+)x(\d+(?:\.\d+)?)(-ILSVRC2012)?')

DEITS = ('Ti_16', 'S_16', 'B_16')
DEIT_IIIS = ('S_16', 'B_16', 'L_16', 'H_14')
DINOV2S = ('S_14', 'B_14', 'L_14')
# Initial LayerScale: vit_models of models_v2.py in facebookresearch/deit;
# dinov2/configs/ssl_default_config.yaml in facebookresearch/dinov2.
DEIT_III_SCALE, DINOV2_SCALE = 1e-4, 1e-5
DINOV2_REGISTERS = 4  # of the files '..._reg4'
_DINOV2_GIANT = re.compile(r'dinov2[-_]?(vit)?[-_]?g', re.IGNORECASE)

EFFICIENTNETS = {  # width, depth, image size, dropout
  'B0': (1.0, 1.0, 224, 0.2),
  'B1': (1.0, 1.1, 240, 0.2),
  'B2': (1.1, 1.2, 260, 0.3),
  'B3': (1.2, 1.4, 300, 0.3),
  'B4': (1.4, 1.8, 380, 0.4),
  'B5': (1.6, 2.2, 456, 0.4),
  'B6': (1.8, 2.6, 528, 0.5),
  'B7': (2.0, 3.1, 600, 0.5),
  'L2': (4.3, 5.3, 800, 0.5),
}
# Of B0: output channels, units and kernel size of each block (paper, table 1).
EFFICIENTNET_BLOCKS = (
  (16, 1, 3),
  (24, 2, 3),
  (40, 2, 5),
  (80, 3, 3),
  (112, 3, 5),
  (192, 4, 5),
  (320, 1, 3),
)
EFFICIENTNET_STEM, EFFICIENTNET_TOP = 32, 1280  # channels of B0
DROP_CONNECT = 0.2  # survival of 0.8 at the last unit (both papers)

# Image-text models (vit_jax/configs/models.py, MODEL_CONFIGS of LiT): image
# tower; text tower: a size of BERT, or hidden_size, mlp_dim, num_heads,
# num_layers of a Transformer; widths of both heads.
LITS = {
  'LiT-B16B': ('ViT-B_16', 'base', (768, 768)),
  'LiT-B16B_2': ('ViT-B_16', 'base', (None, 768)),
  'LiT-L16L': ('ViT-L_16', 'large', (None, 1024)),
  'LiT-L16S': ('ViT-L_16', (384, 1536, 6, 12), (None, 1024)),
  'LiT-L16Ti': ('ViT-L_16', (192, 768, 3, 12), (None, 1024)),
}
LIT_VOCABULARY = 16_000  # of the Transformers; BERT has its own
LIT_TOKENS = 16
LIT_IMAGE_SIZE = (224, 224)

NUM_CLASSES = 1000  # where the name does not imply another number


def names() -> tuple[str, ...]:
  """Returns all names of image models, spelled as the published files.

  Those of image-text models are in `LITS`.
  """
  vits = [f'ViT-{size}_{patch}' for size in VIT_SIZES for patch in VIT_PATCHES]
  bits = [
    f'BiT-{data}R{depth}x{width}{tuned}'
    for data in BIT_CLASSES
    for depth in BIT_UNITS
    for width in BIT_WIDTHS
    for tuned in ('', '-ILSVRC2012')
  ]
  deits = [f'DeiT-{size}' for size in DEITS]
  return (
    *vits,
    *(f'{vit}-gap-norep' for vit in vits),
    *HYBRIDS,
    *(f'Mixer-{size}' for size in MIXERS),
    *bits,
    *(f'EfficientNet-{size}' for size in EFFICIENTNETS),
    *deits,
    *(f'{deit}-distilled' for deit in deits),
    *(f'DeiT-III-{size}' for size in DEIT_IIIS),
    *(f'DINOv2-{size}' for size in DINOV2S),
    *(f'DINOv2-{size}-reg{DINOV2_REGISTERS}' for size in DINOV2S),
  )


def variant(name: str) -> dict[str, Any]:
  """Returns the mapping of fields of a named model (see `models.create`).

  Args:
    name: spelled as in the published files ('R50+ViT-B_16'), the AugReg files
      ('R50_L_32') or the original configs ('r50_b16').

  Raises:
    InputError: the name is unknown; the message has the nearest known ones.
  """
  name = canonical_name(name)
  for start, read in (
    ('DeiT-III-', _deit_iii),
    ('DINOv2-', _dinov2),
    ('EfficientNet-', _efficientnet),
    ('LiT-', _lit),
    ('Mixer-', _mixer),
  ):
    if name.startswith(start):
      return read(name)
  if name in HYBRIDS:
    size, patch, num_layers = HYBRIDS[name]
    resnet = dict(num_layers=num_layers, width_factor=1)
    return dict(_vit(name, size, patch), resnet=resnet)
  if name.startswith('ViT-'):
    size, patch = name.removeprefix('ViT-').split('-')[0].split('_')
    classifier = 'gap' if name.endswith('-gap-norep') else 'token'
    return dict(_vit(name, size, int(patch)), classifier=classifier)
  if name.startswith('DeiT-'):
    size, patch = name.removeprefix('DeiT-').split('-')[0].split('_')
    distilled = name.endswith('-distilled')
    fields = _vit(name, size, int(patch))
    return dict(fields, gelu=TORCH_GELU, distilled=distilled)
  return _bit(name)


def canonical_name(name: str) -> str:
  """Returns the published spelling of a name that `variant` accepts.

  Raises:
    InputError: the name is unknown; the message has the nearest known ones.
  """
  aliases = {}
  for full in names():
    augreg = full.replace('ViT-', '').replace('+', '_')
    short = re.sub(r'_(\d+)', r'\1', augreg).replace('-', '_').lower()
    aliases.update({full: full, augreg: full, short: full})
  aliases |= {full: full for full in LITS}
  if name in aliases:
    return aliases[name]
  bit = _BIT_NAME.fullmatch(str(name))
  if bit and int(bit[2]) in BIT_UNITS:
    return name
  if _DINOV2_GIANT.match(str(name)):
    raise InputError(
      f'model {name!r} has SwiGLU layers instead of an MLP, which are not '
      f'implemented; choose DINOv2-{{{",".join(DINOV2S)}}}[-reg4]'
    )
  hint = messages.did_you_mean(str(name), list(aliases))
  raise InputError(
    f'unknown model {name!r}; {hint}names are ViT-{{{",".join(VIT_SIZES)}}}_'
    f'{{{",".join(map(str, VIT_PATCHES))}}}[-gap-norep], '
    f'{", ".join(HYBRIDS)}, Mixer-{{{",".join(MIXERS)}}}, '
    f'BiT-[S-|M-|L-]R{{{",".join(map(str, BIT_UNITS))}}}xWIDTH[-ILSVRC2012], '
    f'EfficientNet-{{{",".join(EFFICIENTNETS)}}}, '
    f'DeiT-{{{",".join(DEITS)}}}[-distilled], '
    f'DeiT-III-{{{",".join(DEIT_IIIS)}}}, '
    f'DINOv2-{{{",".join(DINOV2S)}}}[-reg{DINOV2_REGISTERS}], '
    f'{", ".join(LITS)}'
  )


def _vit(name, size, patch):
  hidden_size, mlp_dim, num_heads, num_layers = VIT_SIZES[size]
  return dict(
    model='vit',
    num_classes=NUM_CLASSES,
    patch_size=(patch, patch),
    hidden_size=hidden_size,
    transformer=dict(
      num_layers=num_layers,
      mlp_dim=mlp_dim,
      num_heads=num_heads,
      dropout_rate=DROPOUT.get(name, 0.0),
      attention_dropout_rate=0.0,
    ),
    representation_size=None,
    classifier='token',
  )


def _deit_iii(name):
  size, patch = name.removeprefix('DeiT-III-').split('_')
  return dict(
    _vit(name, size, int(patch)),
    gelu=TORCH_GELU,
    class_token_after_positions=True,
    position_resizing='bicubic',
    layer_scale_init=DEIT_III_SCALE,
  )


def _dinov2(name):
  """Returns the fields of a backbone, which was released without a head."""
  size, patch = name.removeprefix('DINOv2-').split('-')[0].split('_')
  registers = DINOV2_REGISTERS if name.count('-') > 1 else 0
  return dict(
    _vit(name, size, int(patch)),
    num_classes=None,
    gelu=TORCH_GELU,
    position_resizing='bicubic_antialias' if registers else 'bicubic_offset',
    layer_scale_init=DINOV2_SCALE,
    num_registers=registers,
  )


def _lit(name):
  image, text, out_dim = LITS[name]
  size, patch = image.removeprefix('ViT-').split('_')
  if isinstance(text, str):
    kind, fields = 'bert', dict(config=text)
  else:
    kind = 'text_transformer'
    sizes = ('hidden_size', 'mlp_dim', 'num_heads', 'num_layers')
    fields = dict(zip(sizes, text, strict=True), vocab_size=LIT_VOCABULARY)
  return dict(
    model='two_towers',
    text_model=kind,
    image=dict(_vit('', size, int(patch)), num_classes=None),
    text=fields,
    out_dim=out_dim,
    image_size=LIT_IMAGE_SIZE,
    max_len=LIT_TOKENS,
  )


def _mixer(name):
  size, patch = name.removeprefix('Mixer-').split('_')
  hidden_dim, tokens_mlp_dim, channels_mlp_dim, num_blocks = MIXER_SIZES[size]
  return dict(
    model='mixer',
    num_classes=NUM_CLASSES,
    patch_size=(int(patch), int(patch)),
    num_blocks=num_blocks,
    hidden_dim=hidden_dim,
    tokens_mlp_dim=tokens_mlp_dim,
    channels_mlp_dim=channels_mlp_dim,
  )


def _efficientnet(name):
  width, depth, _, dropout = EFFICIENTNETS[name.removeprefix('EfficientNet-')]
  channels, units, kernel_sizes = zip(*EFFICIENTNET_BLOCKS, strict=True)
  return dict(
    model='efficientnet',
    num_classes=NUM_CLASSES,
    block_units=tuple(round_units(number, depth) for number in units),
    block_channels=tuple(round_channels(each, width) for each in channels),
    kernel_sizes=kernel_sizes,
    stem_channels=round_channels(EFFICIENTNET_STEM, width),
    top_channels=round_channels(EFFICIENTNET_TOP, width),
    dropout_rate=dropout,
    stochastic_depth_rate=DROP_CONNECT,
  )


def _bit(name):
  match = _BIT_NAME.fullmatch(name)
  assert match  # `canonical_name` has accepted the name
  data, depth, width, tuned = match.groups()
  width = float(width) if '.' in width else int(width)
  if width <= 0 or 64 * width % 32:
    raise InputError(
      f'the width of {name!r} gives {64 * width:g} channels at the root, which '
      'must be a multiple of the 32 groups of its norms; choose 0.5, 1, 1.5...'
    )
  return dict(
    model='bit_resnetv2',
    num_classes=NUM_CLASSES if tuned else BIT_CLASSES[data or ''],
    block_units=BIT_UNITS[int(depth)],
    width_factor=width,
    root_channels=int(64 * width),
  )
