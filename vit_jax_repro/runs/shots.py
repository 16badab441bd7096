"""Which images few-shot evaluation learns from, and a split of them alone.

A seed shuffles the images of each class, and the first ones are taken, so that
the 1-shot images are among the 5-shot ones, as in google-research/big_vision,
evaluators/fewshot_lsr.py. Images are put in the order of their ids first, which
neither the machine nor the number of processes changes.
"""

import dataclasses

import numpy as np

from vit_jax_repro.data import datasets, subsets
from vit_jax_repro.data.tensorflow_cpu import parallel_map, tensorflow


@dataclasses.dataclass(frozen=True)
class Choice:
  """The images that all shots and seeds need, each once."""

  labels: np.ndarray  # [n] int64
  places: dict  # (shots, seed): places in `labels`, [K * shots]
  split: object  # of these images; their label is their place in `labels`


def choose(split: datasets.Split, shots, seeds) -> Choice:
  """Chooses `shots` images of each class for each seed.

  All labels are read, and no image is decoded.

  Args:
    split: to choose from.
    shots: numbers of images of a class.
    seeds: integers that are not negative.

  Raises:
    ValueError: a class has fewer images, or the data set several labels an
      image.
  """
  if split.multi_label:
    raise ValueError(
      f'data set {split.name!r} has several labels an image, and few-shot '
      'evaluation wants one; use another data set'
    )
  ids, labels = _found(split)
  try:
    chosen = {
      (number, seed): subsets.balanced(labels, split.num_classes, number, seed)
      for number in shots
      for seed in seeds
    }
  except ValueError as error:
    raise ValueError(
      f'split {split.split!r} of {split.name!r}: {error}'
    ) from None
  used = np.unique(np.concatenate(list(chosen.values())))
  return Choice(
    labels=labels[used],
    places={k: np.searchsorted(used, rows) for k, rows in chosen.items()},
    split=_Images(split, ids[used]),
  )


def _found(split):
  """Ids and labels of all examples, sorted by id."""

  def named(example):
    record = split.load(example)
    return record['id'], record['label']

  found = parallel_map(split.examples(), named).batch(1024)
  ids, labels = zip(*found.as_numpy_iterator(), strict=True)
  ids, labels = np.concatenate(ids), np.concatenate(labels)
  order = np.argsort(ids)
  return ids[order], labels[order]


class _Images:
  """As much of a datasets.Split as evaluation uses; each image is a class."""

  multi_label = False

  def __init__(self, split, ids):
    self._split = split
    self._ids = ids
    self.num_examples = self.num_classes = len(ids)
    self._table = None

  def part_size(self, process_index, process_count):
    return len(range(process_index, self.num_examples, process_count))

  def examples(self, process_index, process_count):
    wanted = self._split.examples().filter(
      lambda example: self._place(example['id']) >= 0
    )
    return wanted.shard(process_count, process_index)

  def load(self, example):
    record = self._split.load(example)
    return {**record, 'label': self._place(record['id'])}

  def locate(self, example_id):
    return self._split.locate(example_id)

  def _place(self, example_id):
    """The place of an id among ours, -1 if it is not; in TensorFlow."""
    tf = tensorflow()
    if self._table is None:
      with tf.init_scope():  # outlives the function that is being traced
        places = tf.lookup.KeyValueTensorInitializer(
          tf.constant(self._ids), tf.range(len(self._ids), dtype=tf.int64)
        )
        self._table = tf.lookup.StaticHashTable(places, -1)
    return self._table.lookup(example_id)
