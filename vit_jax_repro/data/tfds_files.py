"""Reading of prepared TFDS data sets from their files.

The id of an example is TFDS's: the name of its file and its position there, as
in 'cifar10-train.tfrecord-00000-of-00001__17'.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

import numpy as np

from vit_jax_repro.data import catalogue, record_index
from vit_jax_repro.data.order import fold_in
from vit_jax_repro.data.split_parts import UnknownSplitError
from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import locations

# Files that are interleaved, and consecutive examples of each. The order of
# examples depends on both.
_FILES_AT_ONCE = 16
_EXAMPLES_IN_TURN = 16

# Bytes of the examples that are shuffled at a time, at most: 9,700 of ImageNet.
_BUFFER = 2**30
_POSITIONS = 2**16  # that go from TensorFlow to Python at a time
_PIECE = 2**14  # bytes of a file that are compared at a time
_FILES, _EXAMPLES = range(2)  # random keys of the two shuffles


def _same(value, *_):
  return value


def _multi_hot(labels, num_classes):  # [n] int64 -> [K] int64
  tf = tensorflow()
  hot = tf.one_hot(labels, num_classes, True, False, dtype=tf.bool)  # [n, K]
  return tf.cast(tf.reduce_any(hot, axis=0), tf.int64)


@dataclasses.dataclass(frozen=True)
class ExampleReading:
  """TensorFlow operations that convert an example to image and label."""

  feature: str = 'label'  # the feature that gives the label
  parts: tuple[str, ...] = ()  # its decoded keys, if it is a sequence of dicts
  # (decoded feature, K) -> label, int64: a scalar, or [K] with 1 for each
  # class of the image.
  label: Callable = _same
  multi_label: bool = False  # whether labels are [K]
  class_names: tuple[str, ...] = ()  # empty: those of the feature
  image: Callable = _same  # encoded file -> encoded file
  name: str = ''  # distinguishes several readings of one data set

  def names(self, features: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the class names; features: those of the data set's info."""
    feature = features[self.feature]
    return self.class_names or tuple(getattr(feature, 'feature', feature).names)

  def wanted(self) -> Any:
    """Returns the tfds.decode.PartialDecoding of the features it needs."""
    import tensorflow_datasets as tfds

    parts = dict.fromkeys(self.parts, True) if self.parts else True
    return tfds.decode.PartialDecoding(
      {'image': True, self.feature: parts},
      decoders={'image': tfds.decode.SkipDecoding()},
    )

  def check(self, name: str, features: Any) -> None:
    """Raises InputError if a data set's features do not fit this reading.

    Args:
      name: the data set's name in the message.
      features: those of the data set's info.
    """
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
READINGS = {  # by TFDS's name; all others have IMAGE_AND_LABEL
  'imagenet2012_real': ExampleReading(
    feature='real_label', label=_multi_hot, multi_label=True
  )
}


@dataclasses.dataclass(frozen=True)
class Files:
  """The examples of a split of a prepared data set."""

  name: str
  builder: Any  # tfds.core.DatasetBuilder
  split: str
  reading: ExampleReading
  # TFDS's FileInstructions of one example each; None: the whole split.
  chosen: tuple[Any, ...] | None = None

  @property
  def num_examples(self) -> int:
    """Returns the number of examples."""
    return _size(self._files())

  @property
  def class_names(self) -> tuple[str, ...]:
    """Returns the class names in label order."""
    return self.reading.names(self.builder.info.features)

  @property
  def multi_label(self) -> bool:
    """Returns whether an image may have several classes, or none."""
    return self.reading.multi_label

  def examples(
    self, process_index: int, process_count: int, start: int = 0
  ) -> Any:
    """Implements datasets.Split.examples."""
    files = self._files(process_index, process_count)
    if not start or not _are_local(files):
      return _read(*_columns(files)).skip(start)
    return _records(files).dataset(np.arange(_size(files)), start)

  def shuffled(
    self,
    key: Any,
    shuffle_buffer: int,
    process_index: int,
    process_count: int,
    start: int = 0,
  ) -> Any:
    """Implements datasets.Split.shuffled."""
    tf = tensorflow()
    files = self._files(process_index, process_count)
    size, buffer = _size(files), self.buffered(shuffle_buffer)[0]
    file_order = tf.random.experimental.stateless_shuffle(
      tf.range(len(files)), fold_in(key, _FILES), alg='philox'
    )
    if not start or not _are_local(files):
      columns = (tf.gather(column, file_order) for column in _columns(files))
      return _shuffled(_read(*columns), size, key, buffer).skip(start)
    order = _shuffled(tf.data.Dataset.range(size), size, key, buffer)
    order = np.concatenate([*order.batch(_POSITIONS).as_numpy_iterator()])
    files = [files[number] for number in file_order.numpy()]
    return _records(files).dataset(order, start, buffer)

  def buffered(self, shuffle_buffer: int) -> tuple[int, int]:
    """Returns the number and the bytes of examples that are shuffled at a time.

    Both depend only on the data set, because the order depends on the number.

    Args:
      shuffle_buffer: the wanted number.
    """
    info = self.builder.info
    total = max(1, info.splits.total_num_examples)
    mean = max(1, info.dataset_size // total)
    number = min(shuffle_buffer, max(1, _BUFFER // mean))
    return number, mean * min(number, self.num_examples)

  def load(self, example: Any) -> dict[str, Any]:
    """Implements datasets.Split.load."""
    image, label = self._decode(example)
    return {
      'image': self.reading.image(image),
      'label': label,
      'id': example['id'],
    }

  def locate(self, example_id: str) -> str:
    """Implements datasets.Split.locate."""
    return f'{example_id} of {self.name!r}'

  def contents(self) -> Iterator[Any]:
    """Yields the data that datasets.Split.fingerprint hashes."""
    import tensorflow_datasets as tfds

    yield self.builder.info.full_name
    if self.reading.name:
      yield self.reading.name
    for file in self._files():
      size = tfds.core.Path(file.filename).stat().length
      yield file.basename(), size, file.examples_in_shard, file.skip, file.take

  def pieces(self) -> Iterator[Callable[[], bytes]]:
    """Yields functions that read what datasets.Split.sample_hash hashes."""
    for path in dict.fromkeys(file.filename for file in self._files()):
      yield functools.partial(_pieces_of, path)

  def all_labels(self) -> np.ndarray:
    """Returns [num_examples] int64 labels in the order of TFDS's files."""
    labels = []
    tf = tensorflow()
    for file in self._files():
      one_file = _read(*_columns([file])).map(
        lambda example: self._decode(example)[1],
        num_parallel_calls=tf.data.AUTOTUNE,
      )
      labels += list(one_file.as_numpy_iterator())
    return np.array(labels, np.int64)

  def subset(self, positions: Iterable[int]) -> Self:
    """Returns the examples at these positions of `all_labels`."""
    singles = [
      dataclasses.replace(file, skip=place, take=1)
      for file in self._files()
      for place in range(file.skip, file.skip + file.take)
    ]
    return dataclasses.replace(
      self, chosen=tuple(singles[i] for i in positions)
    )

  def _decode(self, example):
    """Returns the encoded image and the label of an element of `examples`."""
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
    """Returns TFDS's FileInstructions: filename, skip, take and more."""
    if self.chosen is not None:
      return self.chosen[process_index::process_count]
    splits = self.builder.info.splits
    part = _part(self.split, splits, process_index, process_count)
    return splits[part].file_instructions


def open_files(
  name: str, split: str, builder: Any, reading: ExampleReading | None = None
) -> Files:
  """Opens the files of a split; raises as datasets.open_split.

  Args:
    name: the data set's name in messages.
    split: in TFDS's notation.
    builder: tfds.core.DatasetBuilder of a prepared data set.
    reading: None means the one in READINGS.
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
    raise UnknownSplitError(
      f'no split {split!r} with images in data set {name!r}; choose from '
      f'{sorted(sizes)}{named} or a part such as train[:98%]; it has {sizes}'
    )
  return Files(name, builder, split, reading)


def _columns(files):
  """Returns tensors of paths, names, first examples and ends, one per file."""
  tf = tensorflow()
  first = np.array([file.skip for file in files], np.int64)
  count = np.array([file.take for file in files], np.int64)
  paths = tf.constant([str(file.filename) for file in files], tf.string)
  names = tf.constant([file.basename() for file in files], tf.string)
  return paths, names, tf.constant(first), tf.constant(first + count)


def _read(*columns):
  """Returns a dataset of {'serialized': string, 'id': string}, interleaved."""
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


def _pieces_of(path):
  """Returns the start, the middle and the end of a file."""
  import tensorflow_datasets as tfds

  path = tfds.core.Path(path)
  places = np.linspace(0, max(path.stat().length - _PIECE, 0), 3).astype(int)
  with path.open('rb') as file:
    found = []
    for place in places.tolist():
      file.seek(place)
      found.append(file.read(_PIECE))
  return b''.join(found)


def _size(files):
  return sum(file.take for file in files)


def _are_local(files):
  return not any(locations.is_address(file.filename) for file in files)


def _shuffled(dataset, size, key, shuffle_buffer):
  """Shuffles a dataset in an order that depends on the sizes and the key."""
  tf = tensorflow()
  seed = tf.random.stateless_uniform(
    [], fold_in(key, _EXAMPLES), None, None, tf.int64, alg='philox'
  )

  def shuffled(_):
    # shuffle() combines its seed with that of the tf.function, which this is.
    tf.random.set_seed(1)
    return dataset.shuffle(
      min(shuffle_buffer, size), seed=seed, reshuffle_each_iteration=False
    )

  one = tf.data.Dataset.range(1)
  return one.flat_map(tf.autograph.experimental.do_not_convert(shuffled))


def _records(files):
  """Returns the record_index.Records of files in the order of `_read`."""
  file, place = record_index.places(
    [file.take for file in files], _FILES_AT_ONCE, _EXAMPLES_IN_TURN
  )
  first = np.array([file.skip for file in files], np.int64)
  return record_index.Records(
    [str(file.filename) for file in files],
    [file.basename() for file in files],
    file,
    first[file] + place,
  )


def _part(split, splits, process_index, process_count):
  """Returns one process's contiguous part of a split as a ReadInstruction.

  `tfds.even_splits` is not used. It divides each term of a sum such as
  'train[90%:]+test' separately, so the parts of a sum may differ by more than
  one example.
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
