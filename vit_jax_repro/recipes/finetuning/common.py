"""Settings and helpers that several fine-tuning sources share."""

from collections.abc import Mapping
from typing import Any

from vit_jax_repro.data import catalogue
from vit_jax_repro.recipes.recipe import RecipeRequest

CONVNETS = ('BiT-', 'Mixer-')  # models without dropout
ONCE = dict(eval_every=0)  # evaluates the test split once, at the end

# Fine-tuning in the ViT paper (Table 4), BiT (section 3.3) and their code:
# SGD with momentum 0.9 and batches of 512. Accumulation as in
# vit_jax/configs/common.py; the result does not depend on it.
SGD: dict[str, Any] = dict(
  optim='sgd',
  optim_dtype='float32',
  decay_type='cosine',
  grad_norm_clip=1.0,
  batch=512,
  batch_eval=512,
  accum_steps=8,
  shuffle_buffer=50_000,
  **ONCE,
)

# DeiT's augmentation (arXiv:2012.12877, Table 9; facebookresearch/deit,
# main.py). As in timm, weight decay does not apply to biases, norms, tokens and
# position embeddings.
DEIT: dict[str, Any] = dict(
  optim='adamw',
  weight_decay_on='kernels',
  grad_norm_clip=None,
  mixup_alpha=0.8,
  cutmix_alpha=1.0,
  label_smoothing=0.1,
  random_erasing=0.25,
  repeated_augmentation=3,
  preprocessing='deit',
)
DEIT_RANDAUGMENT: dict[str, Any] = dict(
  randaugment_layers=2, randaugment_magnitude=9, randaugment_policy='deit'
)
DEIT_DEPTH = dict(stochastic_depth_rate=0.1)  # fields of the model
DEIT_OPEN = (
  'random boxes cover 5 to 100 % of the area and are resized bilinearly; '
  'in DeiT 8 to 100 %, bicubically',
  'warm-up starts from 0; the code starts from 1e-6',
)


def dropout(model: str, rate: float) -> dict[str, float]:
  """Returns the model's dropout field; {} for models without dropout."""
  return {} if model.startswith(CONVNETS) else {'dropout_rate': rate}


def splits(
  request: RecipeRequest,
) -> tuple[dict[str, str], dict[str, str] | None]:
  """Returns the final and the tuning splits of the ViT paper's protocol.

  The final training uses all of `train`, after the learning rate was chosen on
  `minival` (B.1.1). VTAB-1k has 1000 training images and no such choice, so its
  tuning splits are None.
  """
  row = catalogue.find(request.dataset)
  if row is None:
    return dict(train='train', test='test'), None
  if row.group:
    return dict(train='train800val200', test='test'), None
  final = dict(train='train', test=row.test)
  return final, dict(train='minitrain', test='minival')


def square_crop(
  request: RecipeRequest, crop: int, *, resize: int
) -> dict[str, Any]:
  """Returns the `pp` keys of BiT's augmentation: square resize, crop, flip."""
  cropped, flipped = _may_crop_and_flip(request)
  return dict(
    crop=crop,
    resize=resize if cropped else None,
    inception_crop=False,
    flip=flipped,
  )


def random_box(request: RecipeRequest, crop: int) -> dict[str, Any]:
  """Returns the `pp` keys of vit_jax's random box, 5 to 100 % of the area."""
  cropped, flipped = _may_crop_and_flip(request)
  return dict(crop=crop, inception_crop=cropped, flip=flipped)


def _may_crop_and_flip(request):
  """Returns whether training may crop and flip images at random.

  It may not if a VTAB label depends on position or direction. Sources:
  task_adaptation, data/*.py; BiT paper, section 3.3.
  """
  row = catalogue.find(request.dataset)
  if row is None:
    return True, True
  return row.random_crop is not False, row.random_flip is not False


def without_source(settings: Mapping[str, Any]) -> dict[str, Any]:
  """Returns settings without pretrained_dir, dataset and base_lr.

  A `Recipe` does not keep the first and gets the others from `build`.
  """
  left_out = ('pretrained_dir', 'dataset', 'base_lr')
  return {k: v for k, v in settings.items() if k not in left_out}
