"""Every published way to pre-train, as settings for `jobs.train`.

  find('vit-paper-i1k', None, 'ViT-B_16')
  find('vit-paper-i21k', '/data/i21k', 'ViT-L_16', num_examples=12_800_000)

The rows of paper/numbers/pretraining.csv, those of one table and data set as
one recipe. What is translated: epochs into updates, by the number of training
images; decay into optax's convention, where it is multiplied by the learning
rate as in the papers and not in big_vision (pvc-28); the bias that a sigmoid
loss starts from into a field of the model.

JFT-300M was never published and ImageNet-21k is not in TFDS: recipes for them
have `dataset` '' and the published number of images until a set is named.
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
    variant: one of `variants`; AugReg: parts of a file's name, see
      pretraining_augreg.py.
    num_examples: training images, where the catalogue does not know them.
    batch: in place of the source's; learning rates that the source gives in
      proportion to it follow.

  Raises:
    InputError: unknown recipe or variant, no settings for that model, or a
      number of images that is needed and not known.
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


def variants(recipe: str, model: str) -> tuple[str, ...]:
  """Returns the variants of a source, the default first; () for parts.

  Raises:
    InputError: unknown recipe, or no settings for that model.
  """
  rule = pick('pre-training', recipe, RULES)
  return rule.variants(RecipeRequest(recipe, '', model, ''))
