r"""Data sets by name: digits, any TFDS data set, VTAB, or a folder of images.

  digits  digits/0-4  digits/5-9   scikit-learn's digits, prepared on first use
  cifar10  imagenet_v2/topimages  cifar10:3.0.2      TFDS names
  vtab/dtd  vtab/clevr-count       the tasks of VTAB-1k, see vtab.py
  ./photos  /data/pets  ~/x  C:\pets  gs://BUCKET/PATH
                             a folder ROOT/SPLIT/CLASS/**/*.{jpg,png,...}, or
                             with labels.csv, see labelled_folders.py, or
                             ROOT/CLASS/*.{jpg,png,...}, see splitting.py

A known name never means a folder, even if the working directory has one of
that name; write `./NAME` for the folder. Splits are TFDS's, and the data set's
named splits in catalogue.py, such as `minival` of cifar10 or `train800` of
vtab/dtd. `train@5` has five images of each class of `train`, see subsets.py.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any, Self

from vit_jax_repro.data import (
  catalogue,
  digits,
  divided_folders,
  folders,
  image_hashes,
  labelled_folders,
  splitting,
  subsets,
  tfds_builders,
  tfds_files,
  trees,
  vtab,
)
from vit_jax_repro.data.tf_host import parallel_map
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import buckets, locations, messages, waiting


@dataclasses.dataclass(frozen=True)
class Split:
  """One split of a data set, with encoded images.

  Reading has two stages. `examples` and `shuffled` give references to examples,
  and `load` reads the image of a reference. Skipping a reference is cheap.
  """

  name: str  # of the data set
  split: str
  num_examples: int
  num_classes: int
  class_names: tuple[str, ...]  # in label order
  multi_label: bool  # whether an image may have several classes, or none
  is_folder: bool  # of files that a person collected
  # None: from `describe_split`, without images.
  _source: folders.Folder | tfds_files.Files | None

  @property
  def folder(self) -> folders.Folder | None:
    """Returns the folder of images that this is a split of, if it is one."""
    source = self._source
    return source if isinstance(source, folders.Folder) else None

  @property
  def threads(self) -> int | None:
    """Returns how many files to read at a time; None: TensorFlow chooses."""
    return trees.threads(self.folder.root) if self.folder else None

  @property
  def notes(self) -> tuple[str, ...]:
    """Returns lines on files of a folder that are left out, for the user."""
    return self.folder.notes if self.folder else ()

  @property
  def divided_notes(self) -> list[str]:
    """Returns a line on how a folder without splits was divided, if it was."""
    return [f'{self.name} has {self.divided.text}'] if self.divided else []

  @property
  def divided(self) -> splitting.Divided | None:
    """Returns how a folder without splits was divided; None for other data."""
    return self.folder.divided if self.folder else None

  def subset(self, positions: Iterable[int]) -> Self:
    """Returns the split of the images at these positions of `examples`."""
    part = self._images.subset(positions)
    return dataclasses.replace(
      self, _source=part, num_examples=part.num_examples
    )

  def part_size(self, process_index: int = 0, process_count: int = 1) -> int:
    """Counts the examples in one process's part; parts differ by at most 1.

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

  def examples(
    self, process_index: int = 0, process_count: int = 1, start: int = 0
  ) -> Any:
    """Returns references to one process's examples, always in the same order.

    The parts of all processes are disjoint and together are the split.

    Args:
      process_index, process_count: which part of the split is read.
      start: number of examples to leave out at the beginning.

    Returns:
      tf.data.Dataset of dicts for `load`. Their 'id', a string scalar, does not
      depend on the location of the data set.

    Raises:
      InputError: process_index is not one of process_count processes.
    """
    if not self.part_size(process_index, process_count):
      return self._images.examples(0, 1).take(0)
    return self._images.examples(process_index, process_count, start)

  def shuffled(
    self,
    key: Any,
    shuffle_buffer: int,
    process_index: int = 0,
    process_count: int = 1,
    start: int = 0,
  ) -> Any:
    """Returns the references of `examples` in the order that `key` gives.

    A folder is shuffled as a whole and then divided into parts. A TFDS set is
    divided first. Then its files are shuffled, and then the examples inside a
    buffer. The part must not be empty.

    Args:
      key: [2] int64 tensor, see order.py; an eager one if `start` is above 0.
      shuffle_buffer: encoded examples held in memory, at most 1 GiB of them;
        unused for folders.
      process_index, process_count: which part of the split is read.
      start: number of examples to leave out at the beginning. They are not
        read, except from TFRecord files that are not on this machine.

    Returns:
      tf.data.Dataset of dicts for `load`.
    """
    return self._images.shuffled(
      key, shuffle_buffer, process_index, process_count, start
    )

  def buffered(self, shuffle_buffer: int) -> int:
    """Returns the bytes of the examples that `shuffled` holds in memory."""
    return self._source.buffered(shuffle_buffer)[1] if self._source else 0

  def load(self, example: Any) -> dict[str, Any]:
    """Reads one example with TensorFlow operations.

    Args:
      example: an element of `examples` or `shuffled`.

    Returns:
      {'image': string, 'label': int64, 'id': string}, scalar tensors; `image`
      is an encoded file. If `multi_label`, label is [num_classes], with 1 for
      each class of the image and 0 elsewhere.
    """
    return self._images.load(example)

  def records(self, process_index: int = 0, process_count: int = 1) -> Any:
    """Returns a tf.data.Dataset of `examples`, each read by `load`."""
    examples = self.examples(process_index, process_count)
    return parallel_map(examples, self.load, self.threads)

  @property
  def orientation(self) -> str:
    """Returns the EXIF orientation's use by default: 'exif' for a folder.

    Other data sets are read as the papers did, 'none'.
    """
    return 'exif' if self.is_folder else 'none'

  def locate(self, example_id: str) -> str:
    """Returns where a person can find the example with this id."""
    return self._images.locate(example_id)

  def fingerprint(self) -> str:
    """Returns 16 hex digits that identify the contents of the split.

    They are a hash of the class names and of the names and sizes of the files.
    For TFDS the hash includes the set's version and the number of examples in
    each file. File contents are not read, and the location of the data set does
    not matter.

    Raises:
      OSError: a file does not exist.
    """
    digest = hashlib.sha256()
    for entry in (self.class_names, *self._images.contents()):
      digest.update(json.dumps(entry).encode() + b'\n')
    return digest.hexdigest()[:16]

  def contents_hash(self) -> str | None:
    """Returns 16 hex digits that identify the bytes of all images.

    None where they have not been read: a folder without splits on this machine
    is divided by them, and other data are not.
    """
    folder = self.folder
    if folder is None or not folder.divided or buckets.is_url(folder.root):
      return None
    paths = [os.path.join(folder.root, path) for path in folder.paths]
    text = ''.join(image_hashes.hashes(folder.root, paths))
    return hashlib.sha256(text.encode()).hexdigest()[:16]

  def sample_hash(self) -> str:
    """Returns 16 hex digits that identify a sample of the files' contents.

    They are a hash of images of a folder, spread over the split, or for TFDS of
    pieces of every file. Files that cannot be read are left out.
    """
    digest = hashlib.sha256()
    with concurrent.futures.ThreadPoolExecutor() as pool:
      for one in pool.map(_hash, self._images.pieces()):
        digest.update(one)
    return digest.hexdigest()[:16]

  @property
  def _images(self) -> folders.Folder | tfds_files.Files:
    assert self._source is not None, 'describe_split gives no images'
    return self._source


def _hash(piece):
  """Returns the hash of a piece; empty if it cannot be read."""
  try:
    return hashlib.sha256(piece()).digest()
  except OSError:
    return b''


def open_split(
  name: str,
  split: str,
  *,
  data_dir: str | os.PathLike | None = None,
  manual_dir: str | os.PathLike | None = None,
  download: bool = False,
  division: splitting.Division | None = None,
) -> Split:
  """Opens a split of a data set.

  Args:
    name: see the top of this file.
    split: TFDS's notation, such as 'test' or 'train[:98%]', or a named split of
      catalogue.py, such as 'minival'. Slices of a folder are taken from a fixed
      shuffled order, see folders.py. The suffix `@N` or `@N#SEED` selects N
      images of each class, see subsets.py.
    data_dir: the TFDS directory; None means TFDS's own default. Folders do
      not use it.
    manual_dir: folder of archives that TFDS cannot download itself, such as
      ImageNet's. If the set is not prepared, it is prepared from them.
    download: whether TFDS may download and prepare a missing set.
    division: how a folder without splits is divided; None: by default.

  Raises:
    InputError: the data set or split is unknown, or its examples have no image
      or no label.
    FileNotFoundError: the set is not prepared, or the folder does not exist.
    OSError: the data set cannot be read or written.
  """
  whole, number, seed = subsets.parse(split)
  with waiting.doing(f'opening {name}, {split}'):
    source = _open(
      name,
      whole,
      data_dir,
      manual_dir,
      download,
      division or splitting.Division(),
    )
    messages.check_class_names(source.class_names, name)
    if number is not None:
      source = _balanced(source, name, split, number, seed)
  return Split(
    name=name,
    split=split,
    num_examples=source.num_examples,
    num_classes=len(source.class_names),
    class_names=source.class_names,
    multi_label=source.multi_label,
    is_folder=isinstance(source, folders.Folder),
    _source=source,
  )


def describe_split(
  name: str,
  split: str,
  *,
  data_dir: str | os.PathLike | None = None,
  division: splitting.Division | None = None,
) -> Split:
  """Describes a split without reading its images.

  The sizes of digits and of the catalogue's data sets are known. Other data
  sets must be on this machine: a folder, or a prepared TFDS set.

  Args:
    name, split, data_dir, division: see `open_split`.

  Returns:
    A Split without images.

  Raises:
    InputError, OSError: as `open_split`. A data set that is neither known nor
      on this machine is an error too.
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
    found = open_split(name, split, data_dir=data_dir, division=division)
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
    is_folder=False,
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


def may_be_folder(name: str) -> bool:
  """Returns whether a name of a data set may mean a folder of images."""
  return _is_folder(name) or os.path.isdir(name)


def _is_folder(name):
  """Returns whether a name can only mean a folder."""
  return locations.is_path(name) or locations.is_address(name)


def _open(name, split, data_dir, manual_dir, download, division):
  if _is_folder(name):
    return _folder(os.path.expanduser(name), split, division)
  if name.partition('/')[0] == digits.NAME:
    builder = digits.prepared_builder(data_dir, digits.config_of(name))
    return tfds_files.open_files(name, split, builder)
  row, reading, tfds_name = catalogue.find(name), None, name
  if row is not None and row.group:
    reading = vtab.reading_of(name.removeprefix(catalogue.VTAB))
    tfds_name = row.tfds
  builder = tfds_builders.find(tfds_name, data_dir)
  if builder is None:
    if os.path.isdir(name):
      return _folder(name, split, division)
    raise InputError(tfds_builders.unknown(name))
  split = catalogue.split_of(name, split)
  if not builder.is_prepared():
    tfds_builders.prepare(
      name, builder, split, manual_dir=manual_dir, download=download
    )
  return tfds_files.open_files(name, split, builder, reading)


def _folder(root, split, division):
  root = trees.opened(root)
  if labelled_folders.has_label_file(root):
    return labelled_folders.scan(root, split, division)
  if divided_folders.has_no_splits(root):
    return divided_folders.scan(root, split, division)
  return folders.scan(root, split)
