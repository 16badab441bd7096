"""Training of DeiT, with and without a teacher.

Sources: DeiT paper (arXiv:2012.12877), section 5 and Table 9; facebookresearch/
deit, main.py and losses.py. Variants: 'none' has no teacher; 'hard' (the
paper's choice) and 'soft' have one, and need `teacher` to be its weights file.
"""

from vit_jax_repro.recipes.finetuning.common import (
  DEIT,
  DEIT_DEPTH,
  DEIT_OPEN,
  DEIT_RANDAUGMENT,
  dropout,
)
from vit_jax_repro.recipes.pretraining.common import COMMON, IMAGENET, data_of
from vit_jax_repro.recipes.recipe import (
  Recipe,
  RecipeRequest,
  Rule,
  build,
  variants,
)

_LR, _LR_BATCH, _BATCH = 5e-4, 512, 1024
_EPOCHS, _WARMUP_EPOCHS, _WEIGHT_DECAY = 300, 5, 0.05
# Soft distillation: (temperature, weight of the teacher's loss).
_SOFT_OF_PAPER, _SOFT_OF_CODE = (3.0, 0.1), (1.0, 0.5)

_NOTES = (
  *DEIT_OPEN,
  'the learning rate changes with each update, falls from the end of the '
  'warm-up and ends at 0; in the code it changes once an epoch, is 1e-6 in the '
  'first two epochs, falls as if from the first one and ends at 1e-5',
  "weights start from Flax's initializers; DeiT draws them from a truncated "
  'normal distribution',
  'pvc-72: the published numbers are of the model itself, not of its moving '
  'average',
  'pvc-74: 3 copies of an image, also on one device; the code has them only '
  'in distributed training',
)


def _train(request: RecipeRequest, source: str, soft) -> Recipe:
  data = data_of(request, IMAGENET, _BATCH)
  settings = dict(
    COMMON,
    **DEIT,
    weight_decay=_WEIGHT_DECAY,
    decay_type='cosine',
    batch=data.batch,
    total_steps=data.steps(_EPOCHS),
    warmup_steps=data.steps(_WARMUP_EPOCHS),
    pp=dict(data.pp, **DEIT_RANDAUGMENT),
  )
  notes = _NOTES
  if request.variant != 'none':
    settings |= dict(objective='distillation', distillation=request.variant)
    notes = (*notes, "the paper's teacher is a RegNetY-16GF")
  if request.variant == 'soft':
    tau, alpha = soft
    settings |= dict(distillation_tau=tau, distillation_alpha=alpha)
    notes = (
      *notes,
      f'pvc-71: temperature {tau} and weight {alpha}; paper and code differ, '
      "and the code divides the teacher's loss by the number of elements",
    )
  return build(
    data.request,
    source,
    settings,
    (_LR * data.batch / _LR_BATCH,),
    model_fields=dropout(request.model, 0.0) | DEIT_DEPTH,
    notes=(*notes, *data.notes),
  )


def _paper(request):
  source = 'DeiT paper (arXiv:2012.12877), Table 9'
  return _train(request, source, _SOFT_OF_PAPER)


def _code(request):
  return _train(request, 'facebookresearch/deit, main.py', _SOFT_OF_CODE)


_TEACHING = variants('none', 'hard', 'soft')
RULES = {
  'deit-paper': Rule(_paper, None, _TEACHING),
  'deit-code': Rule(_code, None, _TEACHING),
}
