"""The papers' training settings as pure functions and tables.

A recipe is a plain dict of settings for `jobs.train` (see
`settings.Settings`). The files in `configs/` turn recipes into configurations.
`finetuning` and `pretraining` have a `Recipe` for each row of the published
tables of settings, with its source and the settings that the source omits.
"""

from vit_jax_repro.recipes.quickstart import (
  QUICKSTART,
  QUICKSTART_MODEL,
)
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
