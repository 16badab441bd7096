"""Fine-tunes by one of the published recipes. Argument: RECIPE,MODEL,DATASET.

  python -m vit_jax_repro.main \
    --config=configs/paper.py:vit-paper,b16,oxford_iiit_pet \
    --config.base_lr=0.003 --config.pretrained_dir=DIR --workdir=DIR

`vit_jax_repro/recipes/finetuning/` names the recipes. KEY=VALUE may follow,
with the keys variant, steps, image_size, dropout, num_examples. MODEL may be
the name of an AugReg file without .npz. If a recipe has several learning rates,
this takes the middle one, or the upper of the two in the middle. That is the
released code's rate for ImageNet and for ViT-B/16 on CIFAR-10. A sweep is one
run for each rate, on the recipe's held-out splits.
"""

import re

from vit_jax_repro import models
from vit_jax_repro.recipes import arguments, finetuning
from vit_jax_repro.runs import configuration


def get_config(arg='vit-paper,b16,cifar10'):
  (recipe, file, dataset), options = arguments.parse(
    arg, 'RECIPE,MODEL,DATASET', arguments.OF_FINETUNING, needed=3
  )
  model = re.split('-i(?:1|21)k-', file)[0]
  name = models.canonical_name(model)
  found = finetuning.find(recipe, dataset, name, **options)
  settings = dict(
    found.settings,
    pretrained_dir='.',
    model_or_filename=None if model == file else file,
  )
  fields = dict(models.variant(name), model_name=name)
  return configuration.create(settings, found.architecture(fields))
