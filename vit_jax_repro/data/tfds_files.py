"""Prepared TFDS data sets, read from their files.

An example is known by its file's name and its place in it, as TFDS has it:
'cifar10-train.tfrecord-00000-of-00001__17'.
"""

import dataclasses
import functools
import operator
from typing import Any

import numpy as np

from vit_jax_repro.data.keys import fold_in
from vit_jax_repro.data.tensorflow_cpu import tensorflow

# How many files are read in turn and how many examples at a time. The order
# of examples depends on them.
_FILES_AT_ONCE = 16
_EXAMPLES_IN_TURN = 16

_FILES, _EXAMPLES = range(2)  # keys, by what is shuffled with them


@dataclasses.dataclass(frozen=True)
class Files:
  """What a split specification means, in a data set that is prepared."""

  name: str
  builder: Any  # tfds.core.DatasetBuilder
  split: str

  @property
  def num_examples(self):
    return sum(file.take for file in self._files())

  @property
  def class_names(self):
    return tuple(self.builder.info.features['label'].names)

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
    import tensorflow_datasets as tfds

    wanted = tfds.decode.PartialDecoding(
      {'image': True, 'label': True},
      decoders={'image': tfds.decode.SkipDecoding()},
    )
    features = wanted.extract_features(self.builder.info.features)
    decoded = features.deserialize_example(
      example['serialized'], decoders=wanted.decoders
    )
    return {
      'image': decoded['image'],
      'label': decoded['label'],
      'id': example['id'],
    }

  def locate(self, example_id):
    """See datasets.Split.locate."""
    return f'{example_id} of {self.name!r}'

  def contents(self):
    """See datasets.Split.fingerprint."""
    import tensorflow_datasets as tfds

    yield self.builder.info.full_name
    for file in self._files():
      size = tfds.core.Path(file.filename).stat().length
      yield file.basename(), size, file.examples_in_shard, file.skip, file.take

  def _files(self, process_index=0, process_count=1):
    """TFDS's instructions on what to read: (filename, skip, take) and more."""
    splits = self.builder.info.splits
    part = _part(self.split, splits, process_index, process_count)
    return splits[part].file_instructions


def open_files(name, split, builder):
  """The files of a split; raises what datasets.open_split says."""
  import tensorflow_datasets as tfds

  features = builder.info.features
  if not isinstance(features, tfds.features.FeaturesDict):
    features = {}
  features = dict(features.items())
  if not (
    isinstance(features.get('image'), tfds.features.Image)
    and isinstance(features.get('label'), tfds.features.ClassLabel)
  ):
    raise ValueError(
      f"data set {name!r} is no image classification set: it needs an 'image' "
      f"and a class 'label', and has {sorted(features)}"
    )
  file_format = builder.info.file_format
  if file_format not in (None, tfds.core.FileFormat.TFRECORD):
    raise ValueError(
      f'data set {name!r} is stored as {file_format.value}, and only tfrecord '
      'is read; run `tfds convert_format --out_file_format=tfrecord '
      f'--dataset_version_dir={builder.data_path}`'
    )
  try:
    num_examples = builder.info.splits[split].num_examples
  except (KeyError, ValueError, AssertionError):
    num_examples = 0
  if num_examples < 1:
    raise ValueError(
      f'no split {split!r} with images in data set {name!r}; choose from '
      f'{sorted(builder.info.splits)} or a part such as train[:98%]'
    )
  return Files(name, builder, split)


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
