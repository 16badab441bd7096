"""Compares training runs. Argument: NAME[,SIZE].

  python -m vit_jax_repro.main --config=configs/studies.py:position_embeddings \
    --workdir=DIR

NAME is one of `vit_jax_repro.studies.NAMES`. SIZE is 'digits' (the default,
which takes minutes on two CPU cores), 'short' (to check that it runs) or 'full'
(the papers' models and recipes on ImageNet).
"""

from vit_jax_repro import studies


def get_config(arg='position_embeddings'):
  name, _, size = arg.partition(',')
  return studies.config(name, size or 'digits')
