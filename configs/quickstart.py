"""Trains a small ViT from scratch on the digits that scikit-learn ships.

  python -m vit_jax_repro.main --config=configs/quickstart.py --workdir=DIR

Under three minutes on two CPU cores. `configs/quickstart.py:transfer` is a
study: it pre-trains on the digits 0-4, then learns 5-9 from five examples of
each, from these weights and from scratch.
"""

import copy

import ml_collections

from vit_jax_repro import recipes
from vit_jax_repro.runs import configuration


def get_config(arg='digits'):
  if arg == 'digits':
    return configuration.create(recipes.QUICKSTART, recipes.QUICKSTART_MODEL)
  if arg == 'transfer':
    return _transfer()
  raise ValueError(f"unknown quickstart {arg!r}; choose 'digits' or 'transfer'")


def _transfer():
  pretrain = copy.deepcopy(recipes.QUICKSTART) | dict(dataset='digits/0-4')
  finetune = copy.deepcopy(recipes.QUICKSTART) | recipes.QUICKSTART_FEW
  finetune['pp'] |= dict(train='few')
  study = dict(
    pretrain=configuration.create(pretrain, recipes.QUICKSTART_MODEL),
    finetune=configuration.create(finetune, recipes.QUICKSTART_MODEL),
    held_out='held_out',
    seeds=(0, 1, 2),
    base_lrs=(3e-4, 3e-3),
  )
  return ml_collections.ConfigDict(dict(study=study)).lock()
