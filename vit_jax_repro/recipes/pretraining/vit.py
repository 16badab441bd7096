"""Pre-training in the ViT paper.

Sources: ViT paper (arXiv:2010.11929v2), section 4.1, Table 3, B.1 and B.1.2;
its row in DeiT's Table 9 (arXiv:2012.12877).
"""

import re
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.recipes.finetuning.common import dropout
from vit_jax_repro.recipes.pretraining.common import (
  COMMON,
  IMAGENET,
  IMAGENET21K,
  JFT,
  Data,
  data_of,
  sigmoid,
  tanh_layer,
)
from vit_jax_repro.recipes.recipe import Recipe, RecipeRequest, Rule, build

_PAPER = 'ViT paper (arXiv:2010.11929v2), Table 3'
_WARMUP = 10_000
# Table 3: epochs (the default first) and learning rate. The key of a ResNet is
# the end of BiT's name. Tables 2 and 5 have ViT-L/16 after 14 epochs.
_JFT = {
  'ViT-B_16': ((7,), 8e-4),
  'ViT-B_32': ((7,), 8e-4),
  'ViT-L_32': ((7,), 6e-4),
  'ViT-L_16': ((14, 7), 4e-4),
  'ViT-H_14': ((14,), 3e-4),
  'R50x1': ((7,), 1e-3),
  'R50x2': ((7,), 1e-3),
  'R101x1': ((7,), 8e-4),
  'R152x1': ((7,), 6e-4),
  'R152x2': ((7,), 6e-4),
  'R50+ViT-B_16': ((7,), 8e-4),
  'R50+ViT-B_32': ((7,), 8e-4),
  'R50+ViT-L_32': ((7,), 2e-4),
  'R50+ViT-L_16': ((14, 7), 4e-4),
}
_IMAGENET21K = {
  'ViT-B_16': ((90,), 1e-3),
  'ViT-B_32': ((90,), 1e-3),
  'ViT-L_16': ((90, 30), 1e-3),
  'ViT-L_32': ((90, 30), 1e-3),
}

_OPEN = (
  'pvc-28: weight decay applies to kernels only, as in big_vision; the paper '
  'does not state it',
  'pvc-29: the paper does not state the loss; sigmoid, as in big_vision',
  'pvc-30: the paper mentions label smoothing without a value; none',
  'the paper does not state crops; a random box of 5 to 100 % of the area, '
  'and flips',
)


def _row(request: RecipeRequest, table) -> tuple[tuple[int, ...], float]:
  """Returns (epochs, learning rate) of a model.

  Raises:
    InputError: the paper's table has no row for the model.
  """
  name = re.sub(r'^BiT-([SML]-)?', '', request.model)
  if name not in table:
    raise InputError(
      f'recipe {request.name!r} has no row for {request.model!r}; Table 3 of '
      f'the ViT paper has {list(table)} (ResNets as BiT-{{NAME}})'
    )
  return table[name]


def _epochs_of(table):
  return lambda request: tuple(
    str(epochs) for epochs in _row(request, table)[0]
  )


def _adam(data: Data, epochs: float, **settings: Any) -> dict[str, Any]:
  return dict(
    COMMON,
    optim='adamw',
    weight_decay_on='kernels',
    batch=data.batch,
    total_steps=data.steps(epochs),
    warmup_steps=_WARMUP,
    preprocessing='vit_jax',
    pp=data.pp,
    **settings,
  )


def _table3(request, own, table, rate, *notes, **settings):
  """Returns the recipe of a row of Table 3 for JFT-300M or ImageNet-21k."""
  data = data_of(request, own)
  loss, fields = sigmoid(own)
  _, base_lr = _row(request, table)
  settings = _adam(
    data,
    int(request.variant),
    decay_type='linear',
    grad_norm_clip=None,
    **loss,
    **settings,
  )
  return build(
    data.request,
    _PAPER,
    settings,
    (base_lr,),
    model_fields=(
      fields | dropout(request.model, rate) | tanh_layer(request.model)
    ),
    notes=(*_OPEN, *notes, *data.notes),
  )


def _jft(request: RecipeRequest) -> Recipe:
  notes = []
  if request.model == 'R50+ViT-L_32':
    notes.append(
      'pvc-31: learning rate 2e-4, as in Table 3; the text has 6e-4, as for '
      'ViT-L/32'
    )
  return _table3(request, JFT, _JFT, 0.0, *notes, weight_decay=0.1)


def _imagenet21k(request: RecipeRequest) -> Recipe:
  notes = ['pvc-27: weight decay 0.03, as in Table 3; section 4.1 has 0.1']
  if 'ViT-L' in request.model:
    notes.append('pvc-33: 30 or 90 epochs; 90 match the published compute')
  return _table3(
    request, IMAGENET21K, _IMAGENET21K, 0.1, *notes, weight_decay=0.03
  )


def _imagenet(request: RecipeRequest) -> Recipe:
  data = data_of(request, IMAGENET)
  loss, fields = sigmoid(IMAGENET)
  settings = _adam(
    data,
    300,
    decay_type='cosine',
    grad_norm_clip=1.0,
    weight_decay=0.3,
    **loss,
  )
  return build(
    data.request,
    _PAPER,
    settings,
    (3e-3,),
    model_fields=fields
    | dropout(request.model, 0.1)
    | tanh_layer(request.model),
    notes=(
      *_OPEN,
      'pvc-27: weight decay 0.3 and cosine decay, as in Table 3; section 4.1 '
      'has 0.1 and linear',
      *data.notes,
    ),
  )


def _masked(request: RecipeRequest) -> Recipe:
  data = data_of(request, JFT)
  settings = _adam(
    data,
    1,
    decay_type='cosine',
    grad_norm_clip=None,
    weight_decay=None,
    objective='masked_patches',
  )
  settings |= dict(total_steps=1_000_000, weight_decay_on=None)
  return build(
    data.request,
    'ViT paper (arXiv:2010.11929v2), B.1.2',
    settings,
    (2e-4,),
    model_fields=dropout(request.model, 0.0),
    notes=(
      '1 M steps of 4096 images are 14 epochs of JFT-300M',
      'the paper states no weight decay, dropout or gradient clipping; none',
      *data.notes,
    ),
  )


def _by_deit(request: RecipeRequest) -> Recipe:
  data = data_of(request, IMAGENET)
  settings = _adam(
    data, 300, decay_type='cosine', grad_norm_clip=1.0, weight_decay=0.3
  )
  settings['warmup_steps'] = data.steps(3.4)
  return build(
    data.request,
    'DeiT paper (arXiv:2012.12877), Table 9, column ViT-B',
    settings,
    (3e-3,),
    model_fields=dropout(request.model, 0.1) | tanh_layer(request.model),
    notes=(
      'pvc-34: warm-up of 3.4 epochs; the ViT paper has 10,000 steps, which '
      'are 32 epochs',
      'the loss is not stated; softmax, as for DeiT',
      'gradient clipping at 1.0, as in the ViT paper',
      *data.notes,
    ),
  )


RULES = {
  'vit-paper-jft': Rule(_jft, None, _epochs_of(_JFT)),
  'vit-paper-i21k': Rule(_imagenet21k, None, _epochs_of(_IMAGENET21K)),
  'vit-paper-i1k': Rule(_imagenet),
  'vit-paper-masked': Rule(_masked),
  'deit-paper-vit-b': Rule(_by_deit),
}
