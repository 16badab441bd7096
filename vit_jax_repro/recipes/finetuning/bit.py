"""Fine-tuning of BiT: the HyperRule of the paper and of the released code.

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
  'pvc-52: the learning rate drops at 30, 60 and 90 % of the steps',
  'pvc-53: the paper gives no warm-up; that of the code, 100 or 500 steps',
  'pvc-54: flips an image with probability 0.5; the TF2 and JAX code flips '
  'every image',
)
_CODE = 'google-research/big_transfer, bit_hyperrule.py'
_DROPS = (30, 60, 90)  # per cent
# (resize, crop) in pixels for images of at least 96x96 pixels.
_LARGE, _LARGE_OF_R152X4 = (448, 384), (512, 480)


def paper_settings(request: RecipeRequest) -> dict[str, Any]:
  """Returns the settings of the paper's HyperRule, without base_lr."""
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
      'pvc-50: crops 384 of 448 pixels, 480 of 512 for R152x4, and 128 of 160 '
      'for small images',
      'the paper does not state how images are evaluated; a square resize, as '
      'in the code',
    ),
  )


def _code(
  request: RecipeRequest, base_lr: float = rules.BASE_LR, **changes: Any
) -> Recipe:
  """Returns the code's settings.

  If the number of training images is unknown, the run sets those that depend
  on it.
  """
  settings = without_source(released.bit_finetune(request.known))
  row = catalogue.find(request.dataset)
  pp: dict[str, Any] = dict(settings['pp'])
  pp['crop'] = request.image_size or pp['crop']
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
      'pvc-50: crops 480 of 512 pixels for every model',
      'pvc-52: in small tasks the learning rate drops at 40, 60 and 80 % of '
      'the steps',
      'pvc-54: flips an image with probability 0.5, as the PyTorch code does; '
      'for the TF2 and JAX code set pp.legacy_always_flip',
      'pvc-55: TF2 and JAX do not train on 2 % of CIFAR and 1 % of ImageNet; '
      'PyTorch trains on all images',
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
