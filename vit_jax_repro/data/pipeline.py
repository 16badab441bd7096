"""Batches from a split, for evaluation and for training.

An image that cannot be decoded does not stop either: see reading.py.
"""

import numpy as np

from vit_jax_repro.data import augment, batches, decoding, order
from vit_jax_repro.data.preprocess import check_image_size, pick_preprocessing
from vit_jax_repro.errors import InputError


def evaluation_batches(
  split,
  *,
  preprocessing,
  image_size,
  batch_size,
  process_index=0,
  process_count=1,
  report=None,
):
  """Batches of one process's part of `split`, in a fixed order.

  The last batch is filled up with zeros whose mask is False. Every process
  yields the same number of batches, those that run out wholly masked ones,
  so that collective operations meet. An image that cannot be decoded is a row
  of zeros whose label is `batches.NO_CLASS`: it counts, and is never right.

  Args:
    split: a datasets.Split.
    preprocessing: a name in preprocess.PREPROCESSINGS.
    image_size: S or (H, W) pixels.
    batch_size: rows of each batch of this process.
    process_index, process_count: which part of the split is read.
    report: called as (name, why) for each image that cannot be decoded; None:
      such an image raises a ValueError.

  Returns:
    An iterator of dicts of numpy arrays: image [B, H, W, 3] float32,
    label [B] int32, or [B, K] for several classes an image, mask [B] bool.

  Raises:
    InputError: an unknown preprocessing, a bad size, process or batch size;
      while iterating, a data set that cannot be read.
  """
  function = pick_preprocessing(preprocessing)
  image_size = check_image_size(image_size)
  _check_batch_size(batch_size)
  num_batches = -(-split.part_size(0, process_count) // batch_size)

  def prepare(encoded, _):
    return function(encoded, image_size)

  found = decoding.batches_of(
    split,
    split.examples(process_index, process_count).skip,
    prepare,
    batch_size,
    report=report,
    repair=_never_right,
  )
  classes = (split.num_classes,) if split.multi_label else ()
  empty = {
    'image': np.zeros((0, *image_size, 3), np.float32),
    'label': np.zeros((0, *classes), np.int32),
  }
  return _padded(found, empty, batch_size, num_batches)


def training_batches(
  split,
  *,
  augmentation,
  seed,
  start_step,
  batch_size,
  shuffle_buffer,
  repeats=1,
  process_index=0,
  process_count=1,
  report=None,
):
  """Batches of one process's part of `split` without end, reshuffled.

  Batch i depends on the arguments and i alone, bit for bit, however often the
  run was interrupted before. Batches run across the ends of epochs; nothing
  is dropped. See epochs.py for what decides on order and augmentation. In
  place of an image that cannot be decoded comes the next one in the order
  that can.

  Args:
    split: a datasets.Split.
    augmentation: an augment.Augmentation.
    seed: an int that is not negative.
    start_step: how many batches are passed over, without decoding them.
    batch_size: rows of each batch of this process.
    shuffle_buffer: encoded examples held in memory; see Split.shuffled.
    repeats: how often an image comes in a row, each time augmented anew.
    process_index, process_count: which part of the split is read.
    report: as for `evaluation_batches`.

  Returns:
    An iterator of dicts of numpy arrays: image [B, H, W, 3] of the
    augmentation's dtype, label [B] int32.

  Raises:
    InputError: a bad seed, step, process or batch size; while iterating, a
      data set that cannot be read or has no image that can be decoded.
  """
  _check_batch_size(batch_size)
  if start_step < 0:
    raise InputError(f'{start_step=} must not be negative')

  def prepare(encoded, example):
    key = order.example_key(example, seed)
    return augment.train_image(encoded, key, augmentation)

  def examples_from(number):
    return order.examples(
      split,
      seed=seed,
      shuffle_buffer=shuffle_buffer,
      repeats=repeats,
      start=start_step * batch_size + number,
      process_index=process_index,
      process_count=process_count,
    )

  return decoding.batches_of(
    split,
    examples_from,
    prepare,
    batch_size,
    report=report,
    repair=_next_readable,
    limit=split.num_examples,  # whole, as parts may differ with the epoch
  )


def _check_batch_size(batch_size):
  if batch_size < 1:
    raise InputError(f'{batch_size=} must be at least 1')


def _padded(found, empty, batch_size, num_batches):
  for _ in range(num_batches):
    batch = next(found, None)
    if batch is None:  # like the batches before it, but without a row
      batch = {key: value[:0] for key, value in empty.items()}
    empty = batch
    yield batches.pad(batch, batch_size)


def _never_right(rows):
  """Rows of `reading`, those unreadable under a label that is no class."""
  for row in rows:
    if row.pop('readable'):
      yield row
    else:
      label = row['label']
      yield {**row, 'label': -label if label.ndim else batches.NO_CLASS}


def _next_readable(rows):
  """Rows of `reading`, each unreadable one replaced by the next readable."""
  waiting = 1
  for row in rows:
    if row.pop('readable'):
      yield from [row] * waiting
      waiting = 1
    else:
      waiting += 1
