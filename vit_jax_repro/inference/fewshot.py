"""Few-shot linear accuracy of a weights file on a data set.

`choose` draws the images of each class, `fewshot` fits classifiers to their
features and evaluates them on a test split.
"""

import dataclasses
import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vit_jax_repro.data import (
  class_checks,
  datasets,
  labels,
  pipeline,
  preprocess,
  split_records,
  subsets,
)
from vit_jax_repro.data.tf_host import parallel_map, tensorflow
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference import least_squares, process_facts
from vit_jax_repro.inference.restoring import restore
from vit_jax_repro.output import waiting
from vit_jax_repro.output.messages import listed, note, note_unapplied
from vit_jax_repro.parallel import host_memory
from vit_jax_repro.parallel import mesh as meshes
from vit_jax_repro.published import weight_names

# Preprocessings that resize to a square. The few-shot protocol has the same
# scale, [-1, 1], but resizes the short side to 256 and crops 224 (big_vision,
# configs/common_fewshot.py). Other image sizes are resized in proportion.
_SQUARE = ('vit_jax', 'bit')
PREPROCESSING = 'big_vision'
IMAGE_SIZE = (224, 224)  # for files without an image size, such as BiT's


@dataclasses.dataclass(frozen=True)
class Shots:
  """Accuracies after learning from a given number of images of each class."""

  shots: int
  accuracies: tuple[float, ...]  # a fraction for each seed
  correct: tuple[int, ...]  # number of test images for each seed
  mean: float
  spread: float  # standard deviation over the seeds; 0 for one


@dataclasses.dataclass(frozen=True)
class FewShot:
  """The result of `fewshot`."""

  results: tuple[Shots, ...]
  num_examples: int  # images of the test split, denominator of the accuracies
  num_classes: int  # of the data set
  seeds: int  # number of seeds
  l2: float
  feature_size: int
  weights: str
  dataset: str
  train_split: str
  split: str
  model: str
  image_size: tuple[int, int]
  preprocessing: str
  orientation: str  # 'exif' or 'none', see `evaluate`
  seconds: float
  # One line for each image that could not be decoded, as in jobs.Evaluation.
  # Training images are left out, test images count as wrong.
  unreadable: tuple[str, ...] = ()
  notes: tuple[str, ...] = ()  # on the data, as in jobs.Evaluation


def fewshot(
  weights: str | os.PathLike,
  dataset: str,
  *,
  shots: Sequence[int] = least_squares.SHOTS,
  seeds: int = least_squares.SEEDS,
  l2: float = least_squares.L2,
  model: str | None = None,
  train_split: str = 'train',
  split: str = 'test',
  batch_size: int = 64,
  preprocessing: str | None = None,
  image_size: int | tuple[int, ...] | list[int] | None = None,
  data_dir: str | None = None,
  orientation: str | None = None,
) -> FewShot:
  """Measures the accuracy of a linear classifier from a few images a class.

  The classifier is fitted by least squares on the features of the model, see
  `least_squares`; `choose` draws the images to learn from. The head of the file
  is not used and may be all zeros.

  Args:
    weights, model: see `restoring.restore`.
    dataset, data_dir: see data.datasets.open_split.
    shots: numbers of images of each class.
    seeds: number of draws; the seeds are 0, 1, ...
    l2: see least_squares.fit.
    train_split: the split from which the images are drawn.
    split: the test split; every image counts once.
    batch_size: images of a step, over all processes and devices; any number.
    preprocessing: by default the file's, or the protocol's 'big_vision' if the
      file's is 'bit' or 'vit_jax'.
    image_size: by default the file's, else 224.
    orientation: as for `evaluate`.

  Returns:
    The accuracies and the settings of the evaluation.

  Raises:
    InputError: an argument or a file is wrong, a class has too few images, the
      data set has several labels for an image, or processes differ. The message
      is one line.
    OSError: a file or data set is missing or cannot be read.
  """
  shots = tuple(shots)
  _check(shots, seeds, l2, batch_size)
  restored = _restored(weights, model, image_size, preprocessing, orientation)
  started = time.perf_counter()
  test, train = (
    datasets.open_split(
      dataset,
      part,
      data_dir=data_dir,
      division=split_records.of_weights(weight_names.on_disk(weights)),
    )
    for part in (split, train_split)
  )
  restored = restored.for_data(test)
  notes = [*test.divided_notes, *train.notes, *test.notes]
  notes += class_checks.check_training(train, test)
  for line in notes:
    note(line)
  choices = dict(shots=shots, seeds=seeds, l2=l2, batch_size=batch_size)
  process_facts.require_same(restored, test, train, **choices)
  with waiting.doing(f'reading the labels of {train.num_examples:,} images'):
    choice = choose(train, shots, range(seeds))
  faults: list[tuple[str, str]] = []  # (name, reason)
  features = _Features(restored, batch_size, faults, test.is_folder)
  rows, places = features.extract(choice.split)
  drawn = len(faults)
  row_of = {place: row for row, place in enumerate(places) if place >= 0}
  test_rows, test_labels = features.extract(test)
  note_unapplied(features.turned)
  wrong = (name for name, _ in faults[drawn:])
  counts = class_checks.unreadable_by_class(test, wrong)
  lost = class_checks.notes_on_unreadable(test, counts, 'they count as wrong')
  correct = {}
  for key, chosen in choice.places.items():
    readable = [place for place in chosen if place in row_of]
    gone = set(choice.labels[chosen]) - set(choice.labels[readable])
    if gone:
      classes = listed(train.class_names[label] for label in gone)
      lost.append(
        f'{key[0]} shots, seed {key[1]}: no image of {len(gone)} of '
        f'{train.num_classes} classes can be decoded ({classes}), so that they '
        'are never the answer'
      )
    with waiting.doing(f'fitting: {key[0]} shots, seed {key[1]}'):
      head = least_squares.fit(
        rows[[row_of[place] for place in readable]],
        choice.labels[readable],
        test.num_classes,
        l2=l2,
      )
    correct[key] = int((head.predict(test_rows) == test_labels).sum())
  for line in lost:
    note(line)
  unreadable = [preprocess.undecodable(*fault) for fault in faults]
  return FewShot(
    results=tuple(
      _summary(number, [correct[number, seed] for seed in range(seeds)], test)
      for number in shots
    ),
    num_examples=test.num_examples,
    num_classes=test.num_classes,
    seeds=seeds,
    l2=l2,
    feature_size=test_rows.shape[1],
    weights=os.fspath(weights),
    dataset=dataset,
    train_split=train_split,
    split=split,
    model=restored.name,
    image_size=restored.image_size,
    preprocessing=restored.preprocessing,
    orientation=restored.orientation,
    seconds=time.perf_counter() - started,
    unreadable=tuple(dict.fromkeys(unreadable)),
    notes=(*notes, *lost),
  )


@dataclasses.dataclass(frozen=True)
class ChosenImages:
  """The union of the images drawn for all shots and seeds.

  Fields:
    labels: [n] int64.
    places: {(shots, seed): indices into `labels`, [K * shots]}.
    split: the drawn images as a data split, in which the label of an image is
      its index into `labels`.
  """

  labels: np.ndarray
  places: dict[tuple[int, int], np.ndarray]
  split: Any


def choose(
  split: datasets.Split, shots: Sequence[int], seeds: Sequence[int]
) -> ChosenImages:
  """Draws images of each class, for all numbers of shots and all seeds.

  Reads all labels, but decodes no image.

  Args:
    split: the split to draw from.
    shots: numbers of images of a class.
    seeds: non-negative integers.

  Raises:
    InputError: a class has too few images, or the data set has several labels
      for an image.
  """
  if split.multi_label:
    raise InputError(
      f'data set {split.name!r} has several labels for an image, but few-shot '
      'evaluation needs one; use another data set'
    )
  ids, labels = _found(split)
  try:
    chosen = {
      (number, seed): subsets.balanced(labels, split.num_classes, number, seed)
      for number in shots
      for seed in seeds
    }
  except InputError as error:
    raise InputError(
      f'split {split.split!r} of {split.name!r}: {error}'
    ) from None
  used = np.unique(np.concatenate(list(chosen.values())))
  return ChosenImages(
    labels=labels[used],
    places={k: np.searchsorted(used, rows) for k, rows in chosen.items()},
    split=_Images(split, ids[used]),
  )


class _Features:
  """Features and labels of a split, from a restored model."""

  def __init__(self, restored, batch_size, faults, is_folder):
    self._restored = restored
    self._is_folder = is_folder
    self._batch_size = host_memory.rows_at_once(
      -(-batch_size // jax.process_count()), restored.image_size
    )
    self._faults = faults
    self._mesh = meshes.create_mesh()
    self._params = meshes.replicate(restored.params, self._mesh)
    # Ids of images with an EXIF orientation that is not applied.
    self.turned: set[str] = set()

  def extract(self, source):
    restored = self._restored
    batches = pipeline.evaluation_batches(
      source,
      preprocessing=restored.preprocessing,
      image_size=restored.image_size,
      batch_size=self._batch_size,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      report=lambda *fault: self._faults.append(fault),
      orientation=restored.orientation,
      turned=self.turned if self._is_folder else None,
    )
    return least_squares.features(
      restored.model,
      self._params,
      labels.translated(batches, None, source.num_classes),
      self._mesh,
      num_examples=source.num_examples,
    )


def _check(shots, seeds, l2, batch_size):
  if not shots or min(shots) < 1 or len(set(shots)) < len(shots):
    raise InputError(
      f'shots={list(shots)} must be different numbers of images of a class, at '
      'least 1 each'
    )
  if seeds < 1:
    raise InputError(f'{seeds=} must be at least 1')
  if not l2 > 0:
    raise InputError(f'{l2=} must be a positive number')
  if batch_size < 1:
    raise InputError(f'{batch_size=} must be at least 1')


def _restored(weights, model, image_size, preprocessing, orientation):
  restored = restore(
    weights,
    model,
    image_size,
    preprocessing,
    default_image_size=IMAGE_SIZE,
    orientation=orientation,
  )
  if preprocessing is None and restored.preprocessing in _SQUARE:
    note(
      f'images are preprocessed by {PREPROCESSING!r}, as in the few-shot '
      f'protocol, not by {restored.preprocessing!r}'
    )
    return dataclasses.replace(restored, preprocessing=PREPROCESSING)
  return restored


def _summary(number, correct, test):
  accuracies = [count / test.num_examples for count in correct]
  return Shots(
    shots=number,
    accuracies=tuple(accuracies),
    correct=tuple(correct),
    mean=statistics.mean(accuracies),
    spread=statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0,
  )


def _found(split):
  """Returns the ids and labels of all examples, sorted by id."""

  def named(example):
    record = split.load(example)
    return record['id'], record['label']

  found = parallel_map(split.examples(), named).batch(1024)
  ids, labels = zip(*found.as_numpy_iterator(), strict=True)
  ids, labels = np.concatenate(ids), np.concatenate(labels)
  order = np.argsort(ids)
  return ids[order], labels[order]


class _Images:
  """A part of a datasets.Split in which each image is its own class."""

  multi_label = False

  def __init__(self, split, ids):
    self._split = split
    self._ids = ids
    self.num_examples = self.num_classes = len(ids)
    self._table = None

  def part_size(self, process_index, process_count):
    return len(range(process_index, self.num_examples, process_count))

  def examples(self, process_index, process_count, start=0):
    wanted = self._split.examples().filter(
      lambda example: self._place(example['id']) >= 0
    )
    return wanted.shard(process_count, process_index).skip(start)

  def load(self, example):
    record = self._split.load(example)
    return {**record, 'label': self._place(record['id'])}

  def locate(self, example_id):
    return self._split.locate(example_id)

  def _place(self, example_id):
    """Returns the TensorFlow index of an id in `self._ids`; -1 if absent."""
    tf = tensorflow()
    if self._table is None:
      with tf.init_scope():  # the table outlives the traced function
        places = tf.lookup.KeyValueTensorInitializer(
          tf.constant(self._ids), tf.range(len(self._ids), dtype=tf.int64)
        )
        self._table = tf.lookup.StaticHashTable(places, -1)
    return self._table.lookup(example_id)
