"""Image-text models of two towers, as LiT (arXiv:2111.07991) and SigLIP are.

Source: vit_jax/models_lit.py of google-research/vision_transformer.

Shapes: B images, T texts, N tokens, D features of both towers.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax_repro.errors import InputError
from vit_jax_repro.models.layers import Dtype, norm_dtype

NORM_EPS = 1e-8  # vit_jax/models_lit.py; added to the norm
INITIAL_TEMPERATURE = 10.0  # factor of the similarities at the start
INITIAL_BIAS = -10.0  # of the sigmoid loss (SigLIP, arXiv:2303.15343)


class TwoTowers(nn.Module):
  """Maps images and texts to unit vectors [., D] of one space, in float32.

  The similarity of an image and a text is the product of their vectors.

  Fields:
    img: the image tower, a module without classes: its outputs are features.
    txt: the text tower.
    has_bias: whether there is a parameter `b`, the bias of a sigmoid loss.
    param_dtype: dtype of fresh parameters of this module.
  """

  img: nn.Module
  txt: nn.Module
  has_bias: bool = False
  param_dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    images: jax.Array | None = None,
    tokens: jax.Array | None = None,
    *,
    train: bool = False,
  ) -> tuple[jax.Array | None, jax.Array | None, jax.Array]:
    """Returns the vectors of images, those of texts, and the temperature.

    Args:
      images: [B, H, W, 3] in [-1, 1], or None.
      tokens: [T, N] integers, or None.
      train: apply dropout and stochastic depth.

    Returns:
      [B, D], or None without images; [T, D], or None without tokens; [1], the
      factor of the similarities in a softmax over them.

    Raises:
      InputError: there are neither images nor tokens, or a shape is wrong.
    """
    if images is None and tokens is None:
      raise InputError('images and tokens are both None; give one of them')
    if tokens is not None and tokens.ndim != 2:
      raise InputError(f'tokens of shape {tokens.shape} must be [T, N]')
    temperature = self.param(
      't',
      nn.initializers.constant(jnp.log(INITIAL_TEMPERATURE)),
      (1,),
      self.param_dtype,
    )
    if self.has_bias:
      start = nn.initializers.constant(INITIAL_BIAS)
      self.param('b', start, (1,), self.param_dtype)
    zimg = None if images is None else unit(self.img(images, train=train))
    ztxt = None if tokens is None else unit(self.txt(tokens, train=train))
    return zimg, ztxt, jnp.exp(temperature.astype(norm_dtype(jnp.float32)))


def unit(x: jax.Array) -> jax.Array:  # [B, D] -> [B, D]
  """Divides vectors by their lengths, in float32 or wider."""
  x = x.astype(norm_dtype(x.dtype))
  return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + NORM_EPS)
