"""Position embeddings: what kinds there are and where they act.

The default, one learned table that is added to the tokens before the first
block, is ViT's; the others are those that its appendix D.4 compares (Table 8),
and big_vision's fixed one.

Shapes: B batch, N tokens (class token first), D hidden, A heads, d = D / A,
(h, w) grid of patches.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_repro.errors import InputError
from vit_jax_repro.models.choices import Dtype, norm_dtype

KINDS = ('learned', 'sincos2d', 'learned2d', 'relative', 'none')
# Added once, before the first block; to the input of every block, which has
# its own; or likewise, the same one everywhere. `relative` acts in attention:
# in that of the first block, or of all. The paper names places for the added
# kinds alone, and has the one number of `relative` in the column of the stem.
PLACES = ('stem', 'every_layer', 'shared')
SINCOS_TEMPERATURE = 10_000.0  # big_vision/models/vit.py, posemb_sincos_2d


class PositionEmbedding(nn.Module):
  """What tells tokens where they are: see `KINDS`.

  For tokens [B, N, D] it gives

    learned    [1, N, D] to add: `pos_embedding`, a row for each token in
               raster order, those before the patches included;
    learned2d  [1, N, D] to add: `x_embedding` [1, w, D/2] of the column and
               `y_embedding` [1, h, D/2] of the row, one after the other. The
               paper does not say what tokens that are no patches get: here
               zeros, as they are learned vectors themselves;
    sincos2d   [1, N, D] to add, without parameters; zeros likewise;
    relative   [2N-1, A, d], not to add: `relative_embedding`, see
               `relative_scores`.

  Learned values start at normal(0.02) (vit_jax/models_vit.py, for `learned`;
  the paper names no other for the rest).

  Raises:
    InputError: D does not fit the kind.
  """

  kind: str
  grid: tuple[int, int]
  num_heads: int = 1
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x):  # [B, N, D]
    _, num_tokens, hidden_size = x.shape
    if self.kind == 'learned':
      return self._learned('pos_embedding', 1, num_tokens, hidden_size)
    if self.kind == 'relative':
      head = (self.num_heads, hidden_size // self.num_heads)
      return self._learned('relative_embedding', 2 * num_tokens - 1, *head)
    if self.kind == 'learned2d':
      positions = self._by_coordinates(hidden_size)
    else:
      positions = sincos2d(self.grid, hidden_size, norm_dtype(x.dtype))
    extra = num_tokens - positions.shape[1]  # class tokens have no place
    return jnp.pad(positions, ((0, 0), (extra, 0), (0, 0)))

  def _learned(self, name, *shape):
    start = nn.initializers.normal(stddev=0.02)
    return self.param(name, start, shape, self.param_dtype)

  def _by_coordinates(self, hidden_size):  # [1, h*w, D]
    if hidden_size % 2:
      raise InputError(f'{hidden_size=} must be even for learned2d positions')
    height, width = self.grid
    half = hidden_size // 2
    x = self._learned('x_embedding', 1, width, half)
    y = self._learned('y_embedding', 1, height, half)
    both = jnp.concatenate(
      [jnp.tile(x, (1, height, 1)), jnp.repeat(y, width, axis=1)], axis=-1
    )
    return both.reshape(1, math.prod(self.grid), hidden_size)


def relative_scores(
  query: jax.Array, table: jax.Array
) -> jax.Array:  # [B, N, A, d], [2N-1, A, d] -> [B, A, N, N]
  """The second attention of `relative`, added to the scores of the first.

  The query's content meets, in place of a key, the embedding of the offset
  p_q - p_k along the sequence of tokens (ViT paper, D.4: 1-D relative
  attention; that it is the flattened sequence with the class token at 0, and
  that every head has an embedding of its own, is our reading). Row N-1 of the
  table is that of offset 0. `query` is scaled already, as for the keys.
  """
  num_tokens = query.shape[1]
  by_offset = jnp.einsum('bnad,oad->bano', query, table.astype(query.dtype))
  query_at = jnp.arange(num_tokens)[:, None]
  offsets = query_at - jnp.arange(num_tokens)[None] + num_tokens - 1
  return by_offset[..., query_at, offsets]


def check(module: nn.Module) -> None:
  """Checks how the fields of a ViT about positions go together.

  Raises:
    InputError: one line on fields that exclude each other.
  """
  kind, place = module.position_embedding, module.position_embedding_at
  where = f'position_embedding={kind!r} with position_embedding_at={place!r}'
  if kind == 'none' and place != 'stem':
    raise InputError(f"{where} adds nothing anywhere; leave it at 'stem'")
  if kind == 'relative' and place == 'stem' and module.scan:
    raise InputError(
      f'{where} makes the first block unlike the others, so that they cannot '
      "be stacked; set scan=False, or position_embedding_at='every_layer'"
    )
  if module.class_token_after_positions and (
    place != 'stem' or kind not in ('learned', 'sincos2d')
  ):
    raise InputError(
      f'{where} is not for a class_token_after_positions, which is of '
      "'learned' or 'sincos2d' at the 'stem'; set it to False"
    )


def sincos2d(
  grid: tuple[int, int], hidden_size: int, dtype: Dtype = jnp.float32
) -> jax.Array:
  """Fixed 2-D sine-cosine embedding [1, h*w, D]: sin x, cos x, sin y, cos y.

  Source: big_vision/models/vit.py (after MoCo v3).

  Raises:
    InputError: `hidden_size` is not a multiple of 4, or is 4.
  """
  if hidden_size % 4 or hidden_size <= 4:
    raise InputError(
      f'{hidden_size=} must be a multiple of 4 above 4 for sincos2d positions'
    )
  quarter = hidden_size // 4
  rates = SINCOS_TEMPERATURE ** -(
    jnp.arange(quarter, dtype=dtype) / (quarter - 1)
  )
  y, x = jnp.mgrid[: grid[0], : grid[1]].astype(dtype)
  x_angles = x.reshape(-1, 1) * rates.reshape(1, -1)  # [N, D/4]
  y_angles = y.reshape(-1, 1) * rates.reshape(1, -1)
  parts = [
    jnp.sin(x_angles),
    jnp.cos(x_angles),
    jnp.sin(y_angles),
    jnp.cos(y_angles),
  ]
  return jnp.concatenate(parts, axis=-1)[None]
