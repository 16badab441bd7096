"""A restored model as one function in float32, which is what is exported.

Shapes: B images, H W pixels, K classes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vit_jax_repro.inference.restoring import Restored
from vit_jax_repro.weights import trees

INPUT = 'images'
BATCH = 'batch'  # name of the dimension that stays free


@dataclasses.dataclass(frozen=True)
class Program:
  """A function from images to logits.

  Attributes:
    restored: the model in float32, with its parameters and its metadata.
    output: name of the result: 'logits', or 'features' without a head.
    output_shape: shape of the result for one image, without the batch.
  """

  restored: Restored
  output: str
  output_shape: tuple[int, ...]

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Returns the shape of one image, [H, W, 3]."""
    return (*self.restored.image_size, 3)

  @property
  def num_parameters(self) -> int:
    """Returns the number of parameters."""
    return trees.num_parameters(self.restored.params)

  @property
  def function(self) -> Callable[[Any], Any]:
    """Returns the function [B, H, W, 3] -> [B, K], weights included."""
    return _function(self.restored)


def create(restored: Restored) -> Program:
  """Creates the program of a restored model.

  Everything is computed in float32, whatever dtype the model was trained in,
  and weights of other dtypes are converted. Attention is written out, because
  the faster kernels exist on some devices only, and so are the blocks.

  Args:
    restored: a model with its parameters.
  """
  changes = dict(attention='plain', remat=False, scan=False)
  changes = {k: v for k, v in changes.items() if hasattr(restored.model, k)}
  flat = trees.unstack(trees.flatten(restored.params))
  restored = dataclasses.replace(
    restored,
    model=restored.model.clone(
      dtype='float32', param_dtype='float32', **changes
    ),
    params=trees.nest(
      {name: np.asarray(leaf, np.float32) for name, leaf in flat.items()}
    ),
  )
  image = jax.ShapeDtypeStruct((1, *restored.image_size, 3), np.float32)
  shape = jax.eval_shape(_function(restored), image).shape
  output = 'logits' if restored.num_classes else 'features'
  return Program(restored, output, shape[1:])


def _function(restored):
  def run(images):  # [B, H, W, 3] -> [B, K]
    return restored.model.apply(
      {'params': restored.params}, images, train=False
    )

  return run
