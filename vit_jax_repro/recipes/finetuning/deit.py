"""Fine-tuning of DeiT at 384 pixels, by the paper and by the repository.

Sources: DeiT paper (arXiv:2012.12877), section 6; facebookresearch/deit,
README_deit.md and main.py.
"""

from vit_jax_repro.recipes.finetuning.common import (
  DEIT,
  DEIT_DEPTH,
  DEIT_OPEN,
  DEIT_RANDAUGMENT,
  ONCE,
  splits,
)
from vit_jax_repro.recipes.recipe import (
  Recipe,
  RecipeRequest,
  Rule,
  build,
  steps,
)

_LR, _LR_BATCH = 5e-6, 512  # main.py: learning rate proportional to the batch
_WARMUP_EPOCHS = 5
_WEIGHT_DECAY = 1e-8
_CROP = 384


def _finetune(request: RecipeRequest, source, epochs, notes) -> Recipe:
  final, _ = splits(request)
  batch = request.batch or _LR_BATCH
  examples = request.examples(final['train'])
  settings = dict(
    DEIT,
    **ONCE,
    weight_decay=_WEIGHT_DECAY,
    decay_type='constant',
    batch=batch,
    total_steps=steps(epochs, examples, batch),
    warmup_steps=steps(_WARMUP_EPOCHS, examples, batch),
    head='keep',
    pp=dict(final, crop=request.image_size or _CROP, **DEIT_RANDAUGMENT),
  )
  return build(
    request,
    source,
    settings,
    (_LR * batch / _LR_BATCH,),
    model_fields=DEIT_DEPTH,
    notes=(
      *notes,
      *DEIT_OPEN,
      'pvc-16: position embeddings are resized bilinearly; in DeiT bicubically',
      'pvc-65: evaluates a central crop of 0.875 of the short side',
      'pvc-72: the published numbers are of the model itself, not of its '
      'moving average',
    ),
  )


def _code(request):
  return _finetune(
    request,
    'facebookresearch/deit, README_deit.md',
    30,
    ('pvc-73: 30 epochs at a constant 5e-6; the paper has about 25 epochs',),
  )


def _paper(request):
  return _finetune(
    request,
    'DeiT paper (arXiv:2012.12877), section 6',
    25,
    (
      'pvc-73: about 25 epochs; the paper does not state learning rate, decay '
      'and batch; those of the repository',
      'the paper has the same result with AdamW and SGD; this is AdamW',
    ),
  )


RULES = {
  'deit-finetune-384': Rule(_code, ('imagenet2012',)),
  'deit-paper-finetune-384': Rule(_paper, ('imagenet2012',)),
}
