"""The reference's side of a comparison: named activations and their noise.

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

# Names of activations in the order in which they are computed; {} is a number.
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

# A tolerance is so many times what float32 and float64 differ by in the
# reference itself, the margin that our own tests leave.
NOISE_MARGIN = 10
# An activation whose noise is by chance smaller than rounding: so many units
# in the last place of its largest value.
_LEAST_ULPS = 8
# In float64 nothing wider is at hand to measure the noise with.
_FLOAT64_TOLERANCE = 1e-10  # of the largest value


def run(
  model: nn.Module,
  params: Mapping[str, Any],
  images: np.ndarray,
  *,
  dtype: str = 'float32',
) -> dict[str, np.ndarray]:
  """Logits and all named activations, in the order of computation.

  Matrix products run in the highest precision. Attention weights are left out.

  Args:
    model: of `models.create`; its dtypes are replaced.
    params: in the form that `model` takes.
    images: [B, H, W, 3] floats.
    dtype: of parameters and computation, 'float32' or 'float64'.

  Returns:
    {name: array}; the names of `models`, and 'logits' [B, K].
  """
  with jax.enable_x64(dtype == 'float64'):
    model = model.clone(dtype=dtype, param_dtype=dtype)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), params)
    # Not compiled as a whole: a comparison runs many variants of a model
    # once, and the pieces that they share are compiled once.
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
  """A key that sorts names of activations by when they are computed."""
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
  """How far a faithful port may be from each activation, in absolute value.

  In float32 `NOISE_MARGIN` times the largest difference of the reference from
  itself in float64, on these weights and images; in float64 a fixed part of
  the activation's largest value.

  Args:
    outputs: what `run` gave for the other arguments.
    model, params, images, dtype: as for `run`.
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
  """Inputs that show what photographs may hide.

  Uniform noise in [-1, 1]; noise of 2e-3 around 0; noise of 2e-3 around 0.25:
  the low contrasts let the epsilons of norms be seen.
  """
  images = np.random.default_rng(seed).uniform(-1, 1, (3, *image_size, 3))
  images[1:] *= 2e-3
  images[2] += 0.25
  return images.astype(np.float32)
