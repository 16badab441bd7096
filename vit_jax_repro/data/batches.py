"""The form of a batch, and filling it up.

A batch is a dict of numpy arrays whose first axis is the example:

  image  [B, H, W, 3] float32 in [-1, 1], or uint8 not yet normalised
  label  [B] int32, or [B, K] float32 probabilities; for evaluation also
         [B, K] int32, 1 for each class that the image is of
  mask   [B] bool, False for rows that only fill up

In evaluation, an image that could not be decoded, and one of a class that the
model does not have, has the label NO_CLASS, or the negative of its [K] labels:
it counts, and no prediction is right.
"""

import itertools

import numpy as np

from vit_jax_repro.errors import InputError

NO_CLASS = np.int32(-(2**31))


def pad(batch, num_rows):
  """Fills a batch up to `num_rows` with zeros whose mask is False.

  A batch without a mask gets one. Nothing is copied when nothing is missing.

  Raises:
    InputError: the batch has more rows than that.
  """
  size = len(batch['label'])
  if size > num_rows:
    raise InputError(f'a batch of {size} rows does not fit into {num_rows=}')
  batch = {'mask': np.ones(size, bool), **batch}
  if size == num_rows:
    return batch
  return {key: _pad(value, num_rows - size) for key, value in batch.items()}


def _pad(array, missing):
  zeros = np.zeros((missing, *array.shape[1:]), array.dtype)
  return np.concatenate([array, zeros])


def synthetic(
  *,
  image_size,
  num_classes,
  batch_size,
  num_batches=None,
  seed=0,
  dtype='float32',
):
  """Batches that depend on nothing but the arguments.

  Args:
    image_size: S or (H, W) pixels.
    num_classes: labels lie in 0..num_classes - 1.
    batch_size: B.
    num_batches: how many; None means without end.
    seed: batch i depends on (seed, i) only.
    dtype: 'float32', uniform in [-1, 1), or 'uint8', uniform in 0..255.

  Returns:
    An iterator of batches, as in batches.py, with nothing masked.

  Raises:
    InputError: another dtype.
  """
  if dtype not in ('float32', 'uint8'):
    raise InputError(f"{dtype=} must be 'float32' or 'uint8'")
  sides = image_size if isinstance(image_size, tuple | list) else [image_size]
  height, width = sides[0], sides[-1]
  steps = itertools.count() if num_batches is None else range(num_batches)
  shape = (batch_size, height, width, 3)
  return (_batch((seed, step), shape, num_classes, dtype) for step in steps)


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
