"""Errors for models that this package or a PyTorch library does not have.

Each message names the part that is not supported and the remedy, if there is
one.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages
from vit_jax_repro.ports.array_layouts import Leaf
from vit_jax_repro.weights import layouts, npz

MERGE = (
  "merge it with PEFT, model.merge_and_unload().save_pretrained('FOLDER'), and "
  'give FOLDER'
)
# Parts of names, what has them, and the remedy.
_NOT_ONE_MODEL = (
  (
    ('.lora_A.', '.lora_B.'),
    'a LoRA adapter of PEFT; give its folder, with its adapter_config.json',
  ),
  (
    ('momentum_encoder.',),
    'a training checkpoint of MoCo v3 with two encoders and projections; save '
    'the arrays of base_encoder without its head. Its ViT-S and ViT-B have 12 '
    'heads: --num_heads=12',
  ),
  (
    ('decoder_blocks.',),
    'a training checkpoint of a masked autoencoder; save its arrays without '
    'mask_token and decoder_*',
  ),
)
# Ends of names of layers that this package does not have, and what they are.
_LAYERS = {
  'norm_pre.weight': 'a norm before the first block (CLIP)',
  'attn.q_norm.weight': 'norms of queries and keys (qk_norm)',
  'mlp.w12.weight': 'a SwiGLU MLP (as in DINOv2 giant)',
  'mlp.weights_in.weight': 'a SwiGLU MLP (as in DINOv2 giant)',
  'mlp.gate_proj.weight': 'a SwiGLU MLP (as in DINOv2 giant)',
  'mlp.fc1_g.weight': 'a gated MLP (SwiGLU)',
  'attn.norm.weight': 'a norm inside the attention (scale_attn_norm)',
  'mlp.norm.weight': 'a norm inside the MLP (scale_mlp_norm)',
  'rope.periods': 'rotary position embeddings',
  'attn.relative_position_bias_table': 'relative position biases (BEiT)',
}
# Ends of the names of arrays in quantised models: of GPTQ and AWQ, of
# bitsandbytes, of float8 in transformers, of compressed-tensors and of PyTorch.
_QUANTISED = (
  '.qweight',
  '.qzeros',
  '.SCB',
  '.absmax',
  '.quant_map',
  '.weight_scale',
  '.weight_scale_inv',
  '.weight_packed',
  '.zero_point',
)
# Parts of names that an encoder has or lacks, and what they are.
_PARTS_OF_ENCODERS = {'/LayerScale_': 'LayerScale', 'registers': 'registers'}


class NotHeldError(InputError):
  """A library has no such model; the remedy is `ports.remedy`'s."""


def check_one_model(names: Collection[str]) -> None:
  """Raises an InputError if names show more than one model, or none.

  Args:
    names: of the arrays of a state dict.
  """
  if {*names} == {'weight', 'bias'}:
    raise InputError(
      'these 2 arrays are one linear layer (a head, such as '
      'dinov2_vits14_linear_head.pth), without the model below it; save the '
      'state dict of both together (dinov2_vits14_lc with layers=1)'
    )
  for parts, what in _NOT_ONE_MODEL:
    if any(part in f'.{name}' for name in names for part in parts):
      raise InputError(f'these {len(names)} arrays are of {what}')


def is_quantised(name: str) -> bool:
  """Returns whether only quantised models have an array of this name."""
  return name.endswith(_QUANTISED)


def check_numbers(state: Mapping[str, np.ndarray]) -> None:
  """Raises an InputError if the weights are quantised, or no real numbers.

  Args:
    state: the arrays of a model by name.
  """
  for name in sorted(state, key=is_quantised, reverse=True):
    dtype, quoted = state[name].dtype, messages.quoted(name)
    if is_quantised(name) or dtype in (np.int8, np.uint8):
      raise InputError(
        f'{quoted} ({dtype}) is of a quantised model, whose weights cannot be '
        'restored here; give the weights in float32, float16 or bfloat16 that '
        'it was made from'
      )
    if dtype.kind != 'f' and dtype != npz.BFLOAT16:
      raise InputError(
        f'{quoted} is of {dtype}, and parameters are real numbers; leave it '
        'out of the file if it is no parameter (a counter), and give the '
        'original weights if it is one (quantised)'
      )


def check_names(
  given: Collection[str], wanted: Collection[str], library: str
) -> None:
  """Raises an InputError if names are missing or unknown.

  Args:
    given: names of the arrays of a state dict.
    wanted: names of the library's model.
    library: one of `ports.LIBRARIES`.
  """
  for name in given:
    end = next((e for e in _LAYERS if name.endswith(e)), None)
    if end is not None:
      raise InputError(
        f'this {library} model has {_LAYERS[end]}, '
        f'{messages.quoted(name)}; this package has no such model'
      )
  missing, unknown = set(wanted) - set(given), set(given) - set(wanted)
  if missing and all(name.endswith('qkv.bias') for name in missing):
    raise InputError(
      f'this {library} model has no biases of queries, keys and values '
      '(qkv_bias=False); this package has no such model'
    )
  if missing or unknown:
    raise InputError(
      f'not a {library} state dict of ViT, hybrid, BiT, Mixer, DeiT, '
      f'DINOv2 or EfficientNet: missing are {messages.listed(missing)}; '
      f'unknown are {messages.listed(unknown)}'
    )


def check_parts(flat: Mapping[str, Any]) -> None:
  """Raises an InputError if a flat tree has parts that exclude others."""
  _check_heads(flat)
  _check_head_inputs(flat)
  _check_norms(flat)
  _check_mlp(flat)


def check_head_width(
  flat: Mapping[str, Any], library: str, family: str
) -> None:
  """Raises an InputError if the head takes tokens that a library's does not.

  Args:
    flat: the canonical tree.
    library: one of `ports.LIBRARIES`.
    family: of the library's table, see `forms.of_tree`.
  """
  if 'head/kernel' not in flat or 'embedding/kernel' not in flat:
    return
  first = 'pre_logits/kernel' if 'pre_logits/kernel' in flat else 'head/kernel'
  both = flat[first].shape[0] == 2 * flat['embedding/kernel'].shape[-1]
  wanted = 'dinov2' in (library, family)
  if both and not wanted:
    transformers = library.startswith('transformers')
    without = ' without LayerScale and registers' if transformers else ''
    raise NotHeldError(
      f'models of {library}{without} have no head on the class token and the '
      "patches' mean (token_and_gap)"
    )
  if wanted and not both:
    raise NotHeldError(
      f'the head of a DINOv2 of {library} takes the class token and the '
      "patches' mean (token_and_gap), and this one takes something else"
    )


def check_encoder(
  flat: Mapping[str, Any], found: Iterable[Leaf], library: str
) -> None:
  """Raises a NotHeldError if a library has no encoder of these parameters.

  What may be left out, the head among others, is not considered.

  Args:
    flat: the canonical tree, with the positions of the library.
    found: the arrays of the library's model that are in it.
    library: one of `ports.LIBRARIES`.
  """
  wanted = {name for leaf in found for name in leaf.canonical}
  missing, extra = wanted - flat.keys(), flat.keys() - wanted
  if layouts.POSITIONS in missing:
    raise NotHeldError(
      f'models of {library} learn their position embeddings, and these are '
      'computed (sincos2d)'
    )
  if 'cls' in missing:
    raise NotHeldError(
      f"{library}'s ViT has a class token, and this model has none"
    )
  for part, what in _PARTS_OF_ENCODERS.items():
    if any(part in name for name in extra):
      raise NotHeldError(f'models of {library} have no {what}')
    if any(part in name for name in missing):
      raise NotHeldError(
        f'{library} has such a model only with {what}, and this one has none'
      )
  if 'fc_norm/scale' in extra:
    raise NotHeldError(
      f'models of {library} normalise all tokens, and this one the pooled '
      'vector (fc_norm)'
    )


def check_library_holds(
  flat: Mapping[str, Any], found: Iterable[Leaf], library: str
) -> None:
  """Raises an InputError if a library has no model of the other parameters.

  Args:
    flat: the canonical tree.
    found: the arrays of the library's model that are in it.
    library: one of `ports.LIBRARIES`.
  """
  wanted = {name for leaf in found for name in leaf.canonical}
  missing, extra = wanted - flat.keys(), flat.keys() - wanted
  if not missing and extra == {'pre_logits/kernel', 'pre_logits/bias'}:
    ways = ['--drop=pre_logits,head (only features)']
    if _head_fits(flat):
      ways.append(
        '--drop=pre_logits (the head then receives features that it was not '
        'trained on)'
      )
    if library.startswith('transformers'):
      ways.append('keep it and use --drop=head')
    raise InputError(
      f'models of {library} have no pre_logits layer before the head; use '
      f'{", or ".join(ways)}'
    )
  if 'mask' in extra:
    raise NotHeldError(
      f'models of {library} have no [mask] embedding (leaving it out changes '
      'no logits)'
    )
  if missing or extra:
    raise NotHeldError(
      f'{library} has no model with these parameters: unknown to it are '
      f'{messages.listed(extra)}; missing are {messages.listed(missing)}'
    )


def check_head_fits(flat: Mapping[str, Any]) -> None:
  """Raises an InputError if the head has other inputs than pre_logits."""
  if not _head_fits(flat):
    shape = np.shape(flat['pre_logits/kernel'])
    raise InputError(
      f'pre_logits map {shape[0]} features to {shape[1]}, so the head does not '
      'fit without them; use --drop=pre_logits,head'
    )


def _head_fits(flat):
  """Returns whether the head takes as many features without pre_logits."""
  if not {'pre_logits/kernel', 'head/kernel'} <= flat.keys():
    return True
  shape = np.shape(flat['pre_logits/kernel'])
  return len(shape) != 2 or shape[0] == shape[1]


def _check_heads(flat):
  """Raises an InputError if a distilled model has other heads than a DeiT."""
  heads = [f'{head}/kernel' in flat for head in ('head', 'head_dist')]
  if 'dist' in flat and (heads == [0, 1] or 'pre_logits/kernel' in flat):
    raise InputError(
      'a distilled model (with a distillation token) has a head on the class '
      'token or none, and no pre_logits (pooler) layer'
    )


def _check_head_inputs(flat):
  """Raises an InputError unless a ViT's head takes one token, or two."""
  if not {'head/kernel', 'embedding/kernel'} <= flat.keys():
    return
  if 'pre_logits/kernel' in flat or len(flat['head/kernel'].shape) != 2:
    return  # a wrong number of sides is named where the array is converted
  inputs, width = (
    flat['head/kernel'].shape[0],
    flat['embedding/kernel'].shape[3],
  )
  if inputs == 5 * width:
    raise InputError(
      'this head takes the class tokens of the last four blocks '
      '(dinov2_*_lc with layers=4), and this package has no such model; give '
      'that of layers=1, or the backbone alone'
    )
  if inputs not in (width, 2 * width):
    raise InputError(
      f'the head has {inputs} inputs, and tokens have {width} channels; this '
      'package has no such model'
    )


def _check_norms(flat):
  """Raises an InputError unless a ViT has one norm after its blocks."""
  norms = [n for n in layouts.LAST_NORMS if f'{n}/scale' in flat]
  if 'embedding/kernel' in flat and len(norms) != 1:
    raise InputError(
      f'a ViT has one norm after its blocks, of all tokens (norm) or of the '
      f'pooled vector (fc_norm), and this model has {len(norms)}; this package '
      'has no such model'
    )


def _check_mlp(flat):
  """Raises an InputError if an MLP is a gated one in timm's single array."""
  mlp = 'Transformer/encoderblock_0/MlpBlock_0'
  first, second = (flat.get(f'{mlp}/Dense_{i}/kernel') for i in (0, 1))
  if first is not None and first.shape[1] != second.shape[0]:
    raise InputError(
      f'the first layer of the MLP has {first.shape[1]} outputs and the second '
      f'{second.shape[0]} inputs: a SwiGLU MLP; this package has no such model'
    )
