"""The papers' training settings as pure functions and tables.

A recipe is a plain dict of settings for `jobs.train` (see
`settings.Settings`). The files in `configs/` turn recipes into configurations.
`finetuning` and `pretraining` have a `Recipe` for each row of the published
tables of settings, with its source and the settings that the source omits.
"""

from typing import Any

from vit_jax_repro.recipes.recipe import Recipe
from vit_jax_repro.recipes.released import (
  augreg_finetune,
  bit_finetune,
  vit_finetune,
)
from vit_jax_repro.recipes.rules import AUGREG_STRENGTHS, augreg_strength
from vit_jax_repro.recipes.rules import mixup_alpha as bit_mixup_alpha
from vit_jax_repro.recipes.rules import schedule as bit_schedule

__all__ = [
  'AUGREG_STRENGTHS',
  'QUICKSTART',
  'QUICKSTART_MODEL',
  'Recipe',
  'augreg_finetune',
  'augreg_strength',
  'bit_finetune',
  'bit_mixup_alpha',
  'bit_schedule',
  'vit_finetune',
]

# A ViT small enough to learn the 8x8-pixel digits on a CPU in minutes.
QUICKSTART_MODEL: dict[str, Any] = dict(
  model='vit',
  patch_size=(2, 2),
  hidden_size=64,
  transformer=dict(
    num_layers=4,
    mlp_dim=128,
    num_heads=4,
    dropout_rate=0.0,
    attention_dropout_rate=0.0,
  ),
  classifier='token',
)
QUICKSTART: dict[str, Any] = dict(
  dataset='digits',
  base_lr=3e-3,
  total_steps=2400,
  warmup_steps=100,
  optim='adamw',
  weight_decay=0.5,
  weight_decay_on='kernels',
  mixup_alpha=0.2,
  batch=64,
  batch_eval=360,
  shuffle_buffer=2000,
  eval_every=200,
  progress_every=20,
  checkpoint_every=400,
  pp=dict(
    train='train',
    test='test',
    crop=8,
    inception_crop=False,
    flip=False,
    shift=1,
  ),
)
