"""Significance of differences between accuracies: intervals and p-values.

All functions take NumPy arrays, so that simulations run the code that judges a
single number. Differences are in percentage points, accuracies are fractions.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from scipy import special

Numbers = float | np.ndarray
ALPHA = 0.05  # level of all tests; intervals have 1 - ALPHA
_SMALLEST = -300  # decimal logarithm of the smallest p-value that is computed
_STEPS = 40  # of bisection
_QUANTILES = 200  # of an estimated standard deviation, for averages over it


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Measured accuracies and the published number that they are compared with.

  Fields:
    rates: measured fraction of correct images of each task, [tasks, ...]; the
      mean over the runs if there are several.
    images: number of test images of each task, [tasks].
    value: the published number in per cent, [...].
    rounding: half a unit of the last published digit, in points.
    spreads: the other parts of the difference that are due to chance, each a
      pair (estimated standard deviation in points, [...]; degrees of freedom of
      the estimate).
  """

  rates: np.ndarray
  images: Sequence[int]
  value: Numbers
  rounding: float
  spreads: tuple[tuple[Numbers, float], ...] = ()

  @property
  def points(self) -> np.ndarray:
    """Returns measured minus published, in points."""
    return 100 * np.mean(self.rates, axis=0) - self.value

  def half_width(self, alpha: Numbers = ALPHA) -> np.ndarray:
    """Returns the largest difference that chance explains at a level.

    It is in points, without the rounding of the published number.
    """
    down, up = half_intervals(self.rates, self.images, alpha)
    return _root_of_squares(
      np.where(self.points > 0, down, up),
      *(t_quantile(degrees, alpha) * dev for dev, degrees in self.spreads),
    )

  def p_value(self) -> np.ndarray:
    """Returns the p-value of the difference.

    This is the largest level at which the half-width and the rounding still
    explain the difference. For one run and one task it is twice the binomial
    tail. The smallest value is 1e-300.
    """
    distance = np.abs(self.points) - self.rounding
    low, high = np.full_like(distance, _SMALLEST), np.zeros_like(distance)
    for _ in range(_STEPS):  # bisection of the logarithm
      middle = (low + high) / 2
      explained = distance <= self.half_width(10**middle)
      low, high = (
        np.where(explained, middle, low),
        np.where(explained, high, middle),
      )
    explained = distance <= self.half_width(1.0)
    return np.where(explained, 1.0, 10**low)

  def miss_rate(self, error: float) -> np.ndarray:
    """Returns how often a measurement that is wrong is not found at ALPHA.

    The measured rates and spreads are taken as the true ones, and the images
    as normal. `error` 0 gives the rate of right measurements that are not
    called different.

    Args:
      error: the true difference in points.
    """
    down, up = half_intervals(self.rates, self.images)
    images = (down + up) / 2
    deviations = [deviation for deviation, _ in self.spreads]
    sigma = _root_of_squares(images / t_quantile(np.inf), *deviations)
    # Averages over the estimates of the standard deviations, of which there
    # are at most two: one axis for each.
    width = np.square(images)
    for deviation, degrees in self.spreads:
      estimates = deviation * estimate_quantiles(degrees)
      width = width[..., None] + np.square(t_quantile(degrees) * estimates)
    width = np.sqrt(width) + self.rounding
    found = special.ndtr((error - width) / sigma) + special.ndtr(
      (-error - width) / sigma
    )
    return 1 - found.mean(axis=tuple(range(-len(self.spreads), 0)))


def half_intervals(
  rates: Numbers, images: Sequence[int], alpha: Numbers = ALPHA
) -> tuple[np.ndarray, np.ndarray]:
  """Returns both half-widths, in points, of the mean rate of several tasks.

  They are those of the tasks by Clopper and Pearson, added in quadrature and
  divided by the number of tasks.

  Args:
    rates, images: see Comparison.
    alpha: 1 minus the level of the interval, [...].
  """
  rates = np.asarray(rates, float)
  number = np.asarray(images, float)
  number = number.reshape(-1, *[1] * (rates.ndim - 1))
  low, high = binomial_interval(rates * number, number, alpha)
  return tuple(
    100 * np.sqrt(np.square(side).sum(axis=0)) / len(rates)
    for side in (rates - low, high - rates)
  )


def binomial_interval(
  correct: Numbers, number: Numbers, alpha: Numbers = ALPHA
) -> tuple[np.ndarray, np.ndarray]:
  """Returns Clopper and Pearson's two-sided interval for a rate.

  Args:
    correct: number of correct images; a mean of several runs need not be whole.
    number: number of images.
    alpha: 1 minus the level of the interval.
  """
  correct = np.asarray(correct, float)
  wrong = np.maximum(number - correct, 0)
  tail = np.asarray(alpha) / 2
  # `betaincinv` has no value where a count is 0; the ends are exact there.
  low = special.betaincinv(np.maximum(correct, 1e-9), wrong + 1, tail)
  high = special.betainccinv(correct + 1, np.maximum(wrong, 1e-9), tail)
  return np.where(correct > 0, low, 0.0), np.where(wrong > 0, high, 1.0)


def t_quantile(degrees: float, alpha: Numbers = ALPHA) -> np.ndarray:
  """Returns the half-width by Student's t of a standard deviation of 1.

  Infinite degrees of freedom give the normal distribution's.
  """
  tail = np.asarray(alpha) / 2
  if np.isinf(degrees):
    return -special.ndtri(tail)
  return -special.stdtrit(degrees, tail)


@functools.cache
def estimate_quantiles(degrees: float) -> np.ndarray:
  """Returns quantiles of the estimate of a standard deviation of 1."""
  tail = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
  return np.sqrt(special.chdtri(degrees, tail) / degrees)


def _root_of_squares(*parts):
  return np.sqrt(sum(np.square(part) for part in parts))
