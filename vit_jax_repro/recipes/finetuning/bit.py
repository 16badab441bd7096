"""Fine-tuning of BiT: the HyperRule of the paper and that of the code.

Sources: BiT paper (arXiv:1912.11370), section 3.3; google-research/
big_transfer, bit_hyperrule.py, input_pipeline_tf2_or_jax.py, README.md.
"""

import re
from typing import Any

from vit_jax_repro.data import catalogue
from vit_jax_repro.recipes import released, rules
from vit_jax_repro.recipes.finetuning.common import (
  ONCE,
  SGD,
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

PAPER = 'BiT paper (arXiv:1912.11370), section 3.3'
OPEN = (
  'pvc-52: the rate drops at 30, 60 and 90 % of the steps',
  'pvc-53: the paper names no warm-up; that of the code, 100 or 500 steps',
  'pvc-54: every second image is flipped; the TF2 and JAX code flips all',
)
_CODE = 'google-research/big_transfer, bit_hyperrule.py'
_DROPS = (30, 60, 90)  # per cent
# Resized to and cropped, of images of at least 96x96 pixels.
_LARGE, _LARGE_OF_R152X4 = (448, 384), (512, 480)


def paper_settings(request: RecipeRequest) -> dict[str, Any]:
  """Returns the settings of the paper's HyperRule without base_lr."""
  final, _ = splits(request)
  examples = request.examples(final['train'])
  warmup, _, total = rules.schedule(examples)
  resize, crop = rules.resolution(*rules.image_size(request.known))
  if resize == max(_LARGE_OF_R152X4):
    biggest = re.fullmatch(r'BiT-.*R152x4.*', request.model)
    resize, crop = _LARGE_OF_R152X4 if biggest else _LARGE
  return dict(
    SGD,
    grad_norm_clip=None,
    decay_type='steps',
    decay_steps=tuple(total * percent // 100 for percent in _DROPS),
    total_steps=total,
    warmup_steps=warmup,
    mixup_alpha=rules.mixup_alpha(examples),
    preprocessing='bit',
    pp=dict(
      final, **square_crop(request, request.image_size or crop, resize=resize)
    ),
  )


def _paper(request: RecipeRequest) -> Recipe:
  return build(
    request,
    PAPER,
    paper_settings(request),
    (rules.BASE_LR,),
    notes=(
      *OPEN,
      'pvc-50: 384 of 448 pixels, of 512 for R152x4 480; of small images 128 '
      'of 160',
      'evaluated by a square resize, as the code does; the paper does not say',
    ),
  )


def _code(
  request: RecipeRequest, base_lr: float = rules.BASE_LR, **changes: Any
):
  """Returns the code's settings; the run sets those of unknown sizes."""
  settings = without_source(released.bit_finetune(request.known))
  row = catalogue.find(request.dataset)
  pp = dict(settings['pp'], crop=request.image_size or settings['pp']['crop'])
  pp['test'] = row.test if row else pp['test']
  if request.variant == 'pytorch':
    pp['train'] = 'train'
  if row and row.group:
    pp.update(train='train800val200', test='test')
    pp |= square_crop(request, pp['crop'], resize=pp['resize'])
  if row or request.num_examples:
    examples = request.num_examples or request.examples(pp['train'])
    warmup, drops, total = rules.schedule(examples)
    settings.update(
      decay_type='steps',
      decay_steps=drops,
      total_steps=total,
      warmup_steps=warmup,
      mixup_alpha=rules.mixup_alpha(examples),
    )
  settings = dict(settings, pp=pp, **ONCE, **changes)
  return build(
    request,
    _CODE,
    settings,
    (base_lr,),
    notes=(
      'pvc-50: 480 of 512 pixels for every model',
      'pvc-52: small tasks have drops at 40, 60 and 80 % of the steps',
      'pvc-54: every second image is flipped, as in PyTorch; for the TF2 and '
      'JAX code set pp.legacy_always_flip',
      'pvc-55: TF2 and JAX leave out 2 % of CIFAR and 1 % of ImageNet, PyTorch '
      'nothing',
      'pvc-56: every test image counts; the TF2 and JAX code drops the last '
      'batch',
    ),
  )


def _readme_cifar(request: RecipeRequest) -> Recipe:
  return _code(request, base_lr=0.001, batch=128)  # pvc-57: big_transfer README


_FRAMEWORKS = variants('jax', 'pytorch')
RULES = {
  'bit-hyperrule-paper': Rule(_paper),
  'bit-hyperrule-code': Rule(_code, None, _FRAMEWORKS),
  'bit-readme-cifar': Rule(_readme_cifar, ('cifar10', 'cifar100'), _FRAMEWORKS),
}
