"""The Vision Transformer: one module for ViT, hybrid, big_vision and DeiT.

Structure and constants: vit_jax/models_vit.py of google-research/
vision_transformer and the ViT paper (arXiv:2010.11929, section 3.1). Every
difference between lineages or ports is a field, and the defaults are those of
the original code.

Shapes: B batch, H W pixels, h w patches, N tokens, D hidden, K classes.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_repro.errors import InputError
from vit_jax_repro.models import pooling, positions, resnet
from vit_jax_repro.models.checks import (
  check_input,
  check_patches,
  check_width,
)
from vit_jax_repro.models.convolving import convolve
from vit_jax_repro.models.layers import (
  Dtype,
  classify,
  intermediates_requested,
  norm_dtype,
  record_intermediates,
)
from vit_jax_repro.models.map_head import MapHead
from vit_jax_repro.models.transformer import Encoder


class ViT(nn.Module):
  """Maps images [B, H, W, 3] in [-1, 1] to logits [B, K] float32.

  With the classifiers `unpooled` and `token_unpooled` the result is logits
  [B, N, K] of every token. A `distilled` model returns the mean of the logits
  of its two heads, or the pair of logits if `train` is set. Without
  `num_classes` there is no head.

  Fields:
    patch_size: (height, width) in pixels, or in cells of the stem's output.
    representation_size: width of the tanh layer before the head (pre_logits).
    classifier: a key of `pooling.CLASSIFIERS`.
    class_token: whether there is a class token. By default the classifier
      decides; True gives 'gap' one that its mean leaves out (timm).
    position_embedding: one of `positions.KINDS`.
    position_embedding_at: 'stem' for once, before the first block;
      'every_layer' for one embedding per layer; 'shared' for the same embedding
      in every layer (ViT paper, D.4).
    position_resizing: a key of `positions.RESIZINGS`: how `weights.adapt`
      resizes learned positions to another grid of patches.
    class_token_after_positions: add positions only to the patches, and then
      prepend the class token (big_vision). By default the token comes first.
    corruptible: accept corrupted patches (masked patch prediction, ViT paper,
      B.1.2); the parameter `mask` replaces some of them.
    distilled: add a second token and a second head for distillation (DeiT,
      arXiv:2012.12877).
    distillation_head: False leaves out the second head, not its token
      (DeiTForImageClassification of transformers).
    num_registers: learned tokens between those two tokens and the patches,
      without positions (arXiv:2309.16588).
    layer_scale_init: initial value of a learned factor for each channel of the
      output of attention and MLP (LayerScale, arXiv:2103.17239); None for no
      factors.
    fc_norm: normalise the pooled vector instead of the last block's tokens.
    stem_num_layers: units per stage of the hybrid's ResNet stem; None for no
      stem.
    gelu: 'tanh' (original) or 'erf' (PyTorch ports).
    head_bias_init: initial value of the head's bias.
    stochastic_depth_rate: drop rate of the last block. The rate grows linearly
      from 0 in the first block.
    scan: stack the blocks' parameters and loop over the blocks, which compiles
      faster.
    remat: recompute each block in the backward pass, which takes less memory.
    remat_policy: values of a block that are kept and not recomputed: 'nothing',
      or 'dots' for the products with parameters, which takes more memory and
      less time.
    attention: a key of `attention.IMPLEMENTATIONS`. It selects a kernel and
      does not change what is computed.
    dtype: dtype of the computation. Norms, softmax and logits stay float32 or
      wider.
    param_dtype: dtype of fresh parameters.

  Intermediates: `conv_root`, `gn_root`, `block1`... (hybrids), `embedding`,
  `Transformer/posembed_input`, `Transformer/encoderblock_0` and inside it
  `/LayerNorm_0`, `/attention_weights`, `/MultiHeadDotProductAttention_0`,
  `/LayerNorm_1`, `/MlpBlock_0`..., `Transformer/encoder_norm`, `pre_logits`
  (before the tanh), `pre_logits_tanh`. Blocks with factors also have
  `/LayerScale_0` and `/LayerScale_1`, the scaled outputs of attention and MLP.
  `fc_norm` replaces `Transformer/encoder_norm` in a model that has it.

  big_vision has other names for them: `stem` is `embedding`, `with_posemb` is
  `Transformer/posembed_input`, `encoded` is `Transformer/encoder_norm`, and
  `pre_logits` is `pre_logits_tanh`, the value after its tanh. `head_input` is
  the input of the pre_logits layer. Without such a layer that is our
  `pre_logits`; otherwise it is the pooled `Transformer/encoder_norm`, which has
  no name here.

  Raises:
    InputError: the value of a field is unknown or does not fit the image.
  """

  num_classes: int | None
  patch_size: tuple[int, int]
  hidden_size: int
  num_layers: int
  mlp_dim: int
  num_heads: int
  representation_size: int | None = None
  classifier: str = 'token'
  position_embedding: str = 'learned'
  position_embedding_at: str = 'stem'
  position_resizing: str = 'linear'
  class_token_after_positions: bool = False
  corruptible: bool = False
  distilled: bool = False
  distillation_head: bool = True
  class_token: bool | None = None
  num_registers: int = 0
  layer_scale_init: float | None = None
  fc_norm: bool = False
  stem_num_layers: tuple[int, ...] | None = None
  stem_width_factor: float = 1
  gelu: str = 'tanh'
  layer_norm_eps: float = 1e-6  # linen's default, which the original uses
  group_norm_eps: float = 1e-6  # linen's default, too
  weight_standardization: str = 'std_plus_eps'
  weight_standardization_eps: float = 1e-5  # vit_jax/models_resnet.py
  pool_padding: str = 'same'
  dropout_rate: float = 0.0
  attention_dropout_rate: float = 0.0
  stochastic_depth_rate: float = 0.0
  head_bias_init: float = 0.0
  scan: bool = False
  remat: bool = False
  remat_policy: str = 'nothing'
  attention: str = 'auto'
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    images: jax.Array,
    *,
    train: bool = False,
    sources: jax.Array | None = None,
  ) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Returns logits of images.

    Args:
      images: [B, H, W, 3].
      train: apply dropout and stochastic depth.
      sources: [B, N] integers, only for a `corruptible` model: for each patch
        the index of the patch of the same image that replaces it, its own index
        to keep it, or -1 for the [mask] embedding.
    """
    self._check(images, sources)
    named: dict[str, jax.Array] = {}
    x = images.astype(self.dtype)
    if self.stem_num_layers is not None:
      x, named = self._stem(x)
    x = self._embed(x)  # [B, h, w, D]
    named['embedding'] = x
    grid = x.shape[1:3]
    x = x.reshape(x.shape[0], -1, self.hidden_size)  # [B, N, D]
    if self.corruptible:
      x = self._corrupt(x, sources)
    x, positions_added = self._prepend_tokens(x, grid, named)
    x, encoded = Encoder(
      num_layers=self.num_layers,
      block_fields=self._block_fields(),
      stochastic_depth_rate=self.stochastic_depth_rate,
      position_embedding='none' if positions_added else self.position_embedding,
      position_embedding_at=self.position_embedding_at,
      position_grid=grid,
      scan=self.scan,
      remat=self.remat,
      remat_policy=self.remat_policy,
      final_norm=not self.fc_norm,
      keep=intermediates_requested(self),
      name='Transformer',
    )(x, self._dropout_key(train), self._registers())
    named.update(encoded)
    logits = self._head(x, named, train)
    record_intermediates(self, named)
    return logits

  def _check(self, images, sources):
    check_input(self, images)
    pooling.check(self)
    positions.check(self)
    if sources is not None and not self.corruptible:
      raise InputError(
        'corruptible=False, so that patches cannot be replaced by sources; '
        'create the model with corruptible=True'
      )
    if self.stem_num_layers is None:
      check_patches(images, self.patch_size)
    else:
      check_width(
        f'stem_width_factor={self.stem_width_factor}',
        int(resnet.ROOT_CHANNELS * self.stem_width_factor),
        resnet.GROUPS,
      )
    if self.hidden_size % self.num_heads:
      raise InputError(
        f'hidden_size={self.hidden_size} must be a multiple of '
        f'num_heads={self.num_heads}'
      )

  def _stem(self, x):
    assert self.stem_num_layers is not None  # checked by the caller
    return resnet.apply_stem(
      x,
      num_layers=self.stem_num_layers,
      width_factor=self.stem_width_factor,
      group_norm_eps=self.group_norm_eps,
      weight_standardization=self.weight_standardization,
      weight_standardization_eps=self.weight_standardization_eps,
      pool_padding=self.pool_padding,
      remat=self.remat,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
    )

  def _embed(self, x):  # [B, H, W, C] -> [B, h, w, D]
    check_patches(x, self.patch_size)
    return nn.Conv(
      self.hidden_size,
      self.patch_size,
      strides=self.patch_size,
      padding='VALID',
      conv_general_dilated=convolve,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name='embedding',
    )(x)

  def _corrupt(self, x, sources):  # [B, N, D], [B, N] -> [B, N, D]
    mask = self.param(
      'mask',
      nn.initializers.zeros,  # as for `cls`; the paper does not specify it
      (1, 1, self.hidden_size),
      self.param_dtype,
    )
    if sources is None:
      return x
    sources = sources[..., None]
    taken = jnp.take_along_axis(x, jnp.maximum(sources, 0), axis=1)
    mask = jnp.broadcast_to(mask, x.shape).astype(x.dtype)
    return jnp.where(sources < 0, mask, taken)

  def _prepend_tokens(self, x, grid, named):
    """Prepends tokens; returns [B, N, D] and whether positions were added.

    The tokens are the class token and the distillation token.
    """
    has_token = pooling.has_class_token(self)
    positions_first = has_token and self.class_token_after_positions
    if positions_first:
      embed = positions.PositionEmbedding(
        kind=self.position_embedding, grid=grid, param_dtype=self.param_dtype
      )
      nn.share_scope(self, embed)  # `pos_embedding` at top level, as big_vision
      x = x + embed(x).astype(x.dtype)
      named['Transformer/posembed_input'] = x
    tokens = []
    if has_token:
      tokens.append(self._token('cls'))
    if self.distilled:
      tokens.append(self._token('dist'))
    tokens = [
      jnp.broadcast_to(t, (x.shape[0], 1, self.hidden_size)).astype(x.dtype)
      for t in tokens
    ]
    return jnp.concatenate([*tokens, x], axis=1), positions_first

  def _token(self, name, number=1):  # [1, number, D]
    shape = (1, number, self.hidden_size)
    return self.param(name, nn.initializers.zeros, shape, self.param_dtype)

  def _registers(self):
    """Returns the registers and their place among the tokens; None for none."""
    if not self.num_registers:
      return None
    place = pooling.num_prefix(self) - self.num_registers
    return self._token('registers', self.num_registers), place

  def _block_fields(self) -> dict[str, Any]:
    return dict(
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim,
      gelu=self.gelu,
      layer_norm_eps=self.layer_norm_eps,
      layer_scale_init=self.layer_scale_init,
      attention=self.attention,
      dropout_rate=self.dropout_rate,
      attention_dropout_rate=self.attention_dropout_rate,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
    )

  def _dropout_key(self, train):
    rates = (
      self.dropout_rate,
      self.attention_dropout_rate,
      self.stochastic_depth_rate,
    )
    return self.make_rng('dropout') if train and any(rates) else None

  def _head(self, x, named, train):  # [B, N, D] -> logits
    if self.distilled and self.distillation_head:
      return self._distilled_logits(x, named, train)
    x = pooling.pool(self, x)
    if self.classifier == 'map':
      x = MapHead(
        num_heads=self.num_heads,
        mlp_dim=self.mlp_dim,
        gelu=self.gelu,
        layer_norm_eps=self.layer_norm_eps,
        attention=self.attention,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name='MAPHead_0',
      )(x)
    if self.fc_norm:
      x = nn.LayerNorm(
        epsilon=self.layer_norm_eps,
        dtype=norm_dtype(self.dtype),
        param_dtype=self.param_dtype,
        name='fc_norm',
      )(x)
      named['fc_norm'] = x
    if self.representation_size is not None:
      x = nn.Dense(
        self.representation_size,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name='pre_logits',
      )(x)
      named['pre_logits'] = x
      x = jnp.tanh(x)
      named['pre_logits_tanh'] = x
    else:
      named['pre_logits'] = x
    return classify(self, x)

  def _distilled_logits(self, x, named, train):
    named['pre_logits'] = x[:, :2]
    if not self.num_classes:
      return x[:, :2]
    logits = classify(self, x[:, 0])
    distilled = classify(self, x[:, 1], 'head_dist')
    return (logits, distilled) if train else (logits + distilled) / 2
