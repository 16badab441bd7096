"""Batches from a split, for evaluation and for training."""

import itertools
import os

import numpy as np

from vit_jax_repro.data import augment, batches, epochs
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
  _check_batch_size(batch_size)

  def prepare(encoded, _):
    return function(encoded, image_size)

  examples = split.examples(process_index, process_count)
  empty = {
    'image': np.zeros((0, *image_size, 3), np.float32),
    'label': np.zeros((0,), np.int32),
  }
  num_batches = -(-split.part_size(0, process_count) // batch_size)
  found = _batches(split, examples, prepare, batch_size)
  return (
    batches.pad(next(found, empty), batch_size) for _ in range(num_batches)
  )


def training_batches(
  split,
  *,
  seed,
  start_step,
  batch_size,
  shuffle_buffer,
  process_index=0,
  process_count=1,
  **augmentation,
):
  """Batches of one process's part of `split` without end, reshuffled.

  Batch i depends on the arguments and i alone, bit for bit, however often the
  run was interrupted before. Batches run across the ends of epochs; nothing
  is dropped. See epochs.py for what decides on order and augmentation.

  Args:
    split: a datasets.Split.
    seed: an int that is not negative.
    start_step: how many batches are passed over, without decoding them.
    batch_size: rows of each batch of this process.
    shuffle_buffer: encoded examples held in memory; see Split.shuffled.
    process_index, process_count: which part of the split is read.
    **augmentation: `crop` and the other options of augment.train_image.

  Returns:
    An iterator of dicts of numpy arrays: image [B, H, W, 3] float32 in
    [-1, 1], label [B] int32. Reading an image that cannot be decoded raises a
    ValueError that names it.

  Raises:
    ValueError: a bad seed, step, size, shift, process or batch size.
    TypeError: an augmentation that is not known.
  """
  _check_batch_size(batch_size)
  if start_step < 0:
    raise ValueError(f'{start_step=} must not be negative')

  def prepare(encoded, example):
    key = epochs.example_key(example, seed)
    return augment.train_image(encoded, key, **augmentation)

  examples = epochs.examples(
    split,
    seed=seed,
    shuffle_buffer=shuffle_buffer,
    start=start_step * batch_size,
    process_index=process_index,
    process_count=process_count,
  )
  return _batches(split, examples, prepare, batch_size)


def _check_batch_size(batch_size):
  if batch_size < 1:
    raise ValueError(f'{batch_size=} must be at least 1')


def _batches(split, examples, prepare, batch_size):
  """Iterator of batches of image and label, the last one maybe smaller.

  Args:
    split: a datasets.Split.
    examples: tf.data.Dataset of what split.load takes.
    prepare: (encoded image, one of them) -> [H, W, 3] float32.
    batch_size: B.
  """
  tf = tensorflow()

  def load(example):
    record = split.load(example)
    return {
      'image': prepare(record['image'], example),
      'label': tf.cast(record['label'], tf.int32),
    }

  dataset = examples.map(
    tf.autograph.experimental.do_not_convert(load),
    num_parallel_calls=tf.data.AUTOTUNE,
    deterministic=True,
  )
  dataset = dataset.batch(batch_size).prefetch(_PREFETCHED)
  return _naming(dataset, split, examples, load, batch_size)


def _naming(dataset, split, examples, load, batch_size):
  """The batches of `dataset`, or an error that names the example at fault."""
  tf = tensorflow()
  iterator = dataset.as_numpy_iterator()
  for index in itertools.count():
    try:
      batch = next(iterator, None)
    except tf.errors.OpError as error:
      first = examples.skip(index * batch_size).take(batch_size)
      raise ValueError(_blame(first, split, load, error)) from None
    if batch is None:
      return
    yield batch


def _blame(examples, split, load, error):
  """Loads examples one by one to say which of them made the batch fail."""
  tf = tensorflow()
  try:
    for example in examples:
      try:
        load(example)
      except tf.errors.OpError as failure:
        name = split.locate(os.fsdecode(example['id'].numpy()))
        return undecodable(name, failure)
  except tf.errors.OpError as failure:
    error = failure
  return f'cannot read the data set: {first_line(error)}'
