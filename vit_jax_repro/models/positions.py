"""Position embeddings: their kinds, and the places where they act.

The default is ViT's: a learned table, added to the tokens before the first
block. The others are the alternatives of its appendix D.4 (Table 8), and
big_vision's fixed embedding.

Shapes: B batch, N tokens (class token first), D hidden, A heads, d = D / A,
(h, w) grid of patches.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_repro.errors import InputError
from vit_jax_repro.models.layers import Dtype, norm_dtype, pick

KINDS = ('learned', 'sincos2d', 'learned2d', 'relative', 'none')
# `stem`: added once, before the first block. `every_layer`: added to the input
# of every block, each with its own. `shared`: the same one is added to the
# input of every block. `relative` acts in attention instead, in the first block
# or in all blocks. The paper defines places only for the added kinds, and lists
# its single number for `relative` in the column of the stem.
PLACES = ('stem', 'every_layer', 'shared')
# How `weights.adapt` resizes learned embeddings to another grid of patches.
RESIZINGS = {
  # vit_jax/checkpoint.py; scipy.ndimage.zoom
  'linear': 'bilinear, corners aligned',
  # timm's reader of .npz files (models/vision_transformer.py, _load_weights)
  'bilinear': 'bilinear, half-pixel centres',
  'bilinear_antialias': 'bilinear, antialiased',
  # transformers' ViT, DeiT and Dinov2; DeiT's main.py
  'bicubic': 'bicubic, half-pixel centres',
  # timm (layers/pos_embed.py); Dinov2WithRegisters of transformers
  'bicubic_antialias': 'bicubic, antialiased',
  # dinov2/models/vision_transformer.py, interpolate_offset=0.1
  'bicubic_offset': 'bicubic, scaled for 0.1 patches more',
}
SINCOS_TEMPERATURE = 10_000.0  # big_vision/models/vit.py, posemb_sincos_2d


class PositionEmbedding(nn.Module):
  """Returns the position embeddings of one of `KINDS` for tokens [B, N, D].

    learned    [1, N, D] to add: the parameter `pos_embedding`, with a row for
               each token in raster order, including the tokens before the
               patches.
    learned2d  [1, N, D] to add: `x_embedding` [1, w, D/2] of the column,
               concatenated with `y_embedding` [1, h, D/2] of the row. The paper
               does not define them for tokens that are not patches. These get
               zeros here, because they are learned vectors themselves.
    sincos2d   [1, N, D] to add, without parameters; also zeros for tokens that
               are not patches.
    relative   [2N-1, A, d], not to add: the parameter `relative_embedding`, see
               `relative_scores`.

  Learned values are initialised from a normal distribution of standard
  deviation 0.02 (vit_jax/models_vit.py for `learned`; the paper gives no other
  initialisation for the rest).

  Raises:
    InputError: D does not fit the kind.
  """

  kind: str
  grid: tuple[int, int]
  num_heads: int = 1
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:  # [B, N, D]
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
    extra = num_tokens - positions.shape[1]  # tokens that are not patches
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


def relative_scores(query: jax.Array, table: jax.Array) -> jax.Array:
  """Returns the scores that `relative` adds to the ones of query and key.

  Each score is the product of a query with the embedding of the offset
  p_q - p_k along the sequence of tokens (ViT paper, D.4: 1-D relative
  attention). The paper leaves two choices open: here the sequence is the
  flattened one with the class token at 0, and every head has its own
  embeddings.

  Args:
    query: [B, N, A, d], already divided by sqrt(d).
    table: [2N-1, A, d], an embedding for each offset; row N-1 is offset 0.

  Returns:
    [B, A, N, N].
  """
  num_tokens = query.shape[1]
  by_offset = jnp.einsum('bnad,oad->bano', query, table.astype(query.dtype))
  query_at = jnp.arange(num_tokens)[:, None]
  offsets = query_at - jnp.arange(num_tokens)[None] + num_tokens - 1
  return by_offset[..., query_at, offsets]


def check(module: nn.Module) -> None:
  """Checks a ViT's fields on positions.

  Raises:
    InputError: a rule of resizing is unknown, or two fields exclude each other.
  """
  pick('position_resizing', module.position_resizing, RESIZINGS)
  kind, place = module.position_embedding, module.position_embedding_at
  where = f'position_embedding={kind!r} with position_embedding_at={place!r}'
  if kind == 'none' and place != 'stem':
    raise InputError(
      f'{where} adds no embedding in any layer; use '
      "position_embedding_at='stem'"
    )
  if kind == 'relative' and place == 'stem' and module.scan:
    raise InputError(
      f'{where} makes the first block unlike the others, so that they cannot '
      "be stacked; set scan=False, or position_embedding_at='every_layer'"
    )
  if module.num_registers and (place != 'stem' or kind == 'relative'):
    raise InputError(
      f'{where} has no rule for registers; set num_registers=0, or add '
      "positions once, at the 'stem'"
    )
  if module.class_token_after_positions and (
    place != 'stem' or kind not in ('learned', 'sincos2d')
  ):
    raise InputError(
      f'{where} excludes class_token_after_positions, which needs '
      "'learned' or 'sincos2d' at the 'stem'; set it to False"
    )


def sincos2d(
  grid: tuple[int, int], hidden_size: int, dtype: Dtype = jnp.float32
) -> jax.Array:
  """Returns the fixed embedding [1, h*w, D]: sin x, cos x, sin y, cos y.

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
