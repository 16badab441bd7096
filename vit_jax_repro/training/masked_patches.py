"""Masked patch prediction: self-supervised pre-training of a ViT.

ViT paper, sections 4.6 and B.1.2: half of the patch embeddings are corrupted,
most of them by a learned [mask] embedding, and the model predicts the mean
colour of each corrupted patch, in 3 bits per channel. The model is a ViT with
`corruptible=True`, `num_classes=NUM_COLOURS` and logits for every token
(classifier 'token_unpooled' or 'unpooled'). Its head is the only layer that
predicts.

Such weights are fine-tuned like any others: `weights.adapt` drops the [mask]
embedding and starts a new head.

Shapes: B batch, N patches in raster order, H W pixels.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from vit_jax_repro.errors import InputError
from vit_jax_repro.training.objectives import Objective

# B.1.2: the fraction of patches that are corrupted. Of these, the fractions
# that become [mask] or another patch; the remaining ones keep their embedding.
CORRUPTED = 0.5
MASKED, OTHER = 0.8, 0.1
BITS = 3  # per channel of the mean colour
NUM_COLOURS = (2**BITS) ** 3
_LARGEST = 255.0  # largest level of a pixel

# Streams of an update's key.
_CORRUPTION, _DROPOUT = 0, 1


def targets(
  images: jax.Array,
  patch_size: tuple[int, int],
  *,
  mean: Any = 127.5,
  std: Any = 127.5,
) -> jax.Array:
  """Returns the class of every patch's mean colour.

  The mean of each channel falls into one of eight equal parts of 0..255, and
  the class is red * 64 + green * 8 + blue. The paper specifies only '3-bit,
  mean color'.

  Args:
    images: [B, H, W, 3] floats, (level - mean) / std.
    patch_size: (height, width) in pixels. Remaining pixels at the right and at
      the bottom belong to no patch, as in the model.
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
  """Draws the corruption of the patches of one image.

  Exactly half of the patches (rounded) are corrupted, chosen uniformly. The
  kind of corruption is drawn for each patch independently. A patch that
  replaces another one comes from the same image.

  Args:
    key: a typed key.
    num_patches: N, at least 2.

  Returns:
    sources: [N] int32, the index of the patch whose embedding each position
      receives. It is the position's own index if the embedding is unchanged,
      and -1 for [mask] (see `ViT.__call__`).
    corrupted: [N] bool, the patches to predict. They include corrupted patches
      that keep their embedding.

  Raises:
    InputError: there are fewer than two patches.
  """
  if num_patches < 2:
    raise InputError(
      f'{num_patches=} must be at least 2, so that a patch can replace another '
      'one; use larger images or smaller patches'
    )
  order_key, kind_key, other_key = jax.random.split(key, 3)
  number = jnp.arange(num_patches)
  order = jax.random.permutation(order_key, num_patches)
  corrupted = order < round(CORRUPTED * num_patches)
  kind = jax.random.uniform(kind_key, (num_patches,))
  shift = jax.random.randint(other_key, (num_patches,), 1, num_patches)
  other = (number + shift) % num_patches
  sources = jnp.where(kind < MASKED + OTHER, other, number)
  sources = jnp.where(kind < MASKED, -1, sources)
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
    model: a ViT for masked patch prediction; see the module docstring.
    params: its parameters.
    images: [B, H, W, 3].
    keys: [B], one for the corruption of each image.
    **apply: further arguments of `model.apply`.

  Returns:
    logits [B, N, 512] float32 and corrupted [B, N] bool.

  Raises:
    InputError: the model does not predict patches.
  """
  check(model)
  height, width = model.patch_size
  num_patches = (images.shape[1] // height) * (images.shape[2] // width)
  sources, corrupted = jax.vmap(lambda key: corruption(key, num_patches))(keys)
  logits: Any = model.apply(
    {'params': params}, images, sources=sources, **apply
  )
  return logits[:, -num_patches:], corrupted  # drops tokens before the patches


def objective(
  model: nn.Module, *, mean: Any = 127.5, std: Any = 127.5
) -> Objective:
  """Returns the mean cross-entropy of the colours of corrupted patches.

  Labels of the batch are not used.

  Args:
    model: a ViT for masked patch prediction; see the module docstring.
    mean, std: see `targets`; the defaults are for images in [-1, 1].

  Returns:
    An objective with the metric `train_accuracy` of the corrupted patches.

  Raises:
    InputError: the model does not predict patches.
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
  """Raises an InputError if the model does not predict patches."""
  wanted = dict(
    corruptible=(True,),
    classifier=('token_unpooled', 'unpooled'),
    num_classes=(NUM_COLOURS,),
    stem_num_layers=(None,),  # a hybrid's patches are features, not pixels
  )
  for field, allowed in wanted.items():
    value = getattr(model, field, 'missing')
    if value not in allowed:
      raise InputError(
        f'masked patch prediction needs a ViT with {field} of '
        f'{" or ".join(map(repr, allowed))}, not {value!r}'
      )
