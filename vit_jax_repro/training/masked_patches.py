"""Masked patch prediction: self-supervised pre-training of a ViT.

ViT paper, 4.6 and B.1.2: half of the patch embeddings are corrupted, most of
them replaced by a learned [mask] embedding, and the model tells the mean
colour of each corrupted patch, in 3 bits a channel. The model is a ViT with
`corruptible`, logits for every token (classifier 'token_unpooled' or
'unpooled') and `NUM_COLOURS`; its head is the one layer that predicts.

Fine-tuning from such weights is fine-tuning from any: `weights.adapt` drops
the [mask] embedding and starts a new head.

Shapes: B batch, N patches in raster order, H W pixels.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from vit_jax_repro.errors import InputError
from vit_jax_repro.training.objectives import Objective

# B.1.2: of the patches, and of those that are corrupted; the rest is kept.
CORRUPTED = 0.5
MASKED, OTHER = 0.8, 0.1
BITS = 3  # of a channel's mean colour
NUM_COLOURS = (2**BITS) ** 3
_LARGEST = 255.0  # level of a pixel

# What a key of an update is drawn for.
_CORRUPTION, _DROPOUT = 0, 1


def targets(
  images: jax.Array,
  patch_size: tuple[int, int],
  *,
  mean: Any = 127.5,
  std: Any = 127.5,
) -> jax.Array:
  """The class of every patch's mean colour.

  Each channel's mean lies in one of eight equal parts of 0..255; the class is
  red * 64 + green * 8 + blue. The paper says '3-bit, mean color' alone.

  Args:
    images: [B, H, W, 3] floats, (level - mean) / std.
    patch_size: (height, width) in pixels; what is left over at the right and
      at the bottom belongs to no patch, as in the model.
    mean, std: one number or three, in levels (0 to 255).

  Returns:
    [B, N] int32 in 0..511.
  """
  height, width = patch_size
  rows, columns = images.shape[1] // height, images.shape[2] // width
  images = images[:, : rows * height, : columns * width]
  patches = images.reshape(-1, rows, height, columns, width, 3)
  colours = patches.mean(axis=(2, 4)).reshape(-1, rows * columns, 3)
  mean, std = (
    jnp.broadcast_to(jnp.asarray(x, colours.dtype), (1, 1, 3))
    for x in (mean, std)
  )
  parts = (colours * std + mean) * (2**BITS / _LARGEST)
  parts = jnp.clip(parts.astype(jnp.int32), 0, 2**BITS - 1)  # [B, N, 3]
  red, green, blue = jnp.moveaxis(parts, -1, 0)
  return (red << 2 * BITS) + (green << BITS) + blue


def corruption(key: jax.Array, num_patches: int) -> tuple[jax.Array, jax.Array]:
  """Draws what happens to the patches of one image.

  Just half of them (rounded) are corrupted, which ones is uniform; what
  happens to each is drawn on its own. The other patch is of the same image.

  Args:
    key: a typed key.
    num_patches: N, at least 2.

  Returns:
    sources [N] int32: the patch whose embedding stands in each place, its own
    number where nothing is changed, -1 for [mask] (`ViT.__call__`);
    corrupted [N] bool, those to be predicted, the kept ones among them.

  Raises:
    InputError: fewer than two patches.
  """
  if num_patches < 2:
    raise InputError(
      f'{num_patches=} must be at least 2 for one to stand for another; use '
      'larger images or smaller patches'
    )
  which_key, what_key, other_key = jax.random.split(key, 3)
  number = jnp.arange(num_patches)
  order = jax.random.permutation(which_key, num_patches)
  corrupted = order < round(CORRUPTED * num_patches)
  what = jax.random.uniform(what_key, (num_patches,))
  shift = jax.random.randint(other_key, (num_patches,), 1, num_patches)
  other = (number + shift) % num_patches
  sources = jnp.where(what < MASKED + OTHER, other, number)
  sources = jnp.where(what < MASKED, -1, sources)
  return jnp.where(corrupted, sources, number), corrupted


def predict(
  model: nn.Module,
  params: Any,
  images: jax.Array,
  keys: jax.Array,
  **apply: Any,
) -> tuple[jax.Array, jax.Array]:
  """Corrupts the patches of images and predicts them.

  Args:
    model: see the top of the file.
    params: its parameters.
    images: [B, H, W, 3].
    keys: [B], one for the corruption of each image.
    **apply: further arguments of `model.apply`.

  Returns:
    logits [B, N, 512] float32 and corrupted [B, N] bool.

  Raises:
    InputError: a model that does not predict patches.
  """
  check(model)
  height, width = model.patch_size
  num_patches = (images.shape[1] // height) * (images.shape[2] // width)
  sources, corrupted = jax.vmap(lambda key: corruption(key, num_patches))(keys)
  logits = model.apply({'params': params}, images, sources=sources, **apply)
  return logits[:, -num_patches:], corrupted  # tokens before the patches


def objective(
  model: nn.Module, *, mean: Any = 127.5, std: Any = 127.5
) -> Objective:
  """Cross-entropy of the corrupted patches' colours, their mean.

  Labels of the batch are not looked at.

  Args:
    model: see the top of the file.
    mean, std: see `targets`; the defaults are for images in [-1, 1].

  Returns:
    An objective; its metrics hold `train_accuracy`, of the corrupted patches.

  Raises:
    InputError: a model that does not predict patches.
  """
  check(model)

  def masked_patches(params, batch, key):
    images = batch['image']
    keys = jax.random.split(
      jax.random.fold_in(key, _CORRUPTION), images.shape[0]
    )
    logits, corrupted = predict(
      model,
      params,
      images,
      keys,
      train=True,
      rngs={'dropout': jax.random.fold_in(key, _DROPOUT)},
    )
    labels = targets(images, model.patch_size, mean=mean, std=std)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    hits = (logits.argmax(-1) == labels).astype(jnp.float32)
    return (
      losses.mean(where=corrupted),
      {'train_accuracy': hits.mean(where=corrupted)},
    )

  return masked_patches


def check(model: nn.Module) -> None:
  """Raises a ValueError, one line, on a model that does not predict patches."""
  wanted = dict(
    corruptible=(True,),
    classifier=('token_unpooled', 'unpooled'),
    num_classes=(NUM_COLOURS,),
    stem_num_layers=(None,),  # the patches of a hybrid are none of pixels
  )
  for field, allowed in wanted.items():
    value = getattr(model, field, 'missing')
    if value not in allowed:
      raise InputError(
        f'masked patch prediction needs a ViT with {field} of '
        f'{" or ".join(map(repr, allowed))}, not {value!r}'
      )
