"""Tables of parameter names in two more PyTorch libraries, as in `tables`.

The names are those of torchvision's models/vision_transformer.py (0.12 and
later) and of jeonsworld/ViT-pytorch's models/modeling.py. Neither library has
folders with a config.json; `code_constants` has what is constant in their code.
"""

from collections.abc import Collection

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages
from vit_jax_repro.ports.array_layouts import Group
from vit_jax_repro.weights import layouts

_ATTENTION = 'MultiHeadDotProductAttention_0'
_QUERY, _KEY, _VALUE, _OUT = (
  f'{_ATTENTION}/{name}' for name in ('query', 'key', 'value', 'out')
)
_BLOCK = 'Transformer/encoderblock_{i}/'


def _torchvision(first, second):
  """Returns the table of a ViT whose MLP has layers of these names."""
  block = (
    ('LayerNorm_0', 'ln_1', 'norm'),
    ((_QUERY, _KEY, _VALUE), 'self_attention.in_proj', 'in_proj'),
    (_OUT, 'self_attention.out_proj', 'out'),
    ('LayerNorm_1', 'ln_2', 'norm'),
    ('MlpBlock_0/Dense_0', f'mlp.{first}', 'dense'),
    ('MlpBlock_0/Dense_1', f'mlp.{second}', 'dense'),
  )
  top = (
    ('embedding', 'conv_proj', 'conv'),
    ('cls', 'class_token', 'tokens'),
    (layouts.POSITIONS, 'encoder.pos_embedding', 'tokens'),
    ('Transformer/encoder_norm', 'encoder.ln', 'norm'),
    ('pre_logits', 'heads.pre_logits', 'dense?'),
    ('head', 'heads.head', 'dense?'),
  )
  return (
    Group('', '', top),
    Group(_BLOCK, 'encoder.layers.encoder_layer_{i}.', block),
  )


_JEONSWORLD = (
  Group('', '', (('head', 'head', 'dense?'),)),
  Group('', 'transformer.', (
    ('embedding', 'embeddings.patch_embeddings', 'conv'),
    ('cls', 'embeddings.cls_token', 'tokens'),
    (layouts.POSITIONS, 'embeddings.position_embeddings', 'tokens'),
    ('Transformer/encoder_norm', 'encoder.encoder_norm', 'norm'),
  )),
  Group(_BLOCK, 'transformer.encoder.layer.{i}.', (
    ('LayerNorm_0', 'attention_norm', 'norm'),
    (_QUERY, 'attn.query', 'heads'),
    (_KEY, 'attn.key', 'heads'),
    (_VALUE, 'attn.value', 'heads'),
    (_OUT, 'attn.out', 'out'),
    ('LayerNorm_1', 'ffn_norm', 'norm'),
    ('MlpBlock_0/Dense_0', 'ffn.fc1', 'dense'),
    ('MlpBlock_0/Dense_1', 'ffn.fc2', 'dense'),
  )),
)  # fmt: skip

# library: {(family, form): groups}. The form is that of torchvision 0.12, which
# named the layers of the MLP otherwise.
TABLES = {
  'torchvision': {
    ('vit', ''): _torchvision('0', '3'),
    ('vit', 'linear_'): _torchvision('linear_1', 'linear_2'),
  },
  'jeonsworld': {('vit', ''): _JEONSWORLD},
}
# A name that each state dict of a library has.
MARKERS = {
  'encoder.pos_embedding': 'torchvision',
  'transformer.embeddings.position_embeddings': 'jeonsworld',
}


def form(given: Collection[str], library: str) -> str:
  """Returns the form of a state dict's table.

  Raises:
    InputError: the model is one of the library that this package does not have.
  """
  if any('embeddings.hybrid_model.' in name for name in given):
    raise InputError(
      "jeonsworld's hybrids norm each channel of a shortcut on its own and pad "
      "neither images nor pooling as the authors' do, so this package has no "
      'such model; convert the .npz file that it was trained from instead'
    )
  if any(name.startswith('conv_proj.0.') for name in given):
    raise InputError(
      f'this {library} model has several convolutions before its blocks '
      f'({messages.listed([n for n in given if n.startswith("conv_proj.")])}); '
      'only models with one patch embedding (conv_proj.weight) are supported'
    )
  old = library == 'torchvision' and any('.mlp.linear_1.' in n for n in given)
  return 'linear_' if old else ''
