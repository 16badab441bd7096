"""About how much computing things takes: to order checks, and to budget them.

Floating-point operations, two for each multiply-add of the model's matrix
products and convolutions, with a head of 1000 classes.
"""

import dataclasses
import functools

from vit_jax_repro import models
from vit_jax_repro.analysis import cost

# A training step costs three forward passes: one, and a backward pass of two.
_STEP = 3


@dataclasses.dataclass
class ComputeMeter:
  """Operations that were computed and their time, without cached results."""

  operations: float = 0.0
  seconds: float = 0.0

  def add(self, operations: float, seconds: float) -> None:
    self.operations += operations
    self.seconds += seconds

  def expected(self, operations: float) -> float:
    """Returns the seconds of operations at the speed so far; 0 if unknown."""
    if not self.operations:
      return 0.0
    return operations * self.seconds / self.operations


def evaluation(model: str, size, images: int) -> float:
  """Operations of a forward pass of images.

  Args:
    model: published name of the architecture.
    size: pixels, S or (height, width).
    images: how many.
  """
  sides = (size, size) if isinstance(size, int) else tuple(size)
  return _image(model, sides) * images


def training(model: str, size, images: int) -> float:
  """Returns the operations of training; a repeated image counts again."""
  return _STEP * evaluation(model, size, images)


@functools.cache
def _image(model, sides):
  module = models.create(model)
  if hasattr(module, 'scan'):  # counted alike, and faster
    module = module.clone(scan=True)
  return 2.0 * cost.multiply_adds(module, sides)
