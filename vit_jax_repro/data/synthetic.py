"""Random batches of the form that the pipeline gives, from numpy alone."""

import itertools

import numpy as np


def batches(
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
    ValueError: another dtype.
  """
  if dtype not in ('float32', 'uint8'):
    raise ValueError(f"{dtype=} must be 'float32' or 'uint8'")
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
