"""Few-shot linear accuracy of a weights file on a data set."""

import dataclasses
import os
import statistics
import time

import jax
import numpy as np

from vit_jax_repro.data import datasets, labels, pipeline, preprocess, subsets
from vit_jax_repro.data.tf_host import parallel_map, tensorflow
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference import least_squares
from vit_jax_repro.inference.restoring import restore
from vit_jax_repro.output.messages import note
from vit_jax_repro.parallel import mesh as meshes

# Of these two the protocol takes the scale, to [-1, 1], and not the resizing:
# it resizes the short side to 256 and crops 224 (big_vision,
# configs/common_fewshot.py), which for other sizes is done in proportion.
_SQUASHING = ('vit_jax', 'bit')
PREPROCESSING = 'big_vision'
IMAGE_SIZE = (224, 224)  # where a file leaves it open, as BiT's do


@dataclasses.dataclass(frozen=True)
class Shots:
  """Accuracies with a given number of images of each class."""

  shots: int
  accuracies: tuple[float, ...]  # fractions, of each seed
  correct: tuple[int, ...]  # test images, of each seed
  mean: float
  spread: float  # standard deviation over the seeds; 0 for one


@dataclasses.dataclass(frozen=True)
class FewShot:
  """The result of `fewshot`."""

  results: tuple[Shots, ...]
  num_examples: int  # of the test split, that accuracies are of
  num_classes: int  # of the data set
  seeds: int  # how many
  l2: float
  feature_size: int
  weights: str
  dataset: str
  train_split: str
  split: str
  model: str
  image_size: tuple[int, int]
  preprocessing: str
  seconds: float
  # A line on each image that could not be decoded, as in jobs.Evaluation:
  # those to learn from are left out, those of the test split count as wrong.
  unreadable: tuple[str, ...] = ()


def fewshot(
  weights,
  dataset,
  *,
  shots=least_squares.SHOTS,
  seeds=least_squares.SEEDS,
  l2=least_squares.L2,
  model=None,
  train_split='train',
  split='test',
  batch_size=64,
  preprocessing=None,
  image_size=None,
  data_dir=None,
):
  """Returns the accuracy of least squares on features of a few images a class.

  The head of the file is not used and may be zeros. `least_squares` has the
  method, `choose` picks the images to learn from.

  Args:
    weights, model: see `restoring.restore`.
    dataset, data_dir: see data.datasets.open_split.
    shots: numbers of images of each class.
    seeds: how many choices of them; the seeds are 0, 1, ...
    l2: see inference.least_squares.fit.
    train_split: the split that the images are chosen from.
    split: the split that is predicted, every image counted once.
    batch_size: images a step, over all processes and devices; any number.
    preprocessing: by default the file's, but the protocol's 'big_vision' in
      place of 'bit' and 'vit_jax'.
    image_size: by default the file's, else 224.

  Returns:
    FewShot.

  Raises:
    InputError: one line on anything wrong with the arguments or the files, on
      a class that has fewer images, or on a data set with several labels an
      image.
    OSError: a file or data set is not there or cannot be read.
  """
  shots = tuple(shots)
  _check(shots, seeds, l2, batch_size)
  restored = _restored(weights, model, image_size, preprocessing)
  started = time.perf_counter()
  test = datasets.open_split(dataset, split, data_dir=data_dir)
  train = datasets.open_split(dataset, train_split, data_dir=data_dir)
  choice = choose(train, shots, range(seeds))
  unreadable = []
  features = _Features(restored, batch_size, unreadable)
  rows, places = features.extract(choice.split)
  row_of = {place: row for row, place in enumerate(places) if place >= 0}
  test_rows, test_labels = features.extract(test)
  correct = {}
  for key, chosen in choice.places.items():
    readable = [place for place in chosen if place in row_of]
    head = least_squares.fit(
      rows[[row_of[place] for place in readable]],
      choice.labels[readable],
      test.num_classes,
      l2=l2,
    )
    correct[key] = int((head.predict(test_rows) == test_labels).sum())
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
    seconds=time.perf_counter() - started,
    unreadable=tuple(dict.fromkeys(unreadable)),
  )


class _Features:
  """Features and labels of a split, from a restored model."""

  def __init__(self, restored, batch_size, unreadable):
    self._restored = restored
    self._batch_size = -(-batch_size // jax.process_count())
    self._unreadable = unreadable
    self._mesh = meshes.create_mesh()
    self._params = meshes.replicate(restored.params, self._mesh)

  def extract(self, source):
    restored = self._restored
    batches = pipeline.evaluation_batches(
      source,
      preprocessing=restored.preprocessing,
      image_size=restored.image_size,
      batch_size=self._batch_size,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
      report=lambda *fault: self._unreadable.append(
        preprocess.undecodable(*fault)
      ),
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


def _restored(weights, model, image_size, preprocessing):
  restored = restore(
    weights,
    model,
    image_size,
    preprocessing,
    default_image_size=IMAGE_SIZE,
  )
  if preprocessing is None and restored.preprocessing in _SQUASHING:
    note(
      f'images are read by {PREPROCESSING!r}, as the few-shot protocol says, '
      f'and not by {restored.preprocessing!r}'
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


@dataclasses.dataclass(frozen=True)
class ChosenImages:
  """The images that all shots and seeds need, each once."""

  labels: np.ndarray  # [n] int64
  places: dict  # (shots, seed): places in `labels`, [K * shots]
  split: object  # of these images; their label is their place in `labels`


def choose(split: datasets.Split, shots, seeds) -> ChosenImages:
  """Chooses `shots` images of each class for each seed.

  All labels are read, and no image is decoded.

  Args:
    split: to choose from.
    shots: numbers of images of a class.
    seeds: integers that are not negative.

  Raises:
    InputError: a class has fewer images, or the data set several labels an
      image.
  """
  if split.multi_label:
    raise InputError(
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


def _found(split):
  """Returns ids and labels of all examples, sorted by id."""

  def named(example):
    record = split.load(example)
    return record['id'], record['label']

  found = parallel_map(split.examples(), named).batch(1024)
  ids, labels = zip(*found.as_numpy_iterator(), strict=True)
  ids, labels = np.concatenate(ids), np.concatenate(labels)
  order = np.argsort(ids)
  return ids[order], labels[order]


class _Images:
  """A part of a datasets.Split in which each image is a class of its own."""

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
    """Returns the place of an id among ours, -1 if it is not; in TensorFlow."""
    tf = tensorflow()
    if self._table is None:
      with tf.init_scope():  # outlives the function that is being traced
        places = tf.lookup.KeyValueTensorInitializer(
          tf.constant(self._ids), tf.range(len(self._ids), dtype=tf.int64)
        )
        self._table = tf.lookup.StaticHashTable(places, -1)
    return self._table.lookup(example_id)
