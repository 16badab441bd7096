"""Fine-tuning in the ViT paper and in its authors' released code.

Sources: ViT paper (arXiv:2010.11929v2), section 4.1, Table 4 and B.1.1;
google-research/vision_transformer, vit_jax/configs, README.md and
vit_jax.ipynb; google-research/scenic, vtab_plainvit_config.py.
"""

from typing import Any

from vit_jax_repro.data import catalogue
from vit_jax_repro.errors import InputError
from vit_jax_repro.recipes import released, rules
from vit_jax_repro.recipes.finetuning import bit
from vit_jax_repro.recipes.finetuning.common import (
  ONCE,
  SGD,
  dropout,
  random_box,
  splits,
  square_crop,
  without_source,
)
from vit_jax_repro.recipes.recipe import (
  Recipe,
  RecipeRequest,
  Rule,
  build,
  variants,
)
from vit_jax_repro.recipes.rules import WARMUP

# Table 4: total steps, and the learning rates to choose from.
_GRID = (0.001, 0.003, 0.01, 0.03)
PAPER = {
  'imagenet2012': (20_000, (0.003, 0.01, 0.03, 0.06)),
  'cifar100': (10_000, _GRID),
  'cifar10': (10_000, _GRID),
  'oxford_iiit_pet': (500, _GRID),
  'oxford_flowers102': (500, _GRID),
}
FIVE = tuple(PAPER)
VTAB = tuple(name for name, row in catalogue.DATA_SETS.items() if row.group)
_VTAB_STEPS, _VTAB_LR = 2500, 0.01
_RESIZE, _CROP = 448, catalogue.CROP  # BiT paper, section 3.3
# B.1.1: resolution of the ImageNet results in Table 2.
_TABLE2_CROPS = {'ViT-L_16': 512, 'ViT-H_14': 518}
_POLYAK_DECAY = 0.9999
# Evaluation in all released code.
_READ: dict[str, Any] = dict(ONCE, preprocessing='vit_jax')

_PAPER = 'ViT paper (arXiv:2010.11929v2), Table 4 and B.1.1'
_CODE = 'google-research/vision_transformer, vit_jax/configs'
_SCENIC = 'google-research/scenic, plainvit/configs/vtab_plainvit_config.py'


def _paper(
  request: RecipeRequest, crop: int = _CROP, **settings: Any
) -> Recipe:
  """Returns the settings of Table 4; `crop` is the default image size."""
  steps, grid = PAPER.get(request.known, (_VTAB_STEPS, (_VTAB_LR,)))
  total = request.schedule(steps)
  final, tune = splits(request)
  crop = request.image_size or crop
  if request.variant == 'inception':
    pp = random_box(request, crop)
  else:
    pp = square_crop(request, crop, resize=round(crop * _RESIZE / _CROP))
  settings = dict(
    SGD,
    total_steps=total,
    warmup_steps=WARMUP[total],
    preprocessing='vit_jax',
    pp=dict(final, **pp),
    **settings,
  )
  return build(
    request,
    _PAPER,
    settings,
    grid,
    model_fields=dropout(request.model, 0.1),
    tune=tune,
    notes=tuple(_paper_notes(request, crop, grid)),
  )


def _paper_notes(request, crop, grid):
  yield 'pvc-01: the paper gives no warm-up; that of the released code'
  yield 'pvc-12: momentum in float32; the released code has bfloat16'
  if request.known in VTAB:
    yield 'pvc-79: one setting for all tasks, chosen by the authors out of 4'
  else:
    yield 'pvc-02: the authors did not publish the learning rates they chose'
    yield (
      'pvc-03: the paper does not state which images are held out; the last '
      'ones of train, as in the released code; then trains on all of train'
    )
  if 0.06 in grid:
    yield (
      'pvc-25: 0.06 is tried for every model, as in Table 4; the text has it '
      'only for ResNets and hybrids'
    )
  if dropout(request.model, 0.1):
    yield "pvc-08: dropout 0.1, the paper's according to the released README"
  if request.variant == 'inception':
    yield "pvc-05: the released random box replaces the paper's square resize"
  else:
    yield 'pvc-05: a square resize and a random crop, as in BiT (ViT paper)'
    if crop != _CROP:
      yield (
        'the paper does not state the size before the crop; in proportion to '
        f'{_RESIZE} for {_CROP}'
      )
  if request.known == 'oxford_flowers102':
    yield (
      'pvc-04: the paper does not state whether it trains on `validation`; '
      'this recipe does not'
    )
  if request.model.endswith('_14') and crop % 14:
    yield f'pvc-80: patches of 14 cover {crop // 14 * 14} of {crop} pixels'


def _table2(request):
  if not request.image_size and request.model not in _TABLE2_CROPS:
    raise InputError(
      f'Table 2 of the ViT paper has no resolution for {request.model!r}, only '
      f'for {list(_TABLE2_CROPS)}; give crop, in pixels'
    )
  crop = _TABLE2_CROPS.get(request.model, request.image_size)
  return _paper(request, crop, polyak_decay=_POLYAK_DECAY)


def _resnets(request):
  if request.variant == 'sweep':
    return _paper(request)
  return build(
    request,
    f'{_PAPER}; {bit.PAPER}',
    bit.paper_settings(request),
    (rules.BASE_LR,),
    notes=bit.OPEN,
  )


def _released(request, *, crop=None, base_lr=None, **changes: Any) -> Recipe:
  """Returns the settings of vit_jax/configs/vit.py, with changes."""
  settings = released.vit_finetune(request.known, request.model)
  rate = base_lr or settings['base_lr']
  crop = request.image_size or crop or settings['pp']['crop']
  settings = without_source(settings) | _READ | changes
  settings['pp'] = dict(settings['pp'], crop=crop)
  return build(
    request,
    _CODE,
    settings,
    (rate,),
    notes=(
      'pvc-03: the held-out part is never used',
      'pvc-07: every test image counts; the code drops the last batch',
      'pvc-08: the dropout rate is that of the named model',
      'pvc-09: each accumulation step has its own dropout mask',
    ),
  )


def _readme_short(request):
  total = request.schedule(500, 1000)
  return _released(request, total_steps=total, warmup_steps=total // 10)


def _notebook(request):
  return _released(
    request, crop=224, base_lr=0.03, total_steps=100, warmup_steps=5
  )


def _augreg_config(request):
  settings = released.augreg_finetune() | _READ
  rate = settings['base_lr']
  final, _ = splits(request)
  settings = without_source(settings)
  crop = request.image_size or settings['pp']['crop']
  settings['pp'] = dict(final, **random_box(request, crop))
  return build(
    request,
    f'{_CODE}/augreg.py',
    settings,
    (rate,),
    model_fields=dropout(request.model, 0.0),
    notes=(
      'pvc-13: the file sets pp.resize=448, but the code does not read it',
      'the example in the file has a learning rate of 0.01',
    ),
  )


def _scenic(request):
  final, _ = splits(request)
  notes = [
    'pvc-04, pvc-79: vit_jax has no preset for VTAB; this is the closest '
    'released form of the protocol',
    'scenic tuned it for a model that averages its tokens; the pooling of the '
    'model is kept',
  ]
  if request.known == 'vtab/clevr-count':
    final['train'] = 'train[:1000]+val200'
    notes.append('pvc-79: trains on 1200 images, unlike the protocol')
  crop = square_crop(request, request.image_size or _CROP, resize=_RESIZE)
  settings = dict(
    SGD,
    optim_dtype='bfloat16',
    total_steps=_VTAB_STEPS,
    warmup_steps=200,
    preprocessing='vit_jax',
    pp=dict(final, **crop),
  )
  return build(
    request,
    _SCENIC,
    settings,
    (_VTAB_LR,),
    model_fields=dropout(request.model, 0.0),
    notes=tuple(notes),
  )


_SQUARE_OR_BOX = variants('square', 'inception')
RULES = {
  'vit-paper': Rule(_paper, (*FIVE, *VTAB), _SQUARE_OR_BOX),
  'vit-paper-table2-imagenet': Rule(_table2, ('imagenet2012',), _SQUARE_OR_BOX),
  'vit-paper-resnets': Rule(_resnets, FIVE, variants('sweep', 'hyperrule')),
  'vit_jax-vit.py': Rule(_released, tuple(released.VIT_DATASETS)),
  'vit_jax-augreg.py': Rule(_augreg_config),
  'README-short': Rule(_readme_short, ('cifar10', 'cifar100')),
  'vit_jax.ipynb': Rule(_notebook, ('cifar10',)),
  'scenic-vtab': Rule(_scenic, VTAB),
}
