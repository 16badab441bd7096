"""Named activations of the reference, and tolerances from their noise.

Shapes: B images, H W pixels, K classes.
"""

import contextlib
import re
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple

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
  'top',
  'Transformer/encoder_norm',
  'fc_norm',
  'pre_head_layer_norm',
  'pre_logits',
  'pre_logits_tanh',
  LOGITS,
)
# Ends of the names of a block's activations, in the order of computation.
PARTS = (
  '/LayerNorm_0',
  '/MultiHeadDotProductAttention_0',
  '/LayerScale_0',
  '/LayerNorm_1',
  '/MlpBlock_0',
  '/LayerScale_1',
)
NORMS = ('/LayerNorm_0', '/LayerNorm_1')
LAYER_SCALES = ('/LayerScale_0', '/LayerScale_1')
BLOCK_ENDS = (*PARTS, '')  # '' is the block's own output
_NUMBERED = re.compile(
  r'(Transformer/encoderblock_|MixerBlock_|block)(\d+)(.*)'
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


class Variant(NamedTuple):
  """The reference, or a change of it, with its input.

  Attributes:
    model: a linen module.
    params: its parameters.
    images: [B, H, W, 3] floats.
    around: interceptors of linen (`nn.intercept_methods`), the outermost first.
    seen: changes of the named activations, such as another order of tokens.
  """

  model: Any
  params: Mapping[str, Any]
  images: np.ndarray
  around: tuple[Callable, ...] = ()
  seen: tuple[Callable[[dict], dict], ...] = ()


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
  return run_variant(Variant(model, params, images), dtype=dtype)


def run_variant(
  variant: Variant, *, dtype: str = 'float32'
) -> dict[str, np.ndarray]:
  """Returns what `run` returns, of a variant."""
  with computing(variant, dtype) as (apply, params, images):
    # The model is not jitted as a whole: a comparison runs many variants of it
    # once each, and JAX compiles the operations that they share only once.
    logits, state = apply(params, images, mutable=['intermediates'])
    named = {name: value[0] for name, value in state['intermediates'].items()}
    named[LOGITS] = logits
    for change in variant.seen:
      named = change(named)
    return {
      name: np.asarray(named[name])
      for name in sorted(named, key=position)
      if not name.endswith(_ATTENTION)
    }


@contextlib.contextmanager
def using_float64(enabled: bool = True) -> Generator[None, None, None]:
  """Lets JAX compute in float64 inside the block, or not.

  `jax.enable_x64` does so too, from JAX 0.8 on.
  """
  config: Any = jax.config  # options become attributes at run time
  before = config.jax_enable_x64
  jax.config.update('jax_enable_x64', enabled)
  try:
    yield
  finally:
    jax.config.update('jax_enable_x64', before)


@contextlib.contextmanager
def computing(variant: Variant, dtype: str):
  """Yields a variant ready to be computed in a dtype.

  Yields:
    A function (params, images, **options) -> the result of `model.apply`, the
    parameters, and the images.
  """
  with contextlib.ExitStack() as stack:
    stack.enter_context(using_float64(dtype == 'float64'))
    stack.enter_context(jax.default_matmul_precision('highest'))
    for interceptor in variant.around:
      stack.enter_context(nn.intercept_methods(interceptor))
    model = variant.model.clone(dtype=dtype, param_dtype=dtype)

    def apply(params, images, **options):
      return model.apply({'params': params}, images, train=False, **options)

    params = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), variant.params)
    yield apply, params, np.asarray(variant.images, dtype)


_UNIT = re.compile(r'block(\d+)/unit(\d+)')


def position(name: str) -> tuple[int, int, int]:
  """Returns a key that sorts names of activations in order of computation."""
  if unit := _UNIT.fullmatch(name):  # of EfficientNet, after its stem
    return _ORDER.index('stem'), int(unit[1]), int(unit[2])
  match = _NUMBERED.fullmatch(name)
  pattern = f'{match[1]}{{}}' if match else name
  rank = _ORDER.index(pattern) if pattern in _ORDER else len(_ORDER)
  if match is None:
    return rank, 0, 0
  end = match[3]
  part = BLOCK_ENDS.index(end) if end in BLOCK_ENDS else -1
  return rank, int(match[2]), part


def tolerances(
  outputs: Mapping[str, np.ndarray],
  model: nn.Module,
  params: Mapping[str, Any],
  images: np.ndarray,
  *,
  dtype: str = 'float32',
) -> dict[str, float]:
  """Returns the absolute tolerance of each activation, for a faithful port.

  See `noise_tolerances`.

  Args:
    outputs: result of `run` for the other arguments.
    model, params, images, dtype: see `run`.
  """
  exact = outputs
  if dtype != 'float64':
    exact = run(model, params, images, dtype='float64')
  return noise_tolerances(outputs, exact, dtype)


def noise_tolerances(
  outputs: Mapping[str, np.ndarray], exact: Mapping[str, np.ndarray], dtype: str
) -> dict[str, float]:
  """Returns absolute tolerances of arrays.

  In float32 a tolerance is `NOISE_MARGIN` times the largest difference between
  the reference in float32 and in float64, on the same weights and images. In
  float64 it is a fixed fraction of the largest value.

  Args:
    outputs: {name: array} of the reference.
    exact: the same in float64.
    dtype: dtype of `outputs`, 'float32' or 'float64'.
  """
  if dtype == 'float64':
    return {
      name: _FLOAT64_TOLERANCE * float(np.abs(array).max())
      for name, array in outputs.items()
    }
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
