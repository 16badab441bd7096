"""Differences between two sets of named activations, layer by layer."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from vit_jax_repro.comparison.torch_paths import POSITIONS

_MOST_EXCESS = 1e12  # upper limit of an excess, also for infinities and NaN


@dataclasses.dataclass(frozen=True)
class LayerDifference:
  """The difference of an activation of the port from the reference's."""

  name: str
  max_abs: float  # largest absolute difference
  relative: float  # max_abs over the reference's largest absolute value
  cosine: float  # cosine of the two arrays as vectors
  tolerance: float  # for max_abs

  @property
  def excess(self) -> float:
    """Returns the largest difference in units of the tolerance."""
    if self.max_abs == 0:
      return 0.0
    return self.max_abs / self.tolerance if self.tolerance else math.inf

  @property
  def within(self) -> bool:
    """Returns whether the largest difference is within the tolerance."""
    return self.excess <= 1


def compare(
  reference: Mapping[str, np.ndarray],
  port: Mapping[str, np.ndarray],
  tolerances: Mapping[str, float],
) -> list[LayerDifference]:
  """Returns the differences of common activations, in the reference's order.

  Args:
    reference: {name: array}, see `activations.run`.
    port: {name: array}. Other layouts (channels first, patches in a row) are
      converted to the reference's. Arrays that cannot be converted are left
      out, see `not_compared`.
    tolerances: {name: absolute value}.
  """
  found = []
  for name, expected in reference.items():
    if name not in port or name not in tolerances:
      continue
    actual = _matched(name, port[name], expected.shape)
    if actual is not None:
      found.append(_difference(name, expected, actual, tolerances[name]))
  return found


def not_compared(
  reference: Mapping[str, np.ndarray], port: Mapping[str, np.ndarray]
) -> tuple[tuple[str, str], ...]:
  """Returns (name, reason) of the activations that `compare` leaves out.

  They are in the reference's order. The reason is both shapes, the port's
  first, or that the port has no such activation.
  """
  found = []
  for name, expected in reference.items():
    if name not in port:
      found.append((name, 'not found in the port'))
    elif _matched(name, port[name], expected.shape) is None:
      found.append((name, f'{port[name].shape}, not {expected.shape}'))
  return tuple(found)


def _matched(name, array, shape):
  """Returns a port's activation in the reference's layout, or None.

  Positions may be those of the patches alone, where the port has tokens before
  them, too.
  """
  if name == POSITIONS and len(shape) == array.ndim == 3:
    array = array[:, -shape[1] :]
  return aligned(array, shape)


def aligned(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
  """Returns a port's activation in the reference's layout.

  Converts [B, C, h, w] to [B, h, w, C], [B, N, C] to [B, h, w, C], [N, B, C]
  to [B, N, C], and [B, C, 1, 1] to [B, C]. Returns None if the shape does not
  fit.
  """
  if len(shape) == array.ndim == 4:
    moved = np.moveaxis(array, 1, -1)
    return moved if moved.shape == shape else _if_shape(array, shape)
  if len(shape) == 4 and array.ndim == 3:
    rows = (shape[0], shape[1] * shape[2], shape[3])
    return array.reshape(shape) if array.shape == rows else None
  if len(shape) == array.ndim == 3 and array.shape != shape:
    array = np.swapaxes(array, 0, 1)
  if len(shape) == 2 and array.ndim == 4 and array.shape[2:] == (1, 1):
    array = array[:, :, 0, 0]
  return _if_shape(array, shape)


def alike_but_scale(
  expected: np.ndarray, actual: np.ndarray, tolerance: float
) -> bool:
  """Returns whether a LayerNorm without weights makes two arrays alike.

  Args:
    expected: [..., D].
    actual: the same in any layout that `aligned` knows.
    tolerance: for the difference of values of unit variance.
  """
  array = aligned(actual, expected.shape)
  if array is None:
    return False
  both = [a - a.mean(-1, keepdims=True) for a in (expected, array)]
  both = [a / np.maximum(a.std(-1, keepdims=True), 1e-30) for a in both]
  return bool(np.abs(both[0] - both[1]).max() < tolerance)


def _if_shape(array, shape):
  return array if array.shape == shape else None


def _difference(name, expected, actual, tolerance):
  expected = np.asarray(expected, np.float64).reshape(-1)
  actual = np.asarray(actual, np.float64).reshape(-1)
  gap = float(np.abs(actual - expected).max(initial=0))
  largest = float(np.abs(expected).max(initial=0))
  lengths = float(np.linalg.norm(expected) * np.linalg.norm(actual))
  return LayerDifference(
    name=name,
    max_abs=math.inf if math.isnan(gap) else gap,
    relative=gap / largest if largest else math.inf if gap else 0.0,
    cosine=float(expected @ actual) / lengths if lengths else 0.0,
    tolerance=tolerance,
  )


def first_outside(
  differences: Sequence[LayerDifference],
) -> LayerDifference | None:
  """Returns the first layer over its tolerance, or None."""
  return next((d for d in differences if not d.within), None)


def total_excess(differences: Sequence[LayerDifference]) -> float:
  """Returns the sum of log(excess) over the layers outside their tolerances.

  This total is 0 if every layer is within its tolerance. It decreases if a
  layer comes within its tolerance or nearer to it.
  """
  return sum(
    math.log(min(d.excess, _MOST_EXCESS)) for d in differences if not d.within
  )


def worst(differences: Sequence[LayerDifference]) -> float:
  """Returns the largest difference in units of its tolerance."""
  return max((d.excess for d in differences), default=0.0)
