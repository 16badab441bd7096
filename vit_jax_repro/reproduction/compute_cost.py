"""Approximate compute of evaluations and trainings, to order and budget checks.

The unit is floating-point operations: two for each multiply-add of the model's
matrix products and convolutions, with a head of 1000 classes.
"""

import dataclasses
import functools
from collections.abc import Sequence

from vit_jax_repro import models
from vit_jax_repro.analysis import cost

# A training step costs as much as three forward passes: the backward pass costs
# two.
_STEP = 3


@dataclasses.dataclass
class ComputeMeter:
  """The operations computed so far and their time, without cached results."""

  operations: float = 0.0
  seconds: float = 0.0

  def add(self, operations: float, seconds: float) -> None:
    """Adds a computation."""
    self.operations += operations
    self.seconds += seconds

  def expected(self, operations: float) -> float:
    """Returns the expected seconds at the speed so far; 0 if it is unknown."""
    if not self.operations:
      return 0.0
    return operations * self.seconds / self.operations


def evaluation(model: str, size: int | Sequence[int], images: int) -> float:
  """Returns the operations of a forward pass.

  Args:
    model: published name of the architecture.
    size: pixels, S or (height, width).
    images: number of images.
  """
  sides = (size, size) if isinstance(size, int) else tuple(size)
  return _image(model, sides) * images


def training(model: str, size: int | Sequence[int], images: int) -> float:
  """Returns the operations of a training.

  Args:
    model, size: see `evaluation`.
    images: number of images over all steps; a repeated image counts again.
  """
  return _STEP * evaluation(model, size, images)


@functools.cache
def _image(model, sides):
  module = models.create(model)
  if isinstance(module, models.TwoTowers):  # the texts are read once
    module = module.img
  if hasattr(module, 'scan'):  # faster to trace, and gives the same count
    module = module.clone(scan=True)
  return 2.0 * cost.multiply_adds(module, sides)
