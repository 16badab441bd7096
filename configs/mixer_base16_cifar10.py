"""Fine-tunes Mixer-B/16 on CIFAR-10, as the original's file of this name.

  python -m vit_jax_repro.main --config=configs/mixer_base16_cifar10.py \
    --config.pretrained_dir=DIR --workdir=DIR
"""

from vit_jax_repro import recipes
from vit_jax_repro.runs import configuration


def get_config():
  recipe = recipes.vit_finetune('cifar10', 'Mixer-B_16')
  return configuration.create(recipe, 'Mixer-B_16')
