"""The Transformer encoder of ViT: attention and blocks.

Shapes: B batch, N tokens (M keys), D hidden, A heads, d head dim, F mlp,
L layers.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_repro.models import attention
from vit_jax_repro.models.layers import (
  Dtype,
  LayerScale,
  Mlp,
  depth_rates,
  drop_path,
  dropout,
  norm_dtype,
  pick,
  split,
)
from vit_jax_repro.models.positions import PositionEmbedding, relative_scores


class Attention(nn.Module):
  """Applies multi-head attention, with softmax in float32 or wider.

  The parameters are those of linen's MultiHeadDotProductAttention.
  """

  num_heads: int
  implementation: str
  keep_weights: bool = False
  dropout_rate: float = 0.0
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    tokens: jax.Array,
    context: jax.Array,
    key: jax.Array | None = None,
    relative: jax.Array | None = None,
  ) -> tuple[jax.Array, jax.Array | None]:
    """Attends from tokens to a context.

    Args:
      tokens: [B, N, D], for the queries.
      context: [B, M, D], for the keys and values.
      key: key of the dropout.
      relative: [2N-1, A, d], the table of `positions.relative_scores`, for
        self-attention.

    Returns:
      The output [B, N, D], and the attention weights [B, A, N, M] before
      dropout, or None if they are not kept.
    """
    hidden_size = tokens.shape[-1]
    project = functools.partial(
      nn.DenseGeneral,
      features=(self.num_heads, hidden_size // self.num_heads),
      kernel_init=nn.initializers.xavier_uniform(),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
    )
    query = project(name='query')(tokens)  # [B, N, A, d]
    keys = project(name='key')(context)  # [B, M, A, d]
    value = project(name='value')(context)  # [B, M, A, d]
    bias = None
    if relative is not None:
      scale = jnp.sqrt(query.shape[-1]).astype(query.dtype)
      bias = self.by_rows({'relative_embedding': relative}, query / scale)
    out, weights = attention.attend(
      query,
      keys,
      value,
      implementation=self.implementation,
      dtype=self.dtype,
      bias=bias,
      dropout_rate=self.dropout_rate,
      dropout_key=key,
      keep_weights=self.keep_weights,
    )
    out = project(features=hidden_size, axis=(-2, -1), name='out')(out)
    return out, weights

  def by_rows(
    self, params: Mapping[str, jax.Array], query: jax.Array
  ) -> jax.Array:  # [B, N, A, d] -> [B, A, N, N]
    """Returns relative scores; `training.dividing` calls this method."""
    return relative_scores(query, params['relative_embedding'])


# Name of the result of a product with parameters that is divided over devices.
# JAX does not recognise such a result as a product.
DIVIDED_PRODUCT = 'divided product'
# Values that the backward pass of a rematerialised block does not recompute.
REMAT_POLICIES = {
  'nothing': None,
  'dots': jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(DIVIDED_PRODUCT),
  ),
}


class EncoderBlock(nn.Module):
  """Applies pre-norm self-attention, then an MLP, each with a residual.

  These are equations 2 and 3 of the ViT paper. With `layer_scale_init`, a
  learned factor scales each channel of a residual. `position_embedding` is the
  kind that acts in this block, or 'none'. With `own_positions` the block has
  its own embedding, `posembed_layer`. Otherwise it uses the one in its
  arguments. With `keep` it also returns its intermediates.
  """

  num_heads: int
  mlp_dim: int
  gelu: str
  layer_norm_eps: float
  layer_scale_init: float | None
  dropout_rate: float
  attention_dropout_rate: float
  attention: str
  keep: bool
  position_embedding: str
  own_positions: bool
  position_grid: tuple[int, int]
  dtype: Dtype
  param_dtype: Dtype

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    key: jax.Array | None,
    drop_path_rate: float | jax.Array | None,
    positions: jax.Array | None,
  ) -> tuple[jax.Array, dict[str, jax.Array] | None]:
    """Returns the tokens, and in the form of `nn.scan` the intermediates.

    Args:
      x: [B, N, D].
      key: key of the dropout and the stochastic depth.
      drop_path_rate: rate of the stochastic depth.
      positions: position embeddings shared with other blocks.

    Returns:
      [B, N, D], and {end of a name: array}: the same tokens under '', the
      outputs of the parts [B, N, D] under their names, and the attention
      weights [B, A, N, N]. None without `keep`.
    """
    x, relative = self._with_positions(x, positions)
    dtypes = dict(dtype=self.dtype, param_dtype=self.param_dtype)
    norm = functools.partial(
      nn.LayerNorm,
      epsilon=self.layer_norm_eps,
      dtype=norm_dtype(self.dtype),
      param_dtype=self.param_dtype,
    )
    attend_key, attended_key, mlp_key, path1_key, path2_key = split(key, 5)
    named = {}
    y = norm(name='LayerNorm_0')(x)
    named['/LayerNorm_0'] = y
    y, named['/attention_weights'] = Attention(
      num_heads=self.num_heads,
      implementation=self.attention,
      keep_weights=self.keep,
      dropout_rate=self.attention_dropout_rate,
      **dtypes,
      name='MultiHeadDotProductAttention_0',
    )(y, y, attend_key, relative)
    named['/MultiHeadDotProductAttention_0'] = y
    y = self._scaled(y, 'LayerScale_0', named)
    y = dropout(y, self.dropout_rate, attended_key)
    x = x + drop_path(y, drop_path_rate, path1_key)
    y = norm(name='LayerNorm_1')(x)
    named['/LayerNorm_1'] = y
    y = Mlp(
      mlp_dim=self.mlp_dim,
      gelu=self.gelu,
      dropout_rate=self.dropout_rate,
      kernel_init=nn.initializers.xavier_uniform(),
      bias_init=nn.initializers.normal(stddev=1e-6),
      **dtypes,
      name='MlpBlock_0',
    )(y, mlp_key)
    named['/MlpBlock_0'] = y
    y = self._scaled(y, 'LayerScale_1', named)
    x = x + drop_path(y, drop_path_rate, path2_key)
    named[''] = x
    return x, named if self.keep else None

  def _scaled(self, y, name, named):
    if self.layer_scale_init is None:
      return y
    y = LayerScale(
      self.layer_scale_init,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name=name,
    )(y)
    named[f'/{name}'] = y
    return y

  def _with_positions(self, x, positions):
    """Adds position embeddings; returns tokens and the table of `relative`."""
    if self.own_positions:
      positions = PositionEmbedding(
        kind=self.position_embedding,
        grid=self.position_grid,
        num_heads=self.num_heads,
        param_dtype=self.param_dtype,
        name='posembed_layer',
      )(x)
    if self.position_embedding == 'relative':
      return x, positions
    return x if positions is None else x + positions.astype(x.dtype), None


class Encoder(nn.Module):
  """Applies position embeddings, dropout, L blocks and a final LayerNorm.

  Registers are inserted after the position embeddings of the stem. Without
  `final_norm` the last LayerNorm is left out.

  With `scan` the blocks' parameters are stacked on axis 0 under `encoderblock`.
  Values, random masks and intermediates stay the same.

  The parameters of position embeddings are called `posembed_input` at the stem,
  `posembed_shared` if all blocks share them, and `posembed_layer` in
  `encoderblock_0`, ... if each block has its own. See `positions.PLACES`.
  """

  num_layers: int
  block_fields: dict[str, Any]
  stochastic_depth_rate: float
  position_embedding: str
  position_embedding_at: str
  position_grid: tuple[int, int]
  scan: bool
  remat: bool
  remat_policy: str
  final_norm: bool
  keep: bool

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    key: jax.Array | None,
    registers: tuple[jax.Array, int] | None = None,
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the tokens after the last block and its norm.

    Args:
      x: [B, N, D].
      key: key of the dropout and the stochastic depth.
      registers: [1, R, D], and the number of tokens before them.

    Returns:
      [B, R + N, D], and {name of an intermediate: array}.
    """
    fields = dict(self.block_fields)
    named = {}
    kind, place = self.position_embedding, self.position_embedding_at
    shared = None
    if place == 'shared':
      shared = self._positions('posembed_shared', x)
    elif place == 'stem' and kind not in ('none', 'relative'):
      x = x + self._positions('posembed_input', x).astype(x.dtype)
    if registers is not None:
      x = _inserted(x, *registers)
    if place == 'stem' and kind not in ('none', 'relative'):
      named['posembed_input'] = x
    input_key, *block_keys = split(key, 1 + self.num_layers)
    x = dropout(x, fields['dropout_rate'], input_key)
    x, kept = self._blocks(x, block_keys, fields, shared)
    for i, values in enumerate(kept):
      named |= {f'encoderblock_{i}{end}': v for end, v in values.items()}
    if self.final_norm:
      x = nn.LayerNorm(
        epsilon=fields['layer_norm_eps'],
        dtype=norm_dtype(fields['dtype']),
        param_dtype=fields['param_dtype'],
        name='encoder_norm',
      )(x)
      named['encoder_norm'] = x
    return x, {f'{self.name}/{name}': value for name, value in named.items()}

  def _positions(self, name, x):
    return PositionEmbedding(
      kind=self.position_embedding,
      grid=self.position_grid,
      num_heads=self.block_fields['num_heads'],
      param_dtype=self.block_fields['param_dtype'],
      name=name,
    )(x)

  def _block_positions(self, i) -> dict[str, Any]:
    """Returns the fields of block i that concern positions."""
    kind, place = self.position_embedding, self.position_embedding_at
    if place == 'stem' and (kind != 'relative' or i):
      kind = 'none'
    return dict(
      position_embedding=kind,
      own_positions=kind != 'none' and place != 'shared',
      position_grid=self.position_grid,
    )

  def _blocks(self, x, keys, fields, shared):
    rates = depth_rates(self.stochastic_depth_rate, self.num_layers)
    if not self.stochastic_depth_rate:
      rates = [None] * self.num_layers
    block = EncoderBlock
    policy = pick('remat_policy', self.remat_policy, REMAT_POLICIES)
    if self.remat:
      # The loop of a scan already prevents XLA from merging both passes.
      block = nn.remat(block, prevent_cse=not self.scan, policy=policy)
    fields: dict[str, Any] = dict(fields, keep=self.keep)
    if not self.scan:
      kept = []
      for i, (key, rate) in enumerate(zip(keys, rates, strict=True)):
        x, keep = block(
          **fields, **self._block_positions(i), name=f'encoderblock_{i}'
        )(x, key, rate, shared)
        kept.append(keep)
      return x, kept if self.keep else []
    stacked = nn.scan(
      block,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(0, 0, nn.broadcast),
      length=self.num_layers,
    )(**fields, **self._block_positions(0), name='encoderblock')
    keys = None if keys[0] is None else jnp.stack(keys)
    rates = None if rates[0] is None else jnp.asarray(rates)
    x, kept = stacked(x, keys, rates, shared)
    if kept is None:
      return x, []
    return x, [  # from arrays [L, ...]
      {end: values[i] for end, values in kept.items()}
      for i in range(self.num_layers)
    ]


def _inserted(x, tokens, place):  # [B, N, D], [1, R, D] -> [B, N + R, D]
  """Inserts the same tokens before token number `place` of every image."""
  shape = (x.shape[0], *tokens.shape[1:])
  tokens = jnp.broadcast_to(tokens, shape).astype(x.dtype)
  return jnp.concatenate([x[:, :place], tokens, x[:, place:]], axis=1)
