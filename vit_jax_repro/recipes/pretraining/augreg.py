"""Pre-training in AugReg, and of ViTs in big_vision.

Sources: AugReg paper (arXiv:2106.10270), sections 3.3 and 3.4; google-research/
big_vision, configs/vit_i21k.py, vit_i1k.py and vit_s16_i1k.py (also
arXiv:2205.01580). The variant of an AugReg recipe is the part of a released
file's name that describes the training, such as
'300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0'. Each of its parts is
optional.
"""

import re
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.recipes.finetuning.common import dropout
from vit_jax_repro.recipes.pretraining.common import (
  BV_IMAGENET,
  BV_IMAGENET21K,
  COMMON,
  IMAGENET21K,
  Data,
  adamw_decay,
  data_of,
  sigmoid,
  tanh_layer,
)
from vit_jax_repro.recipes.recipe import (
  Recipe,
  RecipeRequest,
  Rule,
  build,
  variants,
)
from vit_jax_repro.recipes.rules import AUGREG_STRENGTHS

_LR, _WARMUP = 1e-3, 10_000
_BV_DECAY = 1e-4
_PAPER = 'AugReg paper (arXiv:2106.10270), sections 3.3 and 3.4'
_BIG_VISION = 'google-research/big_vision, configs/'

_PART = re.compile(r'(?P<ep>\d+)ep|(?P<key>lr|aug|wd|do|sd)_(?P<value>[\w.]+)')
_PARTS = '300ep-lr_0.001-aug_NAME-wd_0.1-do_0.0-sd_0.0'
# Settings of the recommended released files, by model. They are in the names of
# the files: README of google-research/vision_transformer; for B/8, which it
# does not have, google-research/big_vision, models/vit.py.
_IMAGENET21K = {
  'ViT-Ti_16': 'aug_none-wd_0.03',
  'ViT-S_32': 'aug_none-wd_0.1',
  'ViT-S_16': 'aug_light1-wd_0.03',
  'ViT-B_32': 'aug_light1-wd_0.1',
  'ViT-B_16': 'aug_medium1-wd_0.1',
  'ViT-B_8': 'aug_medium2-wd_0.1',
  'ViT-L_16': 'aug_strong1-wd_0.1',
  'R+ViT-Ti_16': 'aug_none-wd_0.03',
  'R26+ViT-S_32': 'aug_light1-wd_0.1',
  'R50+ViT-L_32': 'aug_medium1-wd_0.1-do_0.1-sd_0.1',
}
# No list recommends files that were pre-trained on ImageNet alone. These are
# the files that timm has.
_IMAGENET = {
  'ViT-S_16': 'aug_medium2-wd_0.1',
  'ViT-B_32': 'aug_medium2-wd_0.1-do_0.1-sd_0.1',
  'ViT-B_16': 'aug_strong2-wd_0.1-do_0.1-sd_0.1',
}
# vit_i21k.py and vit_i1k.py: augmentation by model.
_BV_IMAGENET21K = {
  'ViT-Ti_16': 'none',
  'ViT-S_32': 'none',
  'ViT-S_16': 'light1',
  'ViT-B_32': 'light2',
  'ViT-B_16': 'light2',
  'ViT-L_16': 'medium2',
}
_BV_IMAGENET = dict.fromkeys(_BV_IMAGENET21K, 'medium2') | {
  'ViT-Ti_16': 'light1',
  'ViT-S_32': 'medium1',
}


def _parsed(request: RecipeRequest, defaults) -> dict[str, Any]:
  """Returns the parts of a variant: ep, lr, aug, wd, do, sd.

  Raises:
    InputError: a part is malformed, or the augmentation is missing or unknown.
  """
  values = dict(ep='300', lr=f'{_LR:g}', wd='0.1', do='0.0', sd='0.0')
  texts = (defaults.get(request.model, ''), request.variant)
  for part in (part for text in texts for part in text.split('-') if part):
    match = _PART.fullmatch(part)
    if not match:
      raise InputError(
        f'recipe {request.name!r} does not know {part!r} in the variant '
        f'{request.variant!r}; parts are {_PARTS}'
      )
    values[match['key'] or 'ep'] = match['value'] or match['ep']
  if values.get('aug') not in AUGREG_STRENGTHS:
    raise InputError(
      f'recipe {request.name!r} has no augmentation for {request.model!r}; '
      f"choose variant='aug_NAME' from {list(AUGREG_STRENGTHS)}"
    )
  try:
    numbers = {k: float(v) for k, v in values.items() if k != 'aug'}
  except ValueError:
    raise InputError(
      f'recipe {request.name!r}: numbers of the variant {request.variant!r} '
      f'must be such as in {_PARTS}'
    ) from None
  return dict(numbers, aug=values['aug'])


def _adam(data: Data, *, epochs, decay, strength, **more: Any):
  return dict(
    COMMON,
    optim='adamw',
    weight_decay=decay,
    weight_decay_on='kernels',
    decay_type='cosine',
    grad_norm_clip=1.0,
    augreg_strength=strength,
    batch=data.batch,
    total_steps=data.steps(epochs),
    warmup_steps=_WARMUP,
    pp=data.pp,
    **more,
  )


def _augreg(request: RecipeRequest, own, defaults, head, *notes) -> Recipe:
  data = data_of(request, own)
  parts = _parsed(request, defaults)
  loss, fields = sigmoid(own)
  fields |= dict(dropout(request.model, parts['do']), **head)
  fields['stochastic_depth_rate'] = parts['sd']
  settings = _adam(
    data,
    epochs=parts['ep'],
    decay=parts['wd'],
    strength=parts['aug'],
    preprocessing='vit_jax',
    **loss,
  )
  return build(
    data.request,
    _PAPER,
    settings,
    (parts['lr'],),
    model_fields=fields,
    notes=(
      'pvc-29: the paper does not state the loss; sigmoid, as in big_vision',
      'pvc-36: without a variant, the settings of the recommended file of the '
      'model',
      *notes,
      *data.notes,
    ),
  )


def _imagenet21k(request):
  note = (
    'pvc-35: a class token, as in the released files; vit_i21k.py averages '
    'the patches'
  )
  return _augreg(request, IMAGENET21K, _IMAGENET21K, {}, note)


def _imagenet(request):
  note = 'the head has a hidden layer; the paper also has results without it'
  head = tanh_layer(request.model)
  return _augreg(request, BV_IMAGENET, _IMAGENET, head, note)


def _strength(request, table):
  if request.model not in table:
    raise InputError(
      f'recipe {request.name!r} has no augmentation for {request.model!r}; it '
      f'has settings for {list(table)}'
    )
  return table[request.model]


def _big_vision(request, own, file, strength, epochs, fields, **more) -> Recipe:
  data = data_of(request, own, more.pop('batch', 4096))
  settings = _adam(
    data,
    epochs=epochs,
    decay=adamw_decay(_BV_DECAY, _LR),
    strength=strength,
    preprocessing='big_vision',
    **more,
  )
  settings['optim_dtype'] = 'bfloat16'  # of the first moment, mu_dtype
  return build(
    data.request,
    f'{_BIG_VISION}{file}',
    settings,
    (_LR,),
    model_fields=fields,
    notes=(
      'pvc-28: weight decay 1e-4 in big_vision is 0.1 of the learning rate '
      'here',
      'pvc-20: position embeddings start with standard deviation 0.02; in '
      'big_vision 1 / sqrt(width)',
      'mixup pairs the batch with its reverse; in big_vision each image with '
      'the one before it',
      *data.notes,
    ),
  )


def _bv_i21k(request):
  loss, fields = sigmoid(BV_IMAGENET21K)
  strength = _strength(request, _BV_IMAGENET21K)
  fields['classifier'] = 'gap'
  return _big_vision(
    request, BV_IMAGENET21K, 'vit_i21k.py', strength, 300, fields, **loss
  )


def _bv_i1k(request):
  loss, fields = sigmoid(BV_IMAGENET)
  strength = _strength(request, _BV_IMAGENET)
  fields |= dict(classifier='token', class_token_after_positions=True)
  fields |= tanh_layer(request.model)
  return _big_vision(
    request, BV_IMAGENET, 'vit_i1k.py', strength, 300, fields, **loss
  )


def _bv_s16(request):
  fields = dict(classifier='gap', position_embedding='sincos2d')
  return _big_vision(
    request,
    BV_IMAGENET,
    'vit_s16_i1k.py; arXiv:2205.01580',
    'light2',
    int(request.variant),
    fields | tanh_layer(request.model),
    batch=1024,
  )


RULES = {
  'augreg-paper-i1k': Rule(_imagenet, None, variants()),
  'augreg-paper-i21k': Rule(_imagenet21k, None, variants()),
  'bv-vit_i21k': Rule(_bv_i21k),
  'bv-vit_i1k': Rule(_bv_i1k),
  'bv-vit_s16_i1k': Rule(_bv_s16, None, variants('90', '150', '300')),
}
