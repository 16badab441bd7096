"""Fine-tunes an AugReg file. Argument: MODEL, or a file's name without .npz.

  python -m vit_jax_repro.main --config=configs/augreg.py:R_Ti_16 \
    --config.dataset=oxford_iiit_pet --config.pp.train='train[:90%]' \
    --config.base_lr=0.01 --workdir=DIR

For a model's name alone, this takes its ImageNet-21k file with the best
upstream accuracy, of the authors' bucket or of --config.pretrained_dir=DIR.
"""

from vit_jax_repro import recipes
from vit_jax_repro.runs import configuration


def get_config(arg='R_Ti_16'):
  recipe = recipes.augreg_finetune() | dict(
    pretrained_dir='gs://vit_models/augreg',  # as in the original's file
    model_or_filename=arg,
  )
  config = configuration.create(recipe, arg.split('-')[0])
  with config.unlocked():  # these files are fine-tuned without dropout
    config.model.transformer.dropout_rate = 0.0
  return config
