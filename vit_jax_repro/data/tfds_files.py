"""Prepared TFDS data sets, read from their files.

An example is known by its file's name and its place in it, as TFDS has it:
'cifar10-train.tfrecord-00000-of-00001__17'.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from vit_jax_repro.data import catalogue
from vit_jax_repro.data.order import fold_in
from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.errors import InputError

# How many files are read in turn and how many examples at a time. The order
# of examples depends on them.
_FILES_AT_ONCE = 16
_EXAMPLES_IN_TURN = 16

_FILES, _EXAMPLES = range(2)  # keys, by what is shuffled with them


def _same(value, *_):
  return value


def _multi_hot(labels, num_classes):  # [n] int64 -> [K] int64
  tf = tensorflow()
  hot = tf.one_hot(labels, num_classes, True, False, dtype=tf.bool)  # [n, K]
  return tf.cast(tf.reduce_any(hot, axis=0), tf.int64)


@dataclasses.dataclass(frozen=True)
class ExampleReading:
  """How image and label come out of an example, in TensorFlow operations."""

  feature: str = 'label'  # what the label is made from
  parts: tuple[str, ...] = ()  # of it, where it is a sequence of dicts
  # (decoded feature, K) -> label, int64: a scalar, or [K] with 1 for each
  # class that the image is of.
  label: Callable = _same
  multi_label: bool = False  # whether labels are [K]
  class_names: tuple[str, ...] = ()  # empty: those of the feature
  image: Callable = _same  # encoded file -> encoded file
  name: str = ''  # that sets it apart from others of the same data set

  def names(self, features):
    """The class names, a tuple; features: what the data set consists of."""
    feature = features[self.feature]
    return self.class_names or tuple(getattr(feature, 'feature', feature).names)

  def wanted(self):
    """What is decoded, a tfds.decode.PartialDecoding."""
    import tensorflow_datasets as tfds

    parts = dict.fromkeys(self.parts, True) if self.parts else True
    return tfds.decode.PartialDecoding(
      {'image': True, self.feature: parts},
      decoders={'image': tfds.decode.SkipDecoding()},
    )

  def check(self, name, features):
    """Refuses a data set that has nothing to read, with a ValueError."""
    import tensorflow_datasets as tfds

    has = dict(features.items()) if hasattr(features, 'items') else {}
    feature = has.get(self.feature)
    if self.multi_label and isinstance(feature, tfds.features.Sequence):
      feature = feature.feature
    readable = isinstance(feature, tfds.features.ClassLabel)
    readable |= bool(self.class_names) and feature is not None
    if not (readable and isinstance(has.get('image'), tfds.features.Image)):
      raise InputError(
        f'data set {name!r} is no image classification set: it needs an '
        f"'image' and a class {self.feature!r}, and has {sorted(has)}"
      )


IMAGE_AND_LABEL = ExampleReading()
READINGS = {  # by TFDS's name; that of all others is IMAGE_AND_LABEL
  'imagenet2012_real': ExampleReading(
    feature='real_label', label=_multi_hot, multi_label=True
  )
}


@dataclasses.dataclass(frozen=True)
class Files:
  """What a split specification means, in a data set that is prepared."""

  name: str
  builder: Any  # tfds.core.DatasetBuilder
  split: str
  reading: ExampleReading
  # Of TFDS's instructions, each for one example; None: all of the split.
  chosen: tuple[Any, ...] | None = None

  @property
  def num_examples(self):
    return sum(file.take for file in self._files())

  @property
  def class_names(self):
    return self.reading.names(self.builder.info.features)

  @property
  def multi_label(self):
    return self.reading.multi_label

  def examples(self, process_index, process_count):
    """See datasets.Split.examples."""
    files = self._files(process_index, process_count)
    return _read(*_columns(files))

  def shuffled(self, key, shuffle_buffer, process_index, process_count):
    """See datasets.Split.shuffled."""
    tf = tensorflow()
    files = self._files(process_index, process_count)
    order = tf.random.experimental.stateless_shuffle(
      tf.range(len(files)), fold_in(key, _FILES), alg='philox'
    )
    columns = (tf.gather(column, order) for column in _columns(files))
    seed = tf.random.stateless_uniform(
      [], fold_in(key, _EXAMPLES), None, None, tf.int64, alg='philox'
    )
    return _read(*columns).shuffle(
      min(shuffle_buffer, sum(file.take for file in files)),
      seed=seed,
      reshuffle_each_iteration=False,
    )

  def load(self, example):
    """See datasets.Split.load."""
    image, label = self._decode(example)
    return {
      'image': self.reading.image(image),
      'label': label,
      'id': example['id'],
    }

  def locate(self, example_id):
    """See datasets.Split.locate."""
    return f'{example_id} of {self.name!r}'

  def contents(self):
    """See datasets.Split.fingerprint."""
    import tensorflow_datasets as tfds

    yield self.builder.info.full_name
    if self.reading.name:
      yield self.reading.name
    for file in self._files():
      size = tfds.core.Path(file.filename).stat().length
      yield file.basename(), size, file.examples_in_shard, file.skip, file.take

  def all_labels(self):
    """[num_examples] labels, in the order of TFDS's instructions."""
    labels = []
    tf = tensorflow()
    for file in self._files():
      one_file = _read(*_columns([file])).map(
        lambda example: self._decode(example)[1],
        num_parallel_calls=tf.data.AUTOTUNE,
      )
      labels += list(one_file.as_numpy_iterator())
    return np.array(labels, np.int64)

  def subset(self, positions):
    """The examples at these positions, counted as in `all_labels`."""
    singles = [
      dataclasses.replace(file, skip=place, take=1)
      for file in self._files()
      for place in range(file.skip, file.skip + file.take)
    ]
    return dataclasses.replace(
      self, chosen=tuple(singles[i] for i in positions)
    )

  def _decode(self, example):
    """An encoded image and a label, of what was read."""
    wanted = self.reading.wanted()
    features = wanted.extract_features(self.builder.info.features)
    decoded = features.deserialize_example(
      example['serialized'], decoders=wanted.decoders
    )
    label = self.reading.label(
      decoded[self.reading.feature], len(self.class_names)
    )
    return decoded['image'], label

  def _files(self, process_index=0, process_count=1):
    """TFDS's instructions on what to read: (filename, skip, take) and more."""
    if self.chosen is not None:
      return self.chosen[process_index::process_count]
    splits = self.builder.info.splits
    part = _part(self.split, splits, process_index, process_count)
    return splits[part].file_instructions


def open_files(name, split, builder, reading=None):
  """The files of a split; raises what datasets.open_split says.

  Args:
    name: as it shall be called in messages.
    split: as TFDS writes it.
    builder: of a data set that is prepared.
    reading: None means what READINGS has for it.
  """
  import tensorflow_datasets as tfds

  if reading is None:
    reading = READINGS.get(builder.name, IMAGE_AND_LABEL)
  reading.check(name, builder.info.features)
  file_format = builder.info.file_format
  if file_format not in (None, tfds.core.FileFormat.TFRECORD):
    raise InputError(
      f'data set {name!r} is stored as {file_format.value}, and only tfrecord '
      'is read; run `tfds convert_format --out_file_format=tfrecord '
      f'--dataset_version_dir={builder.data_path}`'
    )
  try:
    num_examples = builder.info.splits[split].num_examples
  except (KeyError, ValueError, AssertionError):
    num_examples = 0
  if num_examples < 1:
    sizes = {s: info.num_examples for s, info in builder.info.splits.items()}
    row = catalogue.find(name)
    named = f', {", ".join(row.splits)}' if row and row.splits else ''
    raise InputError(
      f'no split {split!r} with images in data set {name!r}; choose from '
      f'{sorted(sizes)}{named} or a part such as train[:98%]; it has {sizes}'
    )
  return Files(name, builder, split, reading)


def _columns(files):
  """Paths, names, first and last + 1 examples, one tensor each."""
  tf = tensorflow()
  first = np.array([file.skip for file in files], np.int64)
  count = np.array([file.take for file in files], np.int64)
  paths = tf.constant([str(file.filename) for file in files], tf.string)
  names = tf.constant([file.basename() for file in files], tf.string)
  return paths, names, tf.constant(first), tf.constant(first + count)


def _read(*columns):
  """Dataset of {'serialized': string, 'id': string}, files in turn."""
  tf = tensorflow()

  def one_file(path, name, first, stop):
    records = tf.data.TFRecordDataset(path).skip(first)
    places = tf.data.Dataset.range(first, stop)
    return tf.data.Dataset.zip(records, places).map(
      lambda record, place: {
        'serialized': record,
        'id': tf.strings.join([name, tf.strings.as_string(place)], '__'),
      }
    )

  return tf.data.Dataset.from_tensor_slices(columns).interleave(
    one_file,
    cycle_length=_FILES_AT_ONCE,
    block_length=_EXAMPLES_IN_TURN,
    num_parallel_calls=tf.data.AUTOTUNE,
    deterministic=True,
  )


def _part(split, splits, process_index, process_count):
  """One process's share, contiguous, of what a split specification means.

  `tfds.even_splits` divides each term of a sum such as 'train[90%:]+test' by
  itself, so that the shares of a sum differ by more than one example.
  """
  import tensorflow_datasets as tfds

  terms = []  # (name, first, end)
  for term in tfds.core.ReadInstruction.from_spec(split).to_absolute(splits):
    end = splits[term.splitname].num_examples if term.to is None else term.to
    terms.append((term.splitname, term.from_ or 0, end))
  size, extra = divmod(sum(e - f for _, f, e in terms), process_count)
  start = process_index * size + min(process_index, extra)
  stop = start + size + (process_index < extra)
  parts = []
  for name, first, end in terms:
    low, high = max(first, first + start), min(end, first + stop)
    if low < high:
      parts.append(
        tfds.core.ReadInstruction(name, from_=low, to=high, unit='abs')
      )
    start, stop = start - (end - first), stop - (end - first)
  return functools.reduce(operator.add, parts)
