"""Shapes of the parameters of large models, traced once for each model."""

import functools

from vit_jax_repro.models import bit
from vit_jax_repro.weights.adapt import ANY_IMAGE_SIZE
from vit_jax_repro.weights.adapt import parameter_shapes as trace

_traced = functools.cache(trace)


def parameter_shapes(model, image_size):
  """Returns {flat name: shape and dtype}; a repeated call costs nothing.

  The parameters of a BiT do not depend on the image size.
  """
  if isinstance(model, bit.BiT):
    image_size = ANY_IMAGE_SIZE
  return _traced(model, tuple(image_size))
