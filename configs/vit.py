"""Fine-tunes a released ViT, hybrid or Mixer file. Argument: MODEL,DATASET.

  python -m vit_jax_repro.main --config=configs/vit.py:b16,cifar10 \
    --config.pretrained_dir=DIR --workdir=DIR
"""

from vit_jax_repro import models, recipes
from vit_jax_repro.runs import configuration


def get_config(arg='b16,cifar10'):
  model, _, dataset = arg.partition(',')
  name = models.canonical_name(model)
  recipe = recipes.vit_finetune(dataset or 'cifar10', name)
  return configuration.create(recipe, name)
