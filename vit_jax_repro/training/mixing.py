"""Augmentation of whole batches on the devices: mixup, cutmix, random erasing.

`flip` and `normalize` come first. The other functions have the form (batch,
key, *, settings) -> batch and serve as `augment` of `steps.train_step`. A batch
is a dict with image [B, H, W, C] and label, either [B] integers or [B, K]
probabilities; other entries are unchanged. The functions receive the whole
batch even if gradients are accumulated over parts of it. They are pure, can be
compiled and accept sharded arrays. The partner of an example is the one at the
same position in the reversed batch.

Random erasing comes before mixing, as in DeiT.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vit_jax_repro.errors import InputError
from vit_jax_repro.training.objectives import probabilities

# Streams of a batch's key.
_MIXUP, _CUTMIX, _CENTER, _CHOICE = range(4)
_WHETHER, _AREA, _ASPECT, _CORNER, _NOISE = range(5)

# timm/data/random_erasing.py, which DeiT uses: the erased fraction of an image,
# height / width of the rectangle, and the largest number of draws.
_ERASED_PART = (0.02, 1 / 3)
_ERASED_ASPECT = (0.3, 1 / 0.3)
_ERASING_ATTEMPTS = 10


def flip(batch: dict) -> dict:
  """Returns the batch with left and right swapped where `flip` is True.

  Args:
    batch: image [B, H, W, C], and flip [B] bool; without flip, the batch is
      returned unchanged.

  Returns:
    The batch without flip.
  """
  if 'flip' not in batch:
    return batch
  rest = {key: value for key, value in batch.items() if key != 'flip'}
  image, swapped = batch['image'], batch['flip'][:, None, None, None]
  return dict(rest, image=jnp.where(swapped, image[:, :, ::-1], image))


def normalize(
  batch: dict, *, mean: Sequence[float], std: Sequence[float]
) -> dict:
  """Returns the batch with normalised images, (image - mean) / std.

  Float images are returned unchanged.

  Args:
    batch: image [B, H, W, C] uint8 or float.
    mean, std: C values each, in levels (0 to 255); 127.5 both for [-1, 1].

  Returns:
    The batch with float images; uint8 images become float32.

  Raises:
    InputError: the images have another dtype, or there are not C values.
  """
  image = batch['image']
  if jnp.issubdtype(image.dtype, jnp.floating):
    return batch
  if image.dtype != jnp.uint8:
    raise InputError(f'images must be uint8 or float, not {image.dtype}')
  channels = image.shape[-1]
  if not len(mean) == len(std) == channels:
    raise InputError(f'{mean=} and {std=} must have {channels} values each')
  shift, scale = (
    jnp.asarray(values, jnp.float32).reshape(1, 1, 1, -1)
    for values in (mean, std)
  )
  return dict(batch, image=(image.astype(jnp.float32) - shift) / scale)


def smooth_labels(
  batch: dict,
  key: jax.Array | None = None,
  *,
  num_classes: int,
  label_smoothing: float,
) -> dict:
  """Spreads part of every label's probability evenly over all K classes.

  timm does the same in Mixup and in LabelSmoothingCrossEntropy.

  Args:
    batch: label [B] or [B, K].
    key: not used; present because `augment` takes a key.
    num_classes: K.
    label_smoothing: s; 1 becomes 1 - s + s / K, 0 becomes s / K.

  Returns:
    The batch with [B, K] float32 labels.

  Raises:
    InputError: `label_smoothing` is not in [0, 1).
  """
  if not 0 <= label_smoothing < 1:
    raise InputError(f'{label_smoothing=} must lie in 0..1, 1 excluded')
  labels = probabilities(batch['label'], num_classes)
  if label_smoothing:
    labels = optax.smooth_labels(labels, label_smoothing)
  return dict(batch, label=labels)


def mixup(
  batch: dict,
  key: jax.Array,
  *,
  alpha: float,
  num_classes: int,
  label_smoothing: float = 0.0,
) -> dict:
  """Mixes every example with its partner.

  One weight from Beta(alpha, alpha) serves the whole batch, as in BiT-HyperRule
  (bit_jax/train.py, input_pipeline; BiT paper section 3.3) and in timm's batch
  mode. big_vision, in which AugReg was trained, differs: the example itself
  gets the larger of weight and 1 - weight, and its partner is the previous
  example.

  Args:
    batch: float images and labels; see the module docstring.
    alpha: > 0.
    num_classes: K.
    label_smoothing: see `smooth_labels`; applied before mixing.

  Returns:
    The batch with mixed images, of the same dtype, and [B, K] float32 labels.

  Raises:
    InputError: `alpha` or `label_smoothing` is out of range, or the images are
      not float.
  """
  _check(batch, alpha=alpha)
  weight = jax.random.beta(key, alpha, alpha)
  return _mix(batch, weight, weight, num_classes, label_smoothing)


def cutmix(
  batch: dict,
  key: jax.Array,
  *,
  alpha: float,
  num_classes: int,
  label_smoothing: float = 0.0,
) -> dict:
  """Replaces a box of every image by the same box of its partner.

  One box serves the whole batch, as in timm's batch mode (timm/data/mixup.py).
  A weight from Beta(alpha, alpha) is the fraction of the image outside the
  box. The box has a uniform centre and is clipped to the image. Labels are
  mixed by the fractions of pixels.

  Args, Returns, Raises: as for `mixup`.
  """
  _check(batch, alpha=alpha)
  kept, share = _outside_box(batch['image'].shape, key, alpha)
  return _mix(batch, kept, share, num_classes, label_smoothing)


def mixup_or_cutmix(
  batch: dict,
  key: jax.Array,
  *,
  mixup_alpha: float,
  cutmix_alpha: float,
  num_classes: int,
  switch_probability: float = 0.5,
  label_smoothing: float = 0.0,
) -> dict:
  """Applies mixup or cutmix to the whole batch, as DeiT does through timm.

  Args:
    batch: float images and labels; see the module docstring.
    mixup_alpha, cutmix_alpha: see `mixup` and `cutmix`. If one of them is 0,
      the other method is always applied.
    num_classes, label_smoothing: see `mixup`.
    switch_probability: probability of cutmix; the default is timm's.

  Returns:
    The batch, as from `mixup`.

  Raises:
    InputError: a setting is out of range, or the images are not float.
  """
  if not 0 <= switch_probability <= 1:
    raise InputError(f'{switch_probability=} must lie in 0..1')
  if mixup_alpha == cutmix_alpha == 0:
    raise InputError(f'{mixup_alpha=} and {cutmix_alpha=} must not both be 0')
  options: dict[str, Any] = dict(
    num_classes=num_classes, label_smoothing=label_smoothing
  )
  if cutmix_alpha == 0:
    return mixup(batch, key, alpha=mixup_alpha, **options)
  if mixup_alpha == 0:
    return cutmix(batch, key, alpha=cutmix_alpha, **options)
  _check(batch, mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha)
  weight = jax.random.beta(
    jax.random.fold_in(key, _MIXUP), mixup_alpha, mixup_alpha
  )
  kept, share = _outside_box(batch['image'].shape, key, cutmix_alpha)
  cut = jax.random.bernoulli(
    jax.random.fold_in(key, _CHOICE), switch_probability
  )
  return _mix(
    batch,
    jnp.where(cut, kept, weight),
    jnp.where(cut, share, weight),
    num_classes,
    label_smoothing,
  )


def random_erasing(
  batch: dict, key: jax.Array, *, probability: float = 0.25
) -> dict:
  """Replaces a rectangle of some images by noise.

  Follows timm's 'pixel' mode (timm/data/random_erasing.py; arXiv:1708.04896).
  Each image is chosen with the given probability. A rectangle of 2 % to 1/3 of
  its area becomes standard normal noise. The ratio height / width lies between
  0.3 and 1 / 0.3, uniform in its logarithm. Rectangles as high or as wide as
  the image are redrawn, up to ten draws in all; after that the image is
  unchanged.

  Args:
    batch: image [B, H, W, C] float, normalised.
    probability: that an image is chosen; 0.25 in DeiT.

  Raises:
    InputError: `probability` is not in [0, 1], or the images are not float.
  """
  if not 0 <= probability <= 1:
    raise InputError(f'{probability=} must lie in 0..1')
  image = _float_image(batch)
  size, height, width, _ = image.shape
  attempts = (size, _ERASING_ATTEMPTS)
  low, high = _ERASED_PART
  area = (
    height
    * width
    * jax.random.uniform(
      jax.random.fold_in(key, _AREA), attempts, minval=low, maxval=high
    )
  )
  low, high = (math.log(aspect) for aspect in _ERASED_ASPECT)
  aspect = jnp.exp(
    jax.random.uniform(
      jax.random.fold_in(key, _ASPECT), attempts, minval=low, maxval=high
    )
  )
  heights = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
  widths = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
  fits = (heights < height) & (widths < width)  # [B, attempts]
  first = fits.argmax(-1, keepdims=True)
  sides = jnp.concatenate(
    [jnp.take_along_axis(x, first, axis=1) for x in (heights, widths)], axis=1
  )  # [B, 2]
  chosen = jax.random.bernoulli(
    jax.random.fold_in(key, _WHETHER), probability, (size,)
  )
  room = jnp.asarray([[height, width]]) - sides
  corner = jax.random.randint(
    jax.random.fold_in(key, _CORNER), (size, 2), 0, room + 1
  )
  rows, columns = (
    _within(length, corner[:, axis], corner[:, axis] + sides[:, axis])
    for axis, length in enumerate((height, width))
  )
  box = rows[:, :, None] & columns[:, None, :]  # [B, H, W]
  box &= (chosen & fits.any(-1))[:, None, None]
  noise = jax.random.normal(
    jax.random.fold_in(key, _NOISE), image.shape, image.dtype
  )
  return dict(batch, image=jnp.where(box[..., None], noise, image))


def _mix(batch, weights, share, num_classes, label_smoothing):
  """Mixes images and labels of every example and its partner.

  Args:
    weights: [H, W] or [], the example's weights of the pixels. The partner
      has 1 - weights.
    share: [], the example's weight of the label.
  """
  batch = smooth_labels(
    batch, num_classes=num_classes, label_smoothing=label_smoothing
  )
  if weights.ndim:
    weights = weights[None, :, :, None]

  def mix(x, weight):
    return (weight * x + (1 - weight) * x[::-1]).astype(x.dtype)

  return dict(
    batch,
    image=mix(batch['image'], weights),
    label=mix(batch['label'], share),
  )


def _outside_box(shape, key, alpha):
  """Returns [H, W] float32, 0 inside a random box, else 1; and their mean."""
  _, height, width, _ = shape
  kept = jax.random.beta(jax.random.fold_in(key, _CUTMIX), alpha, alpha)
  center = jax.random.randint(
    jax.random.fold_in(key, _CENTER), (2,), 0, jnp.asarray([height, width])
  )
  ratio = jnp.sqrt(1 - kept)
  half = jnp.stack([height * ratio, width * ratio]).astype(jnp.int32) // 2
  begin, end = center - half, center + half
  rows = _within(height, begin[0], end[0])
  columns = _within(width, begin[1], end[1])
  box = rows[:, None] & columns[None, :]
  area = rows.sum() * columns.sum()
  return 1.0 - box.astype(jnp.float32), 1 - area / (height * width)


def _within(length, begin, end):
  """Returns [..., length] booleans, True from `begin` to before `end`."""
  begin, end = begin[..., None], end[..., None]
  places = jnp.arange(length).reshape((1,) * (begin.ndim - 1) + (-1,))
  return (places >= begin) & (places < end)


def _float_image(batch):
  image = batch['image']
  if not jnp.issubdtype(image.dtype, jnp.floating):
    raise InputError(
      f'images must be float, not {image.dtype}; normalize first'
    )
  return image


def _check(batch, **alphas):
  _float_image(batch)
  for name, alpha in alphas.items():
    if not alpha > 0:
      raise InputError(f'{name}={alpha!r} must be above 0')
