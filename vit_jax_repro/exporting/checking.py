"""The comparison of a written export with the model in JAX.

Differences are fractions of the largest absolute logit of a batch.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from vit_jax_repro.comparison import activations
from vit_jax_repro.errors import InputError
from vit_jax_repro.exporting import programs

BATCH_SIZES = (1, 5)
# The largest difference that is always allowed. A model whose float32 noise is
# larger than a tenth of it is allowed NOISE_MARGIN times its noise.
TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Reference:
  """Results of JAX for one batch.

  Attributes:
    images: [B, H, W, 3] float32.
    outputs: [B, K] float32, the results in float32.
    noise: difference between the results in float32 and in float64.
  """

  images: np.ndarray
  outputs: np.ndarray
  noise: float

  @property
  def allowed(self) -> float:
    """Returns the largest difference of a faithful export."""
    return max(TOLERANCE, activations.NOISE_MARGIN * self.noise)


@dataclasses.dataclass(frozen=True)
class Check:
  """The difference of an export from JAX for one batch size."""

  batch_size: int
  difference: float
  noise: float
  allowed: float


def references(program: programs.Program) -> list[Reference]:
  """Computes the results of JAX for each of BATCH_SIZES.

  Raises:
    InputError: a result is not finite, or all are zero, so that nothing could
      be compared.
  """
  run = jax.jit(program.function)
  found = []
  for images in _batches(program.image_shape):
    outputs = np.asarray(run(images))
    if not np.isfinite(outputs).all():
      raise InputError(
        f'the {program.output} of the model are not finite, so nothing can be '
        'compared with them; give weights that were trained to the end'
      )
    if not outputs.any():
      raise InputError(
        f'the {program.output} of the model are all zeros, so nothing can be '
        'compared with them; give trained weights'
      )
    exact = _in_float64(program, images)
    found.append(Reference(images, outputs, _difference(outputs, exact)))
  return found


def check(
  run: Callable[[np.ndarray], np.ndarray], wanted: list[Reference], path: str
) -> list[Check]:
  """Compares an export with JAX.

  Args:
    run: the export as a function of images.
    wanted: results of JAX.
    path: name of the export, for the message.

  Raises:
    InputError: the export gives other shapes, or differs by more than is
      allowed.
  """
  found = []
  for each in wanted:
    outputs = np.asarray(run(each.images))
    if outputs.shape != each.outputs.shape:
      raise InputError(
        f'{path} was not written: it gives the shape {outputs.shape} instead '
        f'of {each.outputs.shape}; try another version of the exporter'
      )
    difference = _difference(outputs, each.outputs)
    if not difference <= each.allowed:  # also for NaN
      raise InputError(
        f'{path} was not written: at batch size {len(each.images)} it differs '
        f'from JAX by {difference:.1e} of the largest value, more than '
        f'{each.allowed:.1e}; try another version of the exporter'
      )
    found.append(Check(len(each.images), difference, each.noise, each.allowed))
  return found


def _batches(image_shape):
  """Returns noise images of falling contrast, the first at full contrast."""
  size = max(BATCH_SIZES)
  images = np.random.default_rng(0).uniform(-1, 1, (size, *image_shape))
  images *= 0.5 ** np.arange(size).reshape(-1, 1, 1, 1)
  images = images.astype(np.float32)
  return [images[:size] for size in BATCH_SIZES]


def _in_float64(program, images):
  restored = program.restored
  variant = activations.Variant(restored.model, restored.params, images)
  with activations.computing(variant, 'float64') as (apply, params, wide):
    return np.asarray(jax.jit(apply)(params, wide))


def _difference(outputs, wanted):
  return float(np.abs(outputs - wanted).max() / np.abs(wanted).max())
