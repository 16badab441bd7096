"""Fine-tunes a released BiT file by the BiT-HyperRule. Argument: MODEL,DATASET.

  python -m vit_jax_repro.main --config=configs/bit.py:BiT-M-R50x1,cifar10 \
    --config.pretrained_dir=DIR --workdir=DIR
"""

from vit_jax_repro import recipes
from vit_jax_repro.runs import configuration


def get_config(arg='BiT-M-R50x1,cifar10'):
  model, _, dataset = arg.partition(',')
  return configuration.create(recipes.bit_finetune(dataset or 'cifar10'), model)
