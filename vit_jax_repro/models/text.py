"""The text Transformer of image-text models: a ViT's encoder over tokens.

Structure and constants: vit_jax/models_lit.py of google-research/
vision_transformer, and big_vision/models/proj/image_text/text_transformer.py.

Shapes: B batch, N tokens, D hidden, K features.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_repro.errors import InputError
from vit_jax_repro.models.layers import GELUS, Dtype, norm_dtype, pick
from vit_jax_repro.models.transformer import Encoder


class TextTransformer(nn.Module):
  """Maps tokens [B, N] to features [B, K] of the last token, in float32.

  The encoder is that of a ViT. Padding is not masked. Without `num_classes`
  there is no head, and K is `hidden_size`.
  """

  num_classes: int | None
  vocab_size: int
  hidden_size: int
  num_layers: int
  mlp_dim: int
  num_heads: int
  gelu: str = 'tanh'
  layer_norm_eps: float = 1e-6  # linen's default
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, tokens: jax.Array, *, train: bool = False) -> jax.Array:
    """Returns features [B, K] of tokens [B, N] of integers."""
    del train  # there is no dropout
    check_fields(self)
    x = nn.Embed(
      self.vocab_size,
      self.hidden_size,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name='Embed_0',
    )(tokens)  # [B, N, D]
    positions = self.param(
      'pos_embedding',
      nn.initializers.normal(stddev=1 / self.hidden_size**0.5),
      (1, *x.shape[1:]),
      self.param_dtype,
    )
    x, _ = Encoder(
      num_layers=self.num_layers,
      block_fields=dict(
        num_heads=self.num_heads,
        mlp_dim=self.mlp_dim,
        gelu=self.gelu,
        layer_norm_eps=self.layer_norm_eps,
        layer_scale_init=None,
        attention='auto',
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
      ),
      stochastic_depth_rate=0.0,
      position_embedding='none',
      position_embedding_at='stem',
      position_grid=(1, x.shape[1]),
      scan=False,
      remat=False,
      remat_policy='nothing',
      final_norm=True,
      keep=False,
      name='Encoder_0',
    )(x + positions.astype(x.dtype), None)
    return embed(self, x[:, -1])


def check_fields(model: nn.Module) -> None:
  """Raises an InputError if a field of a text tower is wrong."""
  pick('gelu', model.gelu, GELUS)
  if model.hidden_size % model.num_heads:
    raise InputError(
      f'hidden_size={model.hidden_size} must be a multiple of '
      f'num_heads={model.num_heads}'
    )


def embed(model: nn.Module, x: jax.Array) -> jax.Array:  # [B, D] -> [B, K]
  """Applies the head of a text tower, if it has one, in its scope."""
  if not model.num_classes:
    return x.astype(norm_dtype(model.dtype))
  return nn.Dense(
    model.num_classes,
    dtype=norm_dtype(model.dtype),
    param_dtype=model.param_dtype,
    name='head',
  )(x)
