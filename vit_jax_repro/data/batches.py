"""The format of a batch, padding, and synthetic batches.

A batch is a dict of numpy arrays whose first axis is the example:

  image  [B, H, W, 3] float32 in [-1, 1], or uint8 not yet normalised
  label  [B] int32, or [B, K] float32 probabilities; for evaluation also
         [B, K] int32, 1 for each class of the image
  flip   [B] bool, only of uint8 images in training: whether the device swaps
         left and right
  mask   [B] bool, False for padding

In evaluation, an image has the label NO_CLASS, or the negative of its [K]
labels, if it could not be decoded or if the model lacks its class. The image
counts, and no prediction for it is correct. An image without labels that could
not be decoded has K times NO_CLASS.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from vit_jax_repro.errors import InputError

NO_CLASS = np.int32(-(2**31))


def pad(
  batch: Mapping[str, np.ndarray], num_rows: int
) -> dict[str, np.ndarray]:
  """Pads a batch to `num_rows` with zeros whose mask is False.

  A batch without a mask gets one. A full batch is not copied.

  Raises:
    InputError: the batch has more than `num_rows` rows.
  """
  size = len(batch['label'])
  if size > num_rows:
    raise InputError(f'a batch of {size} rows does not fit into {num_rows=}')
  batch = {'mask': np.ones(size, bool), **batch}
  if size == num_rows:
    return batch
  return {key: _pad(value, num_rows - size) for key, value in batch.items()}


def synthetic(
  *,
  image_size: int | Sequence[int],
  num_classes: int,
  batch_size: int,
  num_batches: int | None = None,
  seed: int = 0,
  dtype: str = 'float32',
) -> Iterator[dict[str, np.ndarray]]:
  """Returns random batches that depend only on the arguments.

  Args:
    image_size: S or (H, W) pixels.
    num_classes: labels are in 0..num_classes - 1.
    batch_size: B.
    num_batches: number of batches; None means without end.
    seed: batch i depends on (seed, i) only.
    dtype: 'float32', uniform in [-1, 1), or 'uint8', uniform in 0..255.

  Returns:
    An iterator of batches in the format of this file, without padding.

  Raises:
    InputError: the dtype is neither.
  """
  if dtype not in ('float32', 'uint8'):
    raise InputError(f"{dtype=} must be 'float32' or 'uint8'")
  sides = image_size if isinstance(image_size, tuple | list) else [image_size]
  height, width = sides[0], sides[-1]
  steps = itertools.count() if num_batches is None else range(num_batches)
  shape = (batch_size, height, width, 3)
  return (_batch((seed, step), shape, num_classes, dtype) for step in steps)


def _pad(array, missing):
  zeros = np.zeros((missing, *array.shape[1:]), array.dtype)
  return np.concatenate([array, zeros])


def _batch(seed, shape, num_classes, dtype):
  generator = np.random.default_rng(seed)
  if dtype == 'uint8':
    image = generator.integers(256, size=shape, dtype=np.uint8)
  else:
    image = 2 * generator.random(shape, np.float32) - 1
  return {
    'image': image,
    'label': generator.integers(num_classes, size=shape[0], dtype=np.int32),
    'mask': np.ones(shape[0], bool),
  }
