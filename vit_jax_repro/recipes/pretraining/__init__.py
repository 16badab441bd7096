"""Every published way to pre-train, as settings for `jobs.train`.

  find('vit-paper-i1k', None, 'ViT-B_16')
  find('vit-paper-i21k', '/data/i21k', 'ViT-L_16', num_examples=12_800_000)

A recipe holds the rows of paper/numbers/pretraining.csv that have the same
table and data set. Three settings are converted. Epochs become updates, by the
number of training images. Weight decay becomes optax's, which is multiplied by
the learning rate; so is the papers', but not big_vision's (pvc-28). The initial
bias of a sigmoid loss becomes a field of the model.

JFT-300M was never published and ImageNet-21k is not in TFDS. Without an
argument `dataset`, their recipes have `dataset` '' and the published number of
images.
"""

from vit_jax_repro.recipes.pretraining import augreg, bit, deit, vit
from vit_jax_repro.recipes.recipe import Recipe, RecipeRequest, choose, pick

RULES = {
  **vit.RULES,
  **augreg.RULES,
  **bit.RULES,
  **deit.RULES,
}


def find(
  recipe: str,
  dataset: str | None,
  model: str,
  *,
  variant: str | None = None,
  num_examples: int | None = None,
  batch: int | None = None,
) -> Recipe:
  """Returns the settings of a source for a model.

  Args:
    recipe: a key of `RULES`.
    dataset: a TFDS name or folder; None: the source's own.
    model: in the published spelling.
    variant: one of the source's alternatives, which the message about an
      unknown one names; for AugReg parts of a file's name, see
      pretraining/augreg.py.
    num_examples: number of training images, if the catalogue does not have it.
    batch: replaces the source's batch. A learning rate that the source gives
      in proportion to the batch changes with it.

  Raises:
    InputError: the recipe or the variant is unknown; the recipe has no
      settings for the model; or it needs a number of images that is not known.
  """
  rule = pick('pre-training', recipe, RULES)
  request = RecipeRequest(
    name=recipe,
    dataset=dataset or '',
    model=model,
    variant=variant or '',
    num_examples=num_examples,
    batch=batch,
  )
  return rule.make(choose(rule, request))
