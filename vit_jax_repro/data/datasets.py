"""Data sets by name: `digits`, any TFDS data set, or a folder of images.

  digits                     scikit-learn's digits, prepared on first use
  cifar10  imagenet_v2/topimages  cifar10:3.0.2      TFDS names
  ./photos  /data/pets  ~/x  a folder ROOT/SPLIT/CLASS/**/*.{jpg,jpeg,png}

A name that TFDS knows is TFDS's even where a folder of that name lies in the
working directory; `./NAME` is the folder.
"""

import dataclasses
import functools
import operator
import os
from collections.abc import Callable
from typing import Any

from vit_jax_repro.data import digits, folders
from vit_jax_repro.data.tensorflow_cpu import silence, tensorflow


@dataclasses.dataclass(frozen=True)
class Split:
  """One split of a data set, its images still encoded."""

  name: str  # of the data set
  split: str
  num_examples: int
  num_classes: int
  class_names: tuple[str, ...]  # in label order
  _read: Callable[[int, int], Any]

  def part_size(self, process_index=0, process_count=1):
    """Number of examples in one process's part; parts differ by at most 1."""
    whole, rest = divmod(self.num_examples, process_count)
    return whole + (process_index < rest)

  def records(self, process_index=0, process_count=1):
    """The examples of one process's part, always in the same order.

    The parts of all processes are disjoint and together are the split.

    Returns:
      tf.data.Dataset of {'image': string, 'label': int64, 'id': string},
      scalars; `image` is an encoded file, `id` says which.

    Raises:
      ValueError: process_index is not one of process_count processes.
    """
    if not 0 <= process_index < process_count:
      raise ValueError(
        f'{process_index=} must lie in 0..{process_count - 1} '
        f'({process_count=})'
      )
    if not self.part_size(process_index, process_count):
      return self._read(0, 1).take(0)
    return self._read(process_index, process_count)


def open_split(name, split, *, data_dir=None, download=False):
  """Opens a split of a data set.

  Args:
    name: see the top of this file.
    split: such as 'test' or 'train[:98%]' (TFDS's notation; for a folder the
      slices are those of a fixed shuffled order, see folders.py).
    data_dir: the TFDS directory; None means TFDS's own default. Folders do
      not use it.
    download: whether TFDS may fetch and prepare a set that is not there.

  Raises:
    ValueError: unknown data set or split, or a set without image and label.
    FileNotFoundError: the set is not prepared, or the folder is not there.
    OSError: it cannot be read or written.
  """
  if name == digits.NAME:
    return _tfds_split(name, split, digits.prepared_builder(data_dir))
  if name.startswith(('/', '.', '~')):
    return _folder_split(name, split)
  builder = _tfds_builder(name, data_dir)
  if builder is None:
    if os.path.isdir(name):
      return _folder_split(name, split)
    raise ValueError(
      f"unknown data set {name!r}; choose 'digits', the name of a TFDS data "
      'set, or a folder ROOT that holds ROOT/SPLIT/CLASS/*.jpg'
    )
  if not builder.is_prepared():
    _prepare(name, builder, download)
  return _tfds_split(name, split, builder)


def _folder_split(name, split):
  folder = folders.scan(os.path.expanduser(name), split)
  return Split(
    name=name,
    split=split,
    num_examples=len(folder.paths),
    num_classes=len(folder.class_names),
    class_names=folder.class_names,
    _read=folder.read,
  )


def _tfds_builder(name, data_dir):
  """The builder, prepared or not; None when TFDS knows no such name."""
  tensorflow()
  import tensorflow_datasets as tfds

  try:
    with silence():
      return tfds.builder(name, data_dir=data_dir, try_gcs=False)
  except tfds.core.DatasetNotFoundError:
    return None
  except (ValueError, AssertionError) as error:
    if 'Parsing builder name string' in str(error):
      return None
    raise ValueError(
      f'cannot open TFDS data set {name!r}: {_first_line(error)}'
    ) from error


def _prepare(name, builder, download):
  where = str(builder.data_dir)
  if not download:
    raise FileNotFoundError(
      f'data set {name!r} is not prepared: nothing at {where}; run '
      f'`tfds build {name.partition(":")[0]}` where there is a network, or '
      'point --data_dir at the directory that has it'
    )
  try:
    builder.download_and_prepare()
  except (AssertionError, ValueError, OSError) as error:
    raise OSError(
      f'cannot prepare data set {name!r} in {where}: {_first_line(error)}'
    ) from error


def _tfds_split(name, split, builder):
  import tensorflow_datasets as tfds

  features = builder.info.features
  if not isinstance(features, tfds.features.FeaturesDict):
    features = {}
  features = dict(features.items())
  label = features.get('label')
  if not (
    isinstance(features.get('image'), tfds.features.Image)
    and isinstance(label, tfds.features.ClassLabel)
  ):
    raise ValueError(
      f"data set {name!r} is no image classification set: it needs an 'image' "
      f"and a class 'label', and has {sorted(features)}"
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

  def read(process_index, process_count):
    return _tfds_records(builder, split, process_index, process_count)

  return Split(
    name=name,
    split=split,
    num_examples=num_examples,
    num_classes=label.num_classes,
    class_names=tuple(label.names),
    _read=read,
  )


def _tfds_records(builder, split, process_index, process_count):
  import tensorflow_datasets as tfds

  dataset = builder.as_dataset(
    split=_part(split, builder.info.splits, process_index, process_count),
    shuffle_files=False,
    decoders=tfds.decode.PartialDecoding(
      {'image': True, 'label': True},
      decoders={'image': tfds.decode.SkipDecoding()},
    ),
    read_config=tfds.ReadConfig(
      add_tfds_id=True, try_autocache=False, skip_prefetch=True
    ),
  )
  return dataset.map(
    lambda example: {
      'image': example['image'],
      'label': example['label'],
      'id': example['tfds_id'],
    }
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


def _first_line(error):
  text = str(error).strip()
  return text.splitlines()[0] if text else type(error).__name__
