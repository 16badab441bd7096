"""BERT as the text tower of an image-text model.

Structure and constants: the BERT paper (arXiv:1810.04805), google-research/bert
(modeling.py) and flaxformer, whose names of modules the released files have.

Shapes: B batch, N tokens, D hidden, A heads, d head dim, F mlp, K features.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_repro.errors import InputError
from vit_jax_repro.models import attention, text
from vit_jax_repro.models.layers import GELUS, Dtype, norm_dtype, pick

PADDING = 0  # the token that no other attends to
SIZES = {  # hidden_size, mlp_dim, num_heads, num_layers (paper, section 3)
  'base': (768, 3072, 12, 12),
  'large': (1024, 4096, 16, 24),
}
HEAD_DIM = 64  # of both sizes
_MASKED = -1e10  # added to the scores of padding

Layer = Callable[..., nn.Module]


class Bert(nn.Module):
  """Maps tokens [B, N] to features [B, K] of the first token, in float32.

  Padding is masked, and all tokens belong to the first segment. Without
  `num_classes` there is no head, and K is `hidden_size`.

  Fields:
    max_length: number of learned positions, at least N.
    num_segments: rows of the table of segments, of which the first is used.
    gelu: 'tanh' (flaxformer) or 'erf' (google-research/bert).
  """

  num_classes: int | None
  hidden_size: int
  mlp_dim: int
  num_heads: int
  num_layers: int
  vocab_size: int = 30_522  # the uncased English vocabulary
  max_length: int = 512
  num_segments: int = 2
  gelu: str = 'tanh'
  layer_norm_eps: float = 1e-12  # google-research/bert, modeling.py
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, tokens: jax.Array, *, train: bool = False) -> jax.Array:
    """Returns features [B, K] of tokens [B, N] of integers."""
    del train  # there is no dropout
    text.check_fields(self)
    if tokens.shape[-1] > self.max_length:
      raise InputError(
        f'{tokens.shape[-1]} tokens are more than the model has positions, '
        f'max_length={self.max_length}'
      )
    x = _Encoder(
      tables=(self.vocab_size, self.max_length, self.num_segments),
      hidden_size=self.hidden_size,
      mlp_dim=self.mlp_dim,
      num_heads=self.num_heads,
      num_layers=self.num_layers,
      gelu=self.gelu,
      layers=dict(
        embed=functools.partial(
          nn.Embed, dtype=self.dtype, param_dtype=self.param_dtype
        ),
        dense=functools.partial(
          nn.Dense, dtype=self.dtype, param_dtype=self.param_dtype
        ),
        norm=functools.partial(
          nn.LayerNorm,
          epsilon=self.layer_norm_eps,
          dtype=norm_dtype(self.dtype),
          param_dtype=self.param_dtype,
          name='layer_norm',
        ),
      ),
      name='BertEncoder_0',
    )(tokens)
    return text.embed(self, x[:, 0])


class _Encoder(nn.Module):
  """Applies the embeddings, their norm and the blocks."""

  tables: tuple[int, int, int]
  hidden_size: int
  mlp_dim: int
  num_heads: int
  num_layers: int
  gelu: str
  layers: Any  # {kind: layer with dtypes}

  @nn.compact
  def __call__(self, tokens):  # [B, N] -> [B, N, D]
    layers = dict(self.layers)
    x = _Embedder(
      self.tables, self.hidden_size, layers['embed'], name='embedder'
    )(tokens)
    x = layers['norm']()(x)
    mask = jnp.where(tokens == PADDING, _MASKED, 0)[:, None, None]
    block = functools.partial(
      _Block,
      mlp_dim=self.mlp_dim,
      num_heads=self.num_heads,
      gelu=self.gelu,
      dense=layers['dense'],
      norm=layers['norm'],
    )
    stack = _Stack(block, self.num_layers, name='encoder_block')
    return stack(x, mask)


class _Embedder(nn.Module):
  """Adds the embeddings of tokens, positions and segments."""

  tables: tuple[int, int, int]
  hidden_size: int
  embed: Layer

  @nn.compact
  def __call__(self, tokens):  # [B, N] -> [B, N, D]
    places = jnp.arange(tokens.shape[-1])
    token, position, segment = (
      self.embed(rows, self.hidden_size, name=f'embedders_{name}_ids')
      for rows, name in zip(
        self.tables, ('token', 'position', 'segment'), strict=True
      )
    )
    x = token(tokens)
    return x + position(places)[None] + segment(jnp.zeros_like(places))[None]


class _Stack(nn.Module):
  """Applies the blocks, which the files have in `layer_sequence`."""

  block: Layer
  num_layers: int
  inside: bool = False

  @nn.compact
  def __call__(self, x, mask):  # [B, N, D], [B, 1, 1, N] -> [B, N, D]
    if not self.inside:
      return self.copy(inside=True, name='layer_sequence')(x, mask)
    for i in range(self.num_layers):
      x = self.block(name=f'layers_{i}')(x, mask)
    return x


class _Block(nn.Module):
  """Applies self-attention, then an MLP, each with a residual and a norm."""

  mlp_dim: int
  num_heads: int
  gelu: str
  dense: Layer
  norm: Layer

  @nn.compact
  def __call__(self, x, mask):  # [B, N, D], [B, 1, 1, N] -> [B, N, D]
    x = _AttentionBlock(
      self.num_heads, self.dense, self.norm, name='attention_block'
    )(x, mask)
    return _MlpBlock(
      self.mlp_dim, self.gelu, self.dense, self.norm, name='mlp_block'
    )(x)


class _AttentionBlock(nn.Module):
  num_heads: int
  dense: Layer
  norm: Layer

  @nn.compact
  def __call__(self, x, mask):
    y = _Attention(self.num_heads, self.dense, name='attention_layer')(x, mask)
    return self.norm()(x + self.dense(x.shape[-1], name='dense_layer')(y))


class _Attention(nn.Module):
  num_heads: int
  dense: Layer

  @nn.compact
  def __call__(self, x, mask):  # [B, N, D], [B, 1, 1, N] -> [B, N, D]
    query, key, value = (
      self.dense(x.shape[-1], name=name)(x).reshape(
        *x.shape[:2], self.num_heads, -1
      )
      for name in ('query', 'key', 'value')
    )  # [B, N, A, d]
    out, _ = attention.attend(
      query, key, value, implementation='plain', dtype=query.dtype, bias=mask
    )
    return out.reshape(x.shape)


class _MlpBlock(nn.Module):
  mlp_dim: int
  gelu: str
  dense: Layer
  norm: Layer

  @nn.compact
  def __call__(self, x):  # [B, N, D] -> [B, N, D]
    y = _Hidden(self.mlp_dim, self.gelu, self.dense, name='mlp')(x)
    return self.norm()(x + self.dense(x.shape[-1], name='dense_layer')(y))


class _Hidden(nn.Module):
  mlp_dim: int
  gelu: str
  dense: Layer

  @nn.compact
  def __call__(self, x):  # [B, N, D] -> [B, N, F]
    gelu = pick('gelu', self.gelu, GELUS)
    return gelu(self.dense(self.mlp_dim, name='dense_layer')(x))
