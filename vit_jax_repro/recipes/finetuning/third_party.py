"""Fine-tuning in another reproduction of the paper, mohammed183/re_vit.

pvc-49: its settings are not the paper's, so its numbers are no targets for the
paper's protocol. Its models are PyTorch and TensorFlow ports.
"""

from vit_jax_repro.recipes.finetuning.common import SGD, square_crop
from vit_jax_repro.recipes.recipe import (
  Recipe,
  RecipeRequest,
  Rule,
  build,
  steps,
)

# Epochs, learning rate of ViT-L/16, learning rate of BiT-M R152x4.
_DATA_SETS = {
  'cifar10': (10, 0.001, 0.0003),
  'cifar100': (10, 0.001, 0.0003),
  'oxford_iiit_pet': (10, 0.003, 0.0001),
  'oxford_flowers102': (14, 0.003, 0.0001),
}
_NOTES = (
  "pvc-49: neither the resolution nor the schedule is the paper's",
  'its accuracies are means over batches; here they are fractions of all '
  'images',
)


def _settings(request, batch, pp, preprocessing):
  row = request.row
  train = row.splits['minitrain']
  return dict(
    SGD,
    grad_norm_clip=None,
    batch=batch,
    accum_steps=1,
    total_steps=steps(
      _DATA_SETS[request.known][0], request.examples(train), batch
    ),
    warmup_steps=0,
    preprocessing=preprocessing,
    pp=dict(pp, train=train, test=row.test),
  )


def _vit(request: RecipeRequest) -> Recipe:
  pp = dict(crop=request.image_size or 224, inception_crop=False, flip=False)
  return build(
    request,
    'mohammed183/re_vit, notebook 03.1',
    _settings(request, 32, pp, 'vit_jax'),
    (_DATA_SETS[request.known][1],),
    notes=(*_NOTES, 'the new head starts from zeros; in re_vit it is random'),
  )


def _bit(request: RecipeRequest) -> Recipe:
  return build(
    request,
    'mohammed183/re_vit, notebook 03.2',
    _settings(
      request,
      16,
      square_crop(request, request.image_size or 128, resize=160),
      'bit',
    ),
    (_DATA_SETS[request.known][2],),
    notes=_NOTES,
  )


RULES = {
  're_vit-vit': Rule(_vit, tuple(_DATA_SETS)),
  're_vit-bit': Rule(_bit, tuple(_DATA_SETS)),
}
