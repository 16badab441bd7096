"""Data sets by name: digits, any TFDS data set, VTAB, or a folder of images.

  digits  digits/0-4  digits/5-9   scikit-learn's digits, prepared on first use
  cifar10  imagenet_v2/topimages  cifar10:3.0.2      TFDS names
  vtab/dtd  vtab/clevr-count       the tasks of VTAB-1k, see vtab.py
  ./photos  /data/pets  ~/x  a folder ROOT/SPLIT/CLASS/**/*.{jpg,jpeg,png}

A name that is known is no folder even where one of that name lies in the
working directory; `./NAME` is the folder. Splits are TFDS's, and those that
catalogue.py has for a data set: `minival` of cifar10, `train800` of vtab/dtd.
`train@5` is five images of each class of one, see subsets.py.
"""

import dataclasses
import hashlib
import json
import os

from vit_jax_repro.data import (
  catalogue,
  digits,
  folders,
  subsets,
  tfds_builders,
  tfds_files,
  vtab,
)
from vit_jax_repro.data.tf_host import parallel_map
from vit_jax_repro.errors import InputError


@dataclasses.dataclass(frozen=True)
class Split:
  """One split of a data set, its images still encoded.

  Its examples are first found, then loaded: what is found says where an image
  lies, so that passing over it costs little.
  """

  name: str  # of the data set
  split: str
  num_examples: int
  num_classes: int
  class_names: tuple[str, ...]  # in label order
  multi_label: bool  # whether an image may be of several classes, or of none
  # None: it is described, its images cannot be read.
  _source: folders.Folder | tfds_files.Files | None

  def part_size(self, process_index=0, process_count=1):
    """Number of examples in one process's part; parts differ by at most 1.

    Raises:
      InputError: process_index is not one of process_count processes.
    """
    if not 0 <= process_index < process_count:
      raise InputError(
        f'{process_index=} must lie in 0..{process_count - 1} '
        f'({process_count=})'
      )
    whole, rest = divmod(self.num_examples, process_count)
    return whole + (process_index < rest)

  def examples(self, process_index=0, process_count=1):
    """The examples of one process's part, always in the same order.

    The parts of all processes are disjoint and together are the split.

    Returns:
      tf.data.Dataset of dicts that `load` takes. The 'id' in them, a string
      scalar, is the same wherever the data set lies.

    Raises:
      InputError: process_index is not one of process_count processes.
    """
    if not self.part_size(process_index, process_count):
      return self._source.examples(0, 1).take(0)
    return self._source.examples(process_index, process_count)

  def shuffled(self, key, shuffle_buffer, process_index=0, process_count=1):
    """As `examples`, in an order that `key` says; the part is not empty.

    Folders are shuffled as a whole, before they are divided into parts. Of
    TFDS sets, which are divided first, the files and then the examples in a
    buffer are shuffled.

    Args:
      key: [2] int64 tensor, see keys.py.
      shuffle_buffer: encoded examples held in memory; not for folders.
      process_index, process_count: which part of the split is read.
    """
    return self._source.shuffled(
      key, shuffle_buffer, process_index, process_count
    )

  def load(self, example):
    """Reads what `examples` or `shuffled` found, in TensorFlow operations.

    Returns:
      {'image': string, 'label': int64, 'id': string}, scalars; `image` is an
      encoded file. Where `multi_label`, label is [num_classes], 1 for each
      class that the image is of and 0 elsewhere.
    """
    return self._source.load(example)

  def records(self, process_index=0, process_count=1):
    """`examples`, loaded."""
    examples = self.examples(process_index, process_count)
    return parallel_map(examples, self.load)

  def locate(self, example_id):
    """Where a person finds the example of that id, a str."""
    return self._source.locate(example_id)

  def fingerprint(self):
    """16 hex digits that say what the split contains.

    They are made from the class names and the names and sizes of the files,
    which are not read; for TFDS also from the set's version and the number of
    examples in each file. They do not depend on where the data set lies.

    Raises:
      OSError: a file is not there.
    """
    digest = hashlib.sha256()
    for entry in (self.class_names, *self._source.contents()):
      digest.update(json.dumps(entry).encode() + b'\n')
    return digest.hexdigest()[:16]


def open_split(name, split, *, data_dir=None, manual_dir=None, download=False):
  """Opens a split of a data set.

  Args:
    name: see the top of this file.
    split: such as 'test' or 'train[:98%]' (TFDS's notation; for a folder the
      slices are those of a fixed shuffled order, see folders.py), or a name
      that catalogue.py has for it, such as 'minival'; `@N` or `@N#SEED`
      behind it is N images of each class, see subsets.py.
    data_dir: the TFDS directory; None means TFDS's own default. Folders do
      not use it.
    manual_dir: folder of archives that TFDS cannot download itself, such as
      ImageNet's; a set that is not there is prepared from them.
    download: whether TFDS may fetch and prepare a set that is not there.

  Raises:
    InputError: unknown data set or split, or a set without image and label.
    FileNotFoundError: the set is not prepared, or the folder is not there.
    OSError: it cannot be read or written.
  """
  whole, number, seed = subsets.parse(split)
  source = _open(name, whole, data_dir, manual_dir, download)
  if number is not None:
    source = _balanced(source, name, split, number, seed)
  return Split(
    name=name,
    split=split,
    num_examples=source.num_examples,
    num_classes=len(source.class_names),
    class_names=source.class_names,
    multi_label=source.multi_label,
    _source=source,
  )


def describe_split(name, split, *, data_dir=None):
  """Describes a split whose images need not be on this machine.

  Digits and the data sets of the catalogue are known; a folder's files and a
  prepared TFDS set are counted.

  Args:
    name, split, data_dir: see `open_split`.

  Returns:
    A Split without images.

  Raises:
    InputError, OSError: as `open_split`, also for a set that is neither known
      nor on this machine.
  """
  whole, number, _ = subsets.parse(split)
  row = catalogue.find(name)
  if name.partition('/')[0] == digits.NAME:
    config = digits.config_of(name)
    sizes = digits.sizes(config)
    classes = [str(digit) for digit in digits.CONFIGS[config]]
  elif row is not None:
    whole, sizes = catalogue.split_of(name, whole), row.sizes
    classes = [str(label) for label in range(row.num_classes)]
  else:
    found = open_split(name, split, data_dir=data_dir)
    return dataclasses.replace(found, _source=None)
  if number is None:
    count = catalogue.num_examples(sizes, whole)
  else:
    count = number * len(classes)
  return Split(
    name=name,
    split=split,
    num_examples=count,
    num_classes=len(classes),
    class_names=tuple(classes),
    multi_label=name.startswith('imagenet2012_real'),
    _source=None,
  )


def _balanced(source, name, split, number, seed):
  if source.multi_label:
    raise InputError(
      f'data set {name!r} has several labels an image, so split {split!r} has '
      'no meaning; leave the @ out'
    )
  try:
    chosen = subsets.balanced(
      source.all_labels(), len(source.class_names), number, seed
    )
  except InputError as error:
    raise InputError(f'split {split!r} of {name!r}: {error}') from None
  return source.subset(chosen)


def _open(name, split, data_dir, manual_dir, download):
  if name.startswith(('/', '.', '~')):
    return folders.scan(os.path.expanduser(name), split)
  if name.partition('/')[0] == digits.NAME:
    builder = digits.prepared_builder(data_dir, digits.config_of(name))
    return tfds_files.open_files(name, split, builder)
  row, reading = catalogue.find(name), None
  if row is not None and row.group:
    reading = vtab.reading_of(name.removeprefix(catalogue.VTAB))
  tfds_name = row.tfds if reading else name
  builder = tfds_builders.find(tfds_name, data_dir)
  if builder is None:
    if os.path.isdir(name):
      return folders.scan(name, split)
    raise InputError(tfds_builders.unknown(name))
  split = catalogue.split_of(name, split)
  if not builder.is_prepared():
    tfds_builders.prepare(
      name, builder, split, manual_dir=manual_dir, download=download
    )
  return tfds_files.open_files(name, split, builder, reading)
