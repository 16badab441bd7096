"""Pre-training of BiT, by the paper and by big_vision.

Sources: BiT paper (arXiv:1912.11370), section 3.3; google-research/big_vision,
configs/bit_i21k.py and bit_i1k.py.
"""

from typing import Any

from vit_jax_repro.recipes.pretraining.common import (
  BV_IMAGENET,
  BV_IMAGENET21K,
  COMMON,
  IMAGENET,
  IMAGENET21K,
  JFT,
  coupled_decay,
  data_of,
  sigmoid,
)
from vit_jax_repro.recipes.recipe import Recipe, RecipeRequest, Rule, build

# The paper: learning rate for a batch of 256, warm-up, weight decay.
_LR, _LR_BATCH, _WARMUP, _DECAY = 0.03, 256, 5000, 1e-4
# Total epochs, and the epochs after which the rate drops to a tenth.
_SMALL = (90, (30, 60, 80))  # BiT-S and BiT-M
_LARGE = (40, (10, 23, 30, 37))  # BiT-L

_NOTES = {
  'S': 'the paper does not state the loss; softmax',
  'M': 'pvc-58: the paper does not state the loss; sigmoid, as in big_vision',
  'L': 'the paper does not state the loss; sigmoid, as for ImageNet-21k',
}


def _sgd(data, **settings: Any) -> dict[str, Any]:
  return dict(
    COMMON,
    optim='sgd',
    weight_decay_on='kernels',
    batch=data.batch,
    pp=data.pp,
    **settings,
  )


def _paper(request: RecipeRequest, own, schedule, size) -> Recipe:
  data = data_of(request, own)
  epochs, drops = schedule
  loss, fields = ({}, {}) if size == 'S' else sigmoid(own)
  settings = _sgd(
    data,
    weight_decay=_DECAY,
    grad_norm_clip=None,
    decay_type='steps',
    decay_steps=tuple(data.steps(epoch) for epoch in drops),
    total_steps=data.steps(epochs),
    warmup_steps=_WARMUP,
    preprocessing='bit',
    **loss,
  )
  return build(
    data.request,
    'BiT paper (arXiv:1912.11370), section 3.3',
    settings,
    (_LR * data.batch / _LR_BATCH,),
    model_fields=fields,
    notes=(
      _NOTES[size],
      'weight decay applies to kernels only, as in big_vision; the paper does '
      'not state it',
      *data.notes,
    ),
  )


def _big_vision(
  request: RecipeRequest, own, file, lr, decay, warmup, notes=(), loss=({}, {})
) -> Recipe:
  data = data_of(request, own)
  scale = data.batch / _LR_BATCH
  settings, fields = loss
  settings = _sgd(
    data,
    weight_decay=coupled_decay(decay * scale, lr * scale),
    grad_norm_clip=1.0,
    decay_type='cosine',
    total_steps=data.steps(90),
    warmup_steps=warmup,
    preprocessing='big_vision',
    **settings,
  )
  settings['optim_dtype'] = 'bfloat16'  # momentum_hp
  return build(
    data.request,
    f'google-research/big_vision, configs/{file}',
    settings,
    (lr * scale,),
    model_fields=fields,
    notes=(
      "pvc-59: big_vision's decoupled weight decay becomes an L2 term",
      *notes,
      *data.notes,
    ),
  )


def _bv_i21k(request):
  return _big_vision(
    request,
    BV_IMAGENET21K,
    'bit_i21k.py',
    0.03,
    3e-5,
    5000,
    ('pvc-58: cosine decay and gradient clipping; the paper has neither',),
    sigmoid(BV_IMAGENET21K),
  )


def _bv_i1k(request):
  note = (
    'the model is a ResNet-V2; in big_vision a ResNet-V1, also with GroupNorm '
    'and standardised weights'
  )
  return _big_vision(
    request, BV_IMAGENET, 'bit_i1k.py', 0.1, 1e-4, 1000, (note,)
  )


RULES = {
  'bit-s': Rule(lambda request: _paper(request, IMAGENET, _SMALL, 'S')),
  'bit-m': Rule(lambda request: _paper(request, IMAGENET21K, _SMALL, 'M')),
  'bit-l': Rule(lambda request: _paper(request, JFT, _LARGE, 'L')),
  'bv-bit_i21k': Rule(_bv_i21k),
  'bv-bit_i1k': Rule(_bv_i1k),
}
