"""Parallel reading and decoding of images, some of which may be damaged.

Damaged images are rare, and identifying them costs time for every image.
Batches are therefore read by a fast path, which leaves out a batch with a
damaged image and continues with the next one. A slower path reads that batch
again, image by image, and replaces what is damaged. Both paths give the same
undamaged images, bit for bit (see tf_host.tensorflow).
"""

import concurrent.futures
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from vit_jax_repro.data.preprocess import first_line, undecodable
from vit_jax_repro.data.tf_host import (
  keep_memory,
  parallel_batches,
  tensorflow,
)
from vit_jax_repro.errors import InputError

# Batches that TensorFlow makes at a time: one may wait for its images while the
# next one gets some, or both are ready.
MADE_AT_ONCE = 2
# Batches that wait besides these, and their bytes at most.
_PREFETCHED, _PREFETCHED_BYTES = 2, 500_000_000
# Passing over this many examples takes less time than a new iterator.
_SOON = 500


def prefetched(batch_bytes: int) -> int:
  """Returns how many batches wait besides those that are being made.

  Args:
    batch_bytes: of the images of a batch.
  """
  return min(_PREFETCHED, _PREFETCHED_BYTES // max(1, batch_bytes))


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
    prepare: (encoded image, example) -> dict with image [H, W, 3], and other
      arrays for the batch. The encoded image is a string scalar.
    batch_size: B.
    report: called with (name, reason) for each image that cannot be decoded;
      None: such an image raises an InputError.
    repair: a generator function. It takes an iterator over all rows in order,
      dicts with image [H, W, 3], label and readable (bool), and yields rows of
      image and label. An unreadable row has no other arrays of `prepare`.
    limit: number of consecutive undecodable images that raises an InputError;
      None: no limit.

  Returns:
    Iterator of dicts of numpy arrays: image [B, H, W, 3], label [B, ...] int32,
    and the other arrays of `prepare`.

  Raises:
    InputError: while iterating, if `report` or `limit` require it, or if the
      data set cannot be read.
  """
  keep_memory()
  load = _loading(split, prepare)

  def batches_from(number):
    dataset = parallel_batches(
      examples_from(number), load, batch_size, _threads(split)
    )
    image = dataset.element_spec['image']
    row_bytes = image.dtype.size * (image.shape[1:].num_elements() or 0)
    return dataset.prefetch(prefetched(batch_size * row_bytes))

  slow = _Slow(split, load, limit, _Examples(examples_from, batch_size))

  def repaired(number, damage):
    rows = slow.rows(number, functools.partial(damage.found, number))
    return _stacked(itertools.islice(repair(rows), batch_size))

  damage = _Damage(report)
  return _read(batches_from(0), batches_from, repaired, batch_size, damage)


class _Damage:
  """Reports each damaged image of an epoch once.

  The next readable image after the last one of a batch may be far inside the
  next batch. The damaged images between them are found with both batches.

  Attributes:
    count: how many were found, each as often as it was.
  """

  def __init__(self, report: Callable[[str, str], Any] | None):
    self.count = 0
    self._report = report
    self._reported = 0  # all examples before this number that are damaged

  def found(self, first: int, place: int, name: str, reason: str) -> None:
    """Reports the image at `place` after example number `first`."""
    self.count += 1
    if first + place < self._reported:
      return
    self._reported = first + place + 1
    if self._report is None:
      raise InputError(undecodable(name, reason))
    self._report(name, reason)


def _read(dataset, batches_from, repaired, batch_size, damage):
  """Yields batches; those that fail are read again, image by image.

  Args:
    dataset: of batches; wrong arguments were errors when it was made.
    batches_from: number of an example -> a dataset of batches from there.
    repaired: (number of an example, damage) -> the batch from there, read image
      by image, or None if there are no more examples.
    batch_size: B.
    damage: a _Damage.
  """
  op_error = tensorflow().errors.OpError
  batches = dataset.as_numpy_iterator()
  for first in itertools.count(step=batch_size):
    try:
      batch = next(batches, None)
    except op_error:
      before = damage.count
      batch = repaired(first, damage)
      if damage.count == before:  # the error was of reading, and has passed
        batches = batches_from(first + batch_size).as_numpy_iterator()
    if batch is None:
      return
    yield batch


def _threads(split):
  return getattr(split, 'threads', None)


def _loading(split, prepare):
  tf = tensorflow()

  def load(example):
    record = split.load(example)
    return {
      **prepare(record['image'], example),
      'label': tf.cast(record['label'], tf.int32),
    }

  return load


class _Examples:
  """Gives batches of examples by the number of their first one.

  A batch soon after the last one takes no new iterator.
  """

  def __init__(self, examples_from: Callable[[int], Any], batch_size: int):
    self.batch_size = batch_size
    self._examples_from = examples_from
    self._iterator: Iterator[Any] = iter(())
    self._next = -1  # number of the iterator's next example; -1: no iterator
    self._first, self._batch = -1, []  # the last batch

  def at(self, first: int) -> list[Any]:
    """Returns the batch from example number `first`, shorter at the end."""
    if first != self._first:
      skipped = first - self._next
      if self._next < 0 or not 0 <= skipped <= _SOON:
        self._iterator, skipped = iter(self._examples_from(first)), 0
      for _ in itertools.islice(self._iterator, skipped):
        pass
      batch = itertools.islice(self._iterator, self.batch_size)
      self._first, self._batch = first, list(batch)
      self._next = first + self.batch_size
    return self._batch


class _Slow:
  """Reads examples one by one. Functions are traced once, when first needed.

  Args:
    split, limit: see `batches_of`.
    load: example -> {'image': [H, W, 3], 'label': [...] int32, ...}.
    examples: an _Examples.
  """

  def __init__(self, split, load, limit, examples):
    self._split, self._limit, self._examples = split, limit, examples
    self._functions = load, _naming(split)
    self._traced: list[Any] = []  # both, once they are needed

  def rows(
    self, first: int, report: Callable[[int, str, str], Any]
  ) -> Iterator[dict[str, Any]]:
    """Yields rows of image, label and readable from example `first` on.

    Calls `report` with (number of the row, name, reason) for unreadable images.
    """
    tf = tensorflow()
    size, unreadable = self._examples.batch_size, 0  # consecutive images
    with concurrent.futures.ThreadPoolExecutor(_threads(self._split)) as pool:
      for start in itertools.count(step=size):
        try:
          batch = self._examples.at(first + start)
        except tf.errors.OpError as error:
          raise InputError(_broken(error)) from None
        self._trace(batch)
        for number, row in enumerate(pool.map(self._row, batch)):
          if not isinstance(row, tf.errors.OpError):
            unreadable = 0
            yield {**row, 'readable': True}
            continue
          unreadable += 1
          name, label = self._named(batch[number])
          name, reason = self._split.locate(name), first_line(row)
          if unreadable == self._limit:
            reason += f'; {unreadable} images in a row cannot be decoded'
            raise InputError(undecodable(name, reason))
          report(start + number, name, reason)
          yield {'image': self._blank(), 'label': label, 'readable': False}
        if len(batch) < size:
          return

  def _trace(self, batch):
    if self._traced or not batch:
      return
    tf = tensorflow()
    spec = tf.nest.map_structure(tf.TensorSpec.from_tensor, batch[0])
    self._traced = [
      tf.function(
        function, input_signature=[spec], autograph=False
      ).get_concrete_function()
      for function in self._functions
    ]

  def _row(self, example):
    """Returns the arrays of an example, or the error of decoding it."""
    tf = tensorflow()
    try:
      row = self._traced[0](example)
      return {key: value.numpy() for key, value in row.items()}
    except tf.errors.InvalidArgumentError as error:
      return error
    except tf.errors.OpError as error:
      raise InputError(_broken(error)) from None

  def _named(self, example):
    """Returns the id and the label of an example."""
    try:
      name, label = self._traced[1](example)
    except tensorflow().errors.OpError as error:  # reading failed
      raise InputError(_broken(error)) from None
    return os.fsdecode(name.numpy()), label.numpy()

  def _blank(self):
    spec = self._traced[0].structured_outputs['image']
    return np.zeros(spec.shape, spec.dtype.as_numpy_dtype)


def _naming(split):
  tf = tensorflow()

  def name(example):
    record = split.load(example)
    return record['id'], tf.cast(record['label'], tf.int32)

  return name


def _broken(error):
  return f'cannot read the data set: {first_line(error)}'


def _stacked(rows):
  """Returns a batch of rows, or None of none."""
  rows = list(rows)
  if not rows:
    return None
  return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
