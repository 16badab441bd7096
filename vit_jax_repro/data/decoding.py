"""Parallel reading and decoding of images, some of which may be damaged.

Damaged images are rare, and identifying them costs time for every image.
Batches are therefore read by a fast path first. From the batch of the first
error on, a slower path identifies each damaged image and replaces it. Both
paths give the same undamaged images, bit for bit.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from vit_jax_repro.data.preprocess import first_line, undecodable
from vit_jax_repro.data.tf_host import keep_memory, parallel_map, tensorflow
from vit_jax_repro.errors import InputError

_PREFETCHED = 2  # batches made ahead of the one in use


def batches_of(
  split: Any,
  examples_from: Callable[[int], Any],
  prepare: Callable[[Any, Any], Any],
  batch_size: int,
  *,
  report: Callable[[str, str], Any] | None,
  repair: Callable[[Iterable[dict[str, Any]]], Iterator[dict[str, Any]]],
  limit: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
  """Returns an iterator of batches; the last one may be smaller.

  Args:
    split: a datasets.Split, or any object with its `load` and `locate`.
    examples_from: called with a number n; returns a tf.data.Dataset of
      examples for `split.load`, without the first n. The examples and their
      order must be the same in each call.
    prepare: (encoded image, example) -> [H, W, 3]. The encoded image is a
      string scalar.
    batch_size: B.
    report: called with (name, reason) for each image that cannot be decoded;
      None: such an image raises an InputError.
    repair: a generator function. It takes an iterator over all rows in order,
      dicts with image [H, W, 3], label and readable (bool), and yields rows of
      image and label.
    limit: number of consecutive undecodable images that raises an InputError;
      None: no limit.

  Returns:
    Iterator of dicts of numpy arrays: image [B, H, W, 3], label [B, ...] int32.

  Raises:
    InputError: while iterating, if `report` or `limit` require it, or if the
      data set cannot be read.
  """
  keep_memory()
  load = _loading(split, prepare)
  dataset = parallel_map(examples_from(0), load, _threads(split))

  def rows_from(number):
    return _rows(
      split,
      examples_from(number),
      prepare,
      ahead=batch_size,
      report=report,
      limit=limit,
    )

  return _read(
    dataset.batch(batch_size).prefetch(_PREFETCHED),
    lambda number: _stacked(repair(rows_from(number)), batch_size),
    batch_size,
  )


def _read(dataset, repaired_from, batch_size):
  """Yields the batches of `dataset`, and repaired ones after an error."""
  number = yield from _until_an_error(dataset.as_numpy_iterator())
  del dataset  # frees its memory
  if number is not None:
    yield from repaired_from(number * batch_size)


def _until_an_error(batches):
  """Yields batches; returns their number at an error, else None."""
  for number in itertools.count():
    try:
      batch = next(batches, None)
    except tensorflow().errors.OpError:
      return number
    if batch is None:
      return None
    yield batch
  return None


def _threads(split):
  return getattr(split, 'threads', None)


def _loading(split, prepare):
  tf = tensorflow()

  def load(example):
    record = split.load(example)
    return {
      'image': prepare(record['image'], example),
      'label': tf.cast(record['label'], tf.int32),
    }

  return load


def _rows(split, examples, prepare, *, ahead, report, limit):
  """Yields rows of image, label and readable; reports unreadable images.

  After an error, the iterator continues with the next example. The position of
  an error therefore identifies its example.
  """
  tf = tensorflow()
  load = _loading(split, prepare)
  dataset = parallel_map(examples, load, _threads(split)).prefetch(ahead)
  iterator = dataset.as_numpy_iterator()
  others = enumerate(parallel_map(examples, _naming(split)).as_numpy_iterator())
  image = dataset.element_spec['image']
  blank = np.zeros(image.shape, image.dtype.as_numpy_dtype)
  unreadable = 0  # consecutive images
  for place in itertools.count():
    try:
      row = next(iterator, None)
    except tf.errors.InvalidArgumentError as error:
      unreadable += 1
      name, label = _at(place, others)
      name, reason = split.locate(name), first_line(error)
      if unreadable == limit:
        reason = f'{reason}; {limit} images in a row cannot be decoded'
        report = None
      if report is None:
        raise InputError(undecodable(name, reason)) from None
      report(name, reason)
      yield {'image': blank, 'label': label, 'readable': False}
      continue
    except tf.errors.OpError as error:
      raise InputError(_broken(error)) from None
    if row is None:
      return
    unreadable = 0
    yield {**row, 'readable': True}


def _naming(split):
  tf = tensorflow()

  def name(example):
    record = split.load(example)
    return record['id'], tf.cast(record['label'], tf.int32)

  return name


def _at(place, others):
  """Returns the id and label of the example at `place`.

  others: an iterator of (place, (id, label)) that has not passed `place`.
  """
  tf = tensorflow()
  try:
    name, label = next(pair for number, pair in others if number == place)
  except tf.errors.OpError as error:  # reading failed, not decoding
    raise InputError(_broken(error)) from None
  return os.fsdecode(name), label


def _broken(error):
  return f'cannot read the data set: {first_line(error)}'


def _stacked(rows, batch_size):
  while chunk := list(itertools.islice(rows, batch_size)):
    yield {key: np.stack([row[key] for row in chunk]) for key in chunk[0]}
