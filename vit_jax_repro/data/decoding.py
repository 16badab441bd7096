"""Reading and decoding, many images at a time, some of which may be damaged.

Damaged images are rare, and looking out for them takes time with every image.
So batches are first made without: the first error switches, from its batch
on, to a slower way in which an image that fails is known and repaired.
Images that are not damaged come out the same, bit for bit.
"""

import itertools
import os

import numpy as np

from vit_jax_repro.data.preprocess import first_line, undecodable
from vit_jax_repro.data.tf_host import keep_memory, parallel_map, tensorflow
from vit_jax_repro.errors import InputError

_PREFETCHED = 2  # batches made ahead of the one in use


def batches_of(
  split, examples_from, prepare, batch_size, *, report, repair, limit=None
):
  """Batches of image and label, the last one maybe smaller.

  Args:
    split: a datasets.Split.
    examples_from: function of a number n; gives a tf.data.Dataset of what
      split.load takes, without the first n of them. Each time the same come
      in the same order.
    prepare: (encoded image, one of them) -> [H, W, 3].
    batch_size: B.
    report: called as (name, why) for each image that cannot be decoded; None:
      such an image raises a ValueError.
    repair: a generator over rows, dicts of numpy arrays image [H, W, 3],
      label and readable (bool), that are given in order. It yields rows of
      image and label in their place.
    limit: how many images that cannot be decoded, one after the other, are an
      error; None: however many may be.

  Returns:
    Iterator of dicts of numpy arrays image [B, H, W, 3], label [B, ...] int32.

  Raises:
    InputError: while iterating: see report and limit; the data set cannot be
      read.
  """
  keep_memory()
  dataset = parallel_map(examples_from(0), _loading(split, prepare))

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
  """The batches of `dataset`; from an error on, the repaired ones."""
  number = yield from _until_an_error(dataset.as_numpy_iterator())
  del dataset  # and what it holds in memory
  if number is not None:
    yield from repaired_from(number * batch_size)


def _until_an_error(batches):
  """Yields batches; returns how many came before an error, None without one."""
  for number in itertools.count():
    try:
      batch = next(batches, None)
    except tensorflow().errors.OpError:
      return number
    if batch is None:
      return None
    yield batch
  return None


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
  """One by one: image, label and whether it is readable; reports if not.

  An iterator that has raised goes on with the next example, so that the
  errors are known by their place.
  """
  tf = tensorflow()
  dataset = parallel_map(examples, _loading(split, prepare)).prefetch(ahead)
  iterator = dataset.as_numpy_iterator()
  others = enumerate(parallel_map(examples, _naming(split)).as_numpy_iterator())
  image = dataset.element_spec['image']
  blank = np.zeros(image.shape, image.dtype.as_numpy_dtype)
  unreadable = 0  # one after the other
  for place in itertools.count():
    try:
      row = next(iterator, None)
    except tf.errors.InvalidArgumentError as error:
      unreadable += 1
      name, label = _at(place, others)
      name, why = split.locate(name), first_line(error)
      if unreadable == limit:
        why = f'{why}; so it is with {limit} images in a row'
        report = None
      if report is None:
        raise InputError(undecodable(name, why)) from None
      report(name, why)
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
  """Id and label; others: (place, (id, label)) from at most `place` on."""
  tf = tensorflow()
  try:
    name, label = next(found for number, found in others if number == place)
  except tf.errors.OpError as error:  # then it was not about the image
    raise InputError(_broken(error)) from None
  return os.fsdecode(name), label


def _broken(error):
  return f'cannot read the data set: {first_line(error)}'


def _stacked(rows, batch_size):
  while chunk := list(itertools.islice(rows, batch_size)):
    yield {
      key: np.stack([row[key] for row in chunk]) for key in ('image', 'label')
    }
