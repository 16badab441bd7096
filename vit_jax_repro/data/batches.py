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

import numpy as np

NO_CLASS = np.int32(-(2**31))


def pad(batch, num_rows):
  """Fills a batch up to `num_rows` with zeros whose mask is False.

  A batch without a mask gets one. Nothing is copied when nothing is missing.

  Raises:
    ValueError: the batch has more rows than that.
  """
  size = len(batch['label'])
  if size > num_rows:
    raise ValueError(f'a batch of {size} rows does not fit into {num_rows=}')
  batch = {'mask': np.ones(size, bool), **batch}
  if size == num_rows:
    return batch
  return {key: _pad(value, num_rows - size) for key, value in batch.items()}


def _pad(array, missing):
  zeros = np.zeros((missing, *array.shape[1:]), array.dtype)
  return np.concatenate([array, zeros])
