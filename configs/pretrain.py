"""Pre-trains by one of the published recipes. Argument: RECIPE,MODEL[,DATASET].

  python -m vit_jax_repro.main \
    --config=configs/pretrain.py:vit-paper-i1k,b16 --workdir=DIR
  python -m vit_jax_repro.main --workdir=DIR \
    --config=configs/pretrain.py:bit-m,BiT-M-R50x1,/data/i21k,num_examples=12800000

`vit_jax_repro/recipes/pretraining/` names the recipes. KEY=VALUE may follow,
with the keys variant, num_examples, batch. Distillation needs
--config.teacher=FILE.
"""

from vit_jax_repro import models
from vit_jax_repro.recipes import arguments, pretraining
from vit_jax_repro.runs import configuration


def get_config(arg='vit-paper-i1k,b16'):
  (recipe, model, dataset), options = arguments.parse(
    arg, 'RECIPE,MODEL,DATASET', arguments.OF_PRETRAINING, needed=2
  )
  name = models.canonical_name(model)
  found = pretraining.find(recipe, dataset, name, **options)
  fields = dict(models.variant(name), model_name=name)
  return configuration.create(found.settings, found.architecture(fields))
