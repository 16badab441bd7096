"""Reading of TFRecord files from any position in their order.

tf.data can only skip examples by reading them. Here positions are computed, and
records are read at their offsets in the files, in the same order: `places`
repeats the order of tf.data's interleave, and `reordered` that of its shuffle.
"""

import functools
import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.errors import InputError

_HEADER = 12  # bytes: the length of the record, 8, and its checksum
_FOOTER = 4  # bytes: the checksum of the record
_CHUNK = 64  # records that go from Python to TensorFlow at a time


def places(
  counts: Sequence[int], at_once: int, in_turn: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the order in which files are interleaved.

  Args:
    counts: number of examples of each file.
    at_once: cycle_length of tf.data.Dataset.interleave.
    in_turn: its block_length.

  Returns:
    The file of each example and its place among the examples of that file,
    [n] int64 each.
  """
  files, starts, sizes = [], [], []
  left = list(counts)
  waiting = iter(range(len(left)))
  slots = [next(waiting, None) for _ in range(at_once)]
  while any(slot is not None for slot in slots):
    for number, file in enumerate(slots):
      if file is None:
        continue
      size = min(in_turn, left[file])
      files.append(file)
      starts.append(counts[file] - left[file])
      sizes.append(size)
      left[file] -= size
      if size < in_turn:  # its end was noticed, so the next file follows later
        slots[number] = next(waiting, None)
  sizes = np.array(sizes, np.int64)
  ends = np.cumsum(sizes)
  within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(
    ends - sizes, sizes
  )
  return (
    np.repeat(np.array(files, np.int64), sizes),
    np.repeat(np.array(starts, np.int64), sizes) + within,
  )


class Records:
  """The records of TFRecord files by their positions in an order.

  Args:
    paths: of the files.
    names: of the files, for the ids of examples.
    file: [n] index of the file of each position.
    place: [n] place of its record in the file.
  """

  def __init__(
    self,
    paths: Sequence[str],
    names: Sequence[str],
    file: np.ndarray,
    place: np.ndarray,
  ):
    self._paths, self._names = paths, names
    self._file, self._place = file, place

  def read(self, position: int) -> tuple[bytes, str]:
    """Returns the record at a position, with the id of its example.

    Raises:
      InputError: the file is damaged there.
      OSError: it cannot be read.
    """
    number, place = int(self._file[position]), int(self._place[position])
    path = self._paths[number]
    starts = offsets(path)
    if place >= len(starts):
      raise InputError(
        f'{path} has {len(starts)} records, and its data set counts at least '
        f'{place + 1}; prepare the data set again'
      )
    try:
      record, _ = _reader(path, threading.get_ident()).read(int(starts[place]))
    except (tensorflow().errors.OpError, IndexError) as error:
      text = getattr(error, 'message', str(error))
      raise InputError(f'{path} is damaged at record {place}: {text}') from None
    return record, f'{self._names[number]}__{place}'

  def reordered(
    self, order: np.ndarray, start: int, buffer: int
  ) -> Iterator[tuple[bytes, str]]:
    """Yields records in an order, and reads them as a shuffle would.

    A shuffle reads ahead by its buffer, in the order of the files. So does this
    function. What the buffer had at the start is read when it is needed.

    Args:
      order: [n] position of each example of the epoch.
      start: number of examples to leave out at the beginning.
      buffer: number of records that are held in memory.
    """
    held: dict[int, tuple[bytes, str]] = {}
    first = min(len(order), start + buffer)
    coming = iter(range(first, len(order)))
    for position in order[start:].tolist():
      if position < first:
        yield self.read(position)
        continue
      while position not in held:
        place = next(coming)
        held[place] = self.read(place)
      yield held.pop(position)

  def dataset(self, order: np.ndarray, start: int, buffer: int = 1) -> Any:
    """Returns `reordered` as a tf.data.Dataset of serialized and id."""
    tf = tensorflow()

    def chunks():
      rest = self.reordered(order, start, buffer)
      while chunk := list(itertools.islice(rest, _CHUNK)):
        serialized, ids = zip(*chunk, strict=True)
        yield {'serialized': serialized, 'id': ids}

    spec = tf.TensorSpec([None], tf.string)
    signature = {'serialized': spec, 'id': spec}
    found = tf.data.Dataset.from_generator(chunks, output_signature=signature)
    return found.unbatch()


@functools.lru_cache(maxsize=4096)  # files
def offsets(path: str) -> np.ndarray:
  """Returns the first byte of each record of a TFRecord file.

  Only the lengths of the records are read.

  Raises:
    InputError: the file ends within a record.
    OSError: it cannot be read.
  """
  found, at = [], 0
  with open(path, 'rb', buffering=0) as file:
    end = os.fstat(file.fileno()).st_size
    while at < end:
      found.append(at)
      file.seek(at)
      length = int.from_bytes(file.read(8), 'little')
      at += _HEADER + length + _FOOTER
  if at != end:
    raise InputError(
      f'{path} is damaged: it ends within record {len(found) - 1}; restore or '
      'prepare it again'
    )
  return np.array(found, np.int64)


@functools.lru_cache(maxsize=128)  # open files
def _reader(path, thread):
  """Returns a reader of one thread, which checks the records' checksums."""
  del thread
  from tensorflow.python.lib.io import tf_record

  return tf_record.tf_record_random_reader(path)
