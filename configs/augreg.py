"""Fine-tunes an AugReg file. Argument: MODEL, or a file's name without .npz.

  python -m vit_jax_repro.main --config=configs/augreg.py:R_Ti_16 \
    --config.dataset=oxford_iiit_pet --config.pp.train='train[:90%]' \
    --config.base_lr=0.01 --config.pretrained_dir=DIR --workdir=DIR

For a model's name alone, this takes its ImageNet-21k file with the best
upstream accuracy.
"""

from vit_jax_repro import recipes
from vit_jax_repro.runs import configuration


def get_config(arg='R_Ti_16'):
  recipe = dict(recipes.augreg_finetune(), model_or_filename=arg)
  config = configuration.create(recipe, arg.split('-')[0])
  with config.unlocked():  # these files are fine-tuned without dropout
    config.model.transformer.dropout_rate = 0.0
  return config
