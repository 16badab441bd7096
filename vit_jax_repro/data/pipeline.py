"""Evaluation batches from a split: every image exactly once, in order."""

import os

import numpy as np

from vit_jax_repro.data import batches
from vit_jax_repro.data.preprocess import (
  check_image_size,
  first_line,
  pick_preprocessing,
  undecodable,
)
from vit_jax_repro.data.tensorflow_cpu import tensorflow

_PREFETCHED = 2  # batches made ahead of the one in use


def evaluation_batches(
  split,
  *,
  preprocessing,
  image_size,
  batch_size,
  process_index=0,
  process_count=1,
):
  """Batches of one process's part of `split`, in a fixed order.

  The last batch is filled up with zeros whose mask is False. Every process
  yields the same number of batches, those that run out wholly masked ones,
  so that collective operations meet.

  Args:
    split: a datasets.Split.
    preprocessing: a name in preprocess.PREPROCESSINGS.
    image_size: S or (H, W) pixels.
    batch_size: rows of each batch of this process.
    process_index, process_count: which part of the split is read.

  Returns:
    An iterator of dicts of numpy arrays: image [B, H, W, 3] float32,
    label [B] int32, mask [B] bool. Reading an image that cannot be decoded
    raises a ValueError that names it.

  Raises:
    ValueError: an unknown preprocessing, a bad size, process or batch size.
  """
  function = pick_preprocessing(preprocessing)
  image_size = check_image_size(image_size)
  if batch_size < 1:
    raise ValueError(f'{batch_size=} must be at least 1')
  records = split.records(process_index, process_count)
  num_batches = -(-split.part_size(0, process_count) // batch_size)
  return _batches(records, function, image_size, batch_size, num_batches)


def _batches(records, function, image_size, batch_size, num_batches):
  tf = tensorflow()

  def prepare(record):
    return {
      'image': function(record['image'], image_size),
      'label': tf.cast(record['label'], tf.int32),
    }

  dataset = records.map(
    prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
  )
  dataset = dataset.batch(batch_size).prefetch(_PREFETCHED)
  iterator = dataset.as_numpy_iterator()
  empty = {
    'image': np.zeros((0, *image_size, 3), np.float32),
    'label': np.zeros((0,), np.int32),
  }
  for index in range(num_batches):
    try:
      batch = next(iterator, empty)
    except tf.errors.OpError as error:
      first = records.skip(index * batch_size).take(batch_size)
      raise ValueError(_blame(first, function, image_size, error)) from None
    yield batches.pad(batch, batch_size)


def _blame(records, function, image_size, error):
  """Reads records one by one to say which of them made the batch fail."""
  tf = tensorflow()
  try:
    for record in records:
      name = os.fsdecode(record['id'].numpy())
      try:
        function(record['image'], image_size)
      except tf.errors.OpError as failure:
        return undecodable(name, failure)
  except tf.errors.OpError as failure:
    error = failure
  return f'cannot read the data set: {first_line(error)}'
