"""Named activations of the reference, and tolerances from their noise.

Shapes: B images, H W pixels, K classes.
"""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

LOGITS = 'logits'
DTYPES = ('float32', 'float64')

# Names of activations in the order of computation; {} is a number.
_ORDER = (
  'conv_root',
  'gn_root',
  'root_block',
  'block{}',
  'embedding',
  'stem',
  'Transformer/posembed_input',
  'Transformer/encoderblock_{}',
  'MixerBlock_{}',
  'Transformer/encoder_norm',
  'pre_head_layer_norm',
  'pre_logits',
  'pre_logits_tanh',
  LOGITS,
)
_ATTENTION = '/attention_weights'

# Ratio of a tolerance to the difference between the reference in float32 and in
# float64. The tests of this project use the same margin.
NOISE_MARGIN = 10
# Least tolerance, in units in the last place of the largest value. It is used
# if the noise of an activation happens to be smaller than rounding.
_LEAST_ULPS = 8
# Tolerance in float64, as a fraction of the largest value. There is no wider
# dtype to measure the noise with.
_FLOAT64_TOLERANCE = 1e-10


def run(
  model: nn.Module,
  params: Mapping[str, Any],
  images: np.ndarray,
  *,
  dtype: str = 'float32',
) -> dict[str, np.ndarray]:
  """Returns logits and all named activations, in the order of computation.

  Matrix products have the highest precision. Attention weights are omitted.

  Args:
    model: model from `models.create`; its dtypes are replaced.
    params: parameters in the form that `model` takes.
    images: [B, H, W, 3] floats.
    dtype: dtype of parameters and computation, 'float32' or 'float64'.

  Returns:
    {name: array}, with the names of `models` and 'logits' [B, K].
  """
  with jax.enable_x64(dtype == 'float64'):
    model = model.clone(dtype=dtype, param_dtype=dtype)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), params)
    # The model is not jitted as a whole: a comparison runs many variants of it
    # once each, and JAX compiles the operations that they share only once.
    with jax.default_matmul_precision('highest'):
      logits, state = model.apply(
        {'params': params},
        np.asarray(images, dtype),
        train=False,
        mutable=['intermediates'],
      )
    named = {name: value[0] for name, value in state['intermediates'].items()}
    named[LOGITS] = logits
    return {
      name: np.asarray(named[name])
      for name in sorted(named, key=position)
      if not name.endswith(_ATTENTION)
    }


def position(name: str) -> tuple[int, int]:
  """Returns a key that sorts names of activations in order of computation."""
  number = re.search(r'\d+$', name)
  pattern = re.sub(r'\d+$', '{}', name)
  rank = _ORDER.index(pattern) if pattern in _ORDER else len(_ORDER)
  return rank, int(number[0]) if number else 0


def tolerances(
  outputs: Mapping[str, np.ndarray],
  model: nn.Module,
  params: Mapping[str, Any],
  images: np.ndarray,
  *,
  dtype: str = 'float32',
) -> dict[str, float]:
  """Returns the absolute tolerance of each activation, for a faithful port.

  In float32 it is `NOISE_MARGIN` times the largest difference between the
  reference in float32 and in float64, on these weights and images. In float64
  it is a fixed fraction of the largest value of the activation.

  Args:
    outputs: result of `run` for the other arguments.
    model, params, images, dtype: see `run`.
  """
  if dtype == 'float64':
    return {
      name: _FLOAT64_TOLERANCE * float(np.abs(array).max())
      for name, array in outputs.items()
    }
  exact = run(model, params, images, dtype='float64')
  least = _LEAST_ULPS * np.finfo(np.float32).eps
  return {
    name: max(
      NOISE_MARGIN * float(np.abs(array - exact[name]).max()),
      float(least * np.abs(array).max()),
    )
    for name, array in outputs.items()
  }


def random_images(
  image_size: tuple[int, int], seed: int = 0
) -> np.ndarray:  # [3, H, W, 3] float32
  """Returns noise images that show differences which photographs may hide.

  The first has uniform noise in [-1, 1], the second noise of 2e-3 around 0, and
  the third noise of 2e-3 around 0.25. The low contrasts make the epsilons of
  norms visible.
  """
  images = np.random.default_rng(seed).uniform(-1, 1, (3, *image_size, 3))
  images[1:] *= 2e-3
  images[2] += 0.25
  return images.astype(np.float32)
