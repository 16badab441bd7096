"""Trains a small ViT from scratch on the digits that scikit-learn ships.

  python -m vit_jax_repro.main --config=configs/quickstart.py --workdir=DIR

It takes less than three minutes on two CPU cores.
`configs/quickstart.py:transfer` is the study `transfer` of configs/studies.py:
it pre-trains on the digits 0-4, then learns 5-9 from five examples of each,
from these weights and from scratch.
"""

from vit_jax_repro import recipes, studies
from vit_jax_repro.errors import InputError
from vit_jax_repro.runs import configuration


def get_config(arg='digits'):
  if arg == 'digits':
    return configuration.create(recipes.QUICKSTART, recipes.QUICKSTART_MODEL)
  if arg == 'transfer':
    return studies.config('transfer')
  raise InputError(f"unknown quickstart {arg!r}; choose 'digits' or 'transfer'")
