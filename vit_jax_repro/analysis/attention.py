"""Attention of a ViT: weights, rollout, distance (ViT paper, section 4.5).

Shapes: B images, L layers, A heads, N tokens, (h, w) grid of patches. The
tokens are P class and distillation tokens and registers, then the patches in
raster order.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_repro import models
from vit_jax_repro.errors import InputError
from vit_jax_repro.models.layers import INTERMEDIATES
from vit_jax_repro.models.patches import patch_stride

# Functions that combine the heads of a layer into one matrix. The ViT paper
# averages them (D.8), as do Abnar and Zuidema (arXiv:2005.00928).
COMBINED = {'mean': np.mean, 'max': np.max, 'min': np.min}


@dataclasses.dataclass(frozen=True)
class AttentionMaps:
  """The attention of a model for one image."""

  weights: np.ndarray  # [L, A, N (queries), N (keys)] float32; rows sum to 1
  grid: tuple[int, int]
  patch: tuple[int, int]  # pixels between adjacent patches: down, right
  num_registers: int = 0  # of the tokens before the patches

  @property
  def num_prefix(self) -> int:
    """Returns P, the number of tokens before the patches."""
    return self.weights.shape[-1] - math.prod(self.grid)

  def seen_from(
    self, matrix: np.ndarray, token: str | tuple[int, int]
  ) -> np.ndarray:
    """Returns the attention of one query token to each patch.

    Args:
      matrix: attention [..., N (queries), N (keys)].
      token: 'class' for the class token, 'mean' for the average over all
        patches, or the (row, column) of a patch.

    Returns:
      Attention [..., h, w]. It sums to less than 1, because attention to class
      and distillation tokens and to registers is left out.

    Raises:
      InputError: the model has no such token.
    """
    rows = matrix[..., self.num_prefix :]
    if token == 'mean':
      row = rows[..., self.num_prefix :, :].mean(axis=-2)
    else:
      row = rows[..., self._number(token), :]
    return row.reshape(*row.shape[:-1], *self.grid)

  def _number(self, token):
    if token == 'class':
      if self.num_prefix == self.num_registers:
        raise InputError(
          "the model has no class token; choose 'mean', the average over all "
          'patches, or the row and column of a patch'
        )
      return 0
    row, column = token
    height, width = self.grid
    if not (0 <= row < height and 0 <= column < width):
      raise InputError(
        f'there is no patch {row},{column}: rows are 0 to {height - 1} and '
        f'columns 0 to {width - 1}'
      )
    return self.num_prefix + row * width + column


def require_vit(model: nn.Module) -> None:
  """Raises an InputError if the model is not a ViT, which has attention."""
  if not isinstance(model, models.ViT):
    raise InputError(
      f'{type(model).__name__} has no attention and no position embeddings; '
      'of the figures of a model it has `filters`'
    )


def attention_maps(
  model: models.ViT, params: Mapping[str, Any], image: np.ndarray
) -> AttentionMaps:
  """Returns the attention of a ViT or hybrid for an image [H, W, 3].

  Raises:
    InputError: the model is not a ViT, or its attention is not finite.
  """
  require_vit(model)
  # ty does not know that linen modules are hashable.
  apply = _compiled(model)  # ty: ignore[invalid-argument-type]
  weights, cells = apply(params, image[None])
  weights = np.asarray(weights[0], np.float32)
  if not np.isfinite(weights).all():
    raise InputError(
      'the attention of the model is not finite: its weights hold NaN or '
      'infinity, or are too large'
    )
  return AttentionMaps(
    weights, cells.shape[1:3], patch_stride(model), model.num_registers
  )


def grid_of(
  model: models.ViT, params: Mapping[str, Any], image_size: tuple[int, int]
) -> tuple[int, int]:
  """Returns the grid (h, w) of a ViT's or hybrid's patches, from shapes."""
  image = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
  _, cells = jax.eval_shape(functools.partial(_apply, model), params, image)
  return cells.shape[1:3]


def rollout(
  weights: np.ndarray, *, combined: str = 'mean', residual: bool = True
) -> np.ndarray:  # [L, A, N, N] -> [N, N]
  """Returns the part of each input token in each output token.

  The result is the product of one matrix per layer, the last layer's on the
  left. A layer's matrix combines its heads. The identity represents the
  residual connection. Rows of each matrix and of the result sum to 1. The ViT
  paper (D.8) names the average over heads and the product. The identity is
  from Abnar and Zuidema, whom the paper follows: 0.5 A + 0.5 I.

  Args:
    weights: attention weights, as in `AttentionMaps`.
    combined: a key of `COMBINED`.
    residual: whether the identity is added.

  Raises:
    InputError: `combined` is unknown.
  """
  if combined not in COMBINED:
    raise InputError(f'unknown {combined=}; choose from {", ".join(COMBINED)}')
  result = identity = np.eye(weights.shape[-1])
  for heads in weights:
    layer = COMBINED[combined](heads.astype(np.float64), axis=0)
    total = layer.sum(axis=-1, keepdims=True)
    # The smallest head can be 0 in a whole row, if no two heads overlap there.
    some = total > 0
    matrix = np.where(some, layer / np.where(some, total, 1), identity)
    if residual:
      matrix = (matrix + identity) / 2
    result = matrix @ result
  return result


def patch_distances(
  grid: tuple[int, int], patch: tuple[int, int]
) -> np.ndarray:
  """Returns the distances [h*w, h*w] in pixels between centres of patches.

  Args:
    grid: numbers of rows and columns of patches.
    patch: pixels between adjacent patches, as in `AttentionMaps`.
  """
  row, column = np.divmod(np.arange(math.prod(grid)), grid[1])
  y, x = patch[0] * row, patch[1] * column
  return np.hypot(y[:, None] - y, x[:, None] - x)


def mean_distance(attention: AttentionMaps) -> np.ndarray:
  """Returns the mean attention distance [L, A] in pixels of the input image.

  For each patch this is the mean of its distances to all patches (0 to
  itself), weighted by attention; the result averages over the patches (ViT
  paper, D.7 and Figure 11). Class and distillation tokens and registers have no
  position in the image, and the paper does not mention them. They are left out
  here, as queries and as keys, and the rest of a row is scaled to the sum 1.
  """
  first = attention.num_prefix
  weights = attention.weights[..., first:, first:].astype(np.float64)
  total = weights.sum(axis=-1)  # [L, A, h*w]
  distances = patch_distances(attention.grid, attention.patch)
  reach = np.einsum('laqk,qk->laq', weights, distances)
  # A query may attend only to the class token.
  reach = np.divide(reach, total, out=np.zeros_like(reach), where=total > 0)
  return reach.mean(axis=-1)


@functools.lru_cache(maxsize=2)
def _compiled(model):
  return jax.jit(functools.partial(_apply, model))


def _apply(model, params, images):
  """Returns weights [B, L, A, N, N] and patches [B, h, w, D] of images."""
  _, variables = model.apply(
    {'params': params},
    images,
    train=False,
    mutable=[INTERMEDIATES],
  )
  named = variables[INTERMEDIATES]
  layers = [
    named[f'Transformer/encoderblock_{i}/attention_weights'][0]
    for i in range(model.num_layers)
  ]
  return jnp.stack(layers, axis=1), named['embedding'][0]
