"""Batches from a split, for evaluation and for training.

An image that cannot be decoded stops neither of them: see decoding.py.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vit_jax_repro.data import (
  augment,
  batches,
  decoding,
  image_files,
  order,
)
from vit_jax_repro.data.preprocess import (
  check_image_size,
  check_orientation,
  pick_preprocessing,
)
from vit_jax_repro.errors import InputError


def evaluation_batches(
  split: Any,
  *,
  preprocessing: str,
  image_size: int | tuple[int, ...] | list[int],
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
  report: Callable[[str, str], Any] | None = None,
  orientation: str = 'none',
  turned: set[str] | None = None,
  traced: bool = False,
) -> Iterator[dict[str, np.ndarray]]:
  """Returns batches of one process's part of `split` in a fixed order.

  The last batch is padded with zeros whose mask is False. All processes yield
  the same number of batches, so that collective operations match. A process
  that runs out of examples yields fully masked batches. An image that cannot be
  decoded becomes a row of zeros with the label `batches.NO_CLASS`. It counts,
  and no prediction for it is correct.

  Args:
    split: a datasets.Split.
    preprocessing: a name for preprocess.pick_preprocessing.
    image_size: S or (H, W) pixels.
    batch_size: rows of each batch of this process.
    process_index, process_count: which part of the split is read.
    report: called with (name, reason) for each image that cannot be decoded;
      None: such an image raises an InputError.
    orientation: 'exif' turns images upright by their EXIF orientation, 'none'
      takes them as they are stored.
    turned: if given, gets the id of each image with an EXIF orientation that
      'none' does not apply.
    traced: whether batches have three more arrays.

  Returns:
    An iterator of dicts of numpy arrays: image [B, H, W, 3] float32, label [B]
    int32, or [B, K] if an image may have several classes, mask [B] bool.
    If `traced`: place [B] int32, of which the image is number
    place // process_count of the part place % process_count; own_label, the
    label also of an image that cannot be decoded; readable [B] bool.

  Raises:
    InputError: the preprocessing is unknown, or a size, process, batch size or
      orientation is invalid; while iterating, if the data set cannot be read.
  """
  check_orientation(orientation)
  function = pick_preprocessing(preprocessing)
  image_size = check_image_size(image_size)
  _check_batch_size(batch_size)
  num_batches = -(-split.part_size(0, process_count) // batch_size)

  def prepare(encoded, example):
    if turned is not None and orientation == 'none':
      encoded = image_files.noting_orientation(encoded, example['id'], turned)
    return {'image': function(encoded, image_size, orientation)}

  decoded = decoding.batches_of(
    split,
    functools.partial(split.examples, process_index, process_count),
    prepare,
    batch_size,
    report=report,
    repair=functools.partial(_never_right, traced=traced),
  )
  classes = (split.num_classes,) if split.multi_label else ()
  empty = {
    'image': np.zeros((0, *image_size, 3), np.float32),
    'label': np.zeros((0, *classes), np.int32),
  }
  if traced:
    decoded = _traced(decoded, process_index, process_count)
    (empty,) = _traced([empty], process_index, process_count)
  return _padded(decoded, empty, batch_size, num_batches)


def training_batches(
  split: Any,
  *,
  augmentation: augment.Augmentation,
  seed: int,
  start_step: int,
  batch_size: int,
  shuffle_buffer: int,
  repeats: int = 1,
  process_index: int = 0,
  process_count: int = 1,
  report: Callable[[str, str], Any] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
  """Returns endless batches of one process's part, reshuffled each epoch.

  Batch i depends bit for bit on the arguments and on i only, no matter how
  often the run was interrupted. A batch may span two epochs; no example is
  dropped. order.py defines the order and the random keys. An image that cannot
  be decoded is replaced by the next one in the order that can.

  Args:
    split: a datasets.Split.
    augmentation: an augment.Augmentation.
    seed: an int that is not negative.
    start_step: number of batches to skip without decoding them.
    batch_size: rows of each batch of this process.
    shuffle_buffer: encoded examples held in memory; see Split.shuffled.
    repeats: number of consecutive copies of an image; each copy is augmented
      with its own key.
    process_index, process_count: which part of the split is read.
    report: as for `evaluation_batches`.

  Returns:
    An iterator of dicts of numpy arrays: image [B, H, W, 3] of the
    augmentation's dtype, label [B] int32; if `augmentation.flips_on_device`,
    also flip [B] bool.

  Raises:
    InputError: the seed, step, process or batch size is invalid; while
      iterating, if the data set cannot be read or no image can be decoded.
  """
  _check_batch_size(batch_size)
  if start_step < 0:
    raise InputError(f'{start_step=} must not be negative')

  def prepare(encoded, example):
    key = order.example_key(example, seed)
    return augment.train_example(encoded, key, augmentation)

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
    # All but one image may be damaged: that many at the end of an epoch and
    # again at the start of the next. Of all parts, as a part may vary by epoch.
    limit=(2 * split.num_examples - 1) * repeats,
  )


def _check_batch_size(batch_size):
  if batch_size < 1:
    raise InputError(f'{batch_size=} must be at least 1')


def _padded(decoded, empty, batch_size, num_batches):
  for _ in range(num_batches):
    batch = next(decoded, None)
    if batch is None:  # same keys, shapes and dtypes, but no rows
      batch = {key: value[:0] for key, value in empty.items()}
    empty = batch
    yield batches.pad(batch, batch_size)


def _traced(decoded, process_index, process_count):
  """Yields batches with the arrays place, own_label and readable."""
  number = 0
  for batch in decoded:
    size = len(batch['label'])
    places = np.arange(number, number + size) * process_count + process_index
    number += size
    yield {
      'own_label': batch['label'],
      'readable': np.ones(size, bool),
      **batch,
      'place': places.astype(np.int32),
    }


def _never_right(rows, *, traced):
  """Yields decoding's rows; unreadable ones get a label that is no class."""
  for row in rows:
    readable, label = row.pop('readable'), row['label']
    if traced:
      row |= {'own_label': label, 'readable': np.bool_(readable)}
    if not readable:
      none = np.full_like(label, batches.NO_CLASS)
      row['label'] = -label if label.any() and label.ndim else none
    yield row


def _next_readable(rows):
  """Yields decoding's rows; the next readable row replaces unreadable ones."""
  waiting = 1
  for row in rows:
    if row.pop('readable'):
      yield from [row] * waiting
      waiting = 1
    else:
      waiting += 1
