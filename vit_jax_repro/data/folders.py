"""Folders of images as data sets: ROOT/SPLIT/CLASS/**/*.{jpg,png,...}.

The endings are EXTENSIONS, in any letter case. Images may be at any depth below
CLASS. Symbolic links are followed. Hidden files, hidden folders and all other
files are ignored. A label is a position in the sorted class names of all splits
together, so a class has the same label in each split even if some split lacks
a class.
"""

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, Self

import numpy as np

from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.errors import InputError

# The usual endings of pillow.FORMATS. Files with other endings are ignored. The
# message on a file that cannot be decoded is `preprocess.undecodable`.
EXTENSIONS = (
  '.jpg',
  '.jpeg',
  '.jfif',
  '.png',
  '.webp',
  '.bmp',
  '.gif',
  '.tif',
  '.tiff',
)
_ENDINGS = ','.join(ending[1:] for ending in EXTENSIONS)
LAYOUT = f'ROOT/SPLIT/CLASS/*.{{{_ENDINGS}}}'
_PART = re.compile(r'([^\[\]]+)\[(-?\d+%?)?:(-?\d+%?)?\]')


@dataclasses.dataclass(frozen=True)
class Folder:
  """The images of one split of a folder, or of parts of its splits."""

  root: str
  class_names: tuple[str, ...]
  paths: tuple[str, ...]  # relative to root; also the ids of the examples
  labels: tuple[int, ...]
  multi_label = False

  @property
  def num_examples(self) -> int:
    """Returns the number of images."""
    return len(self.paths)

  def examples(self, process_index: int, process_count: int) -> Any:
    """Implements datasets.Split.examples."""
    columns = self._columns()
    part = slice(process_index, None, process_count)
    return tensorflow().data.Dataset.from_tensor_slices(
      {name: column[part] for name, column in columns.items()}
    )

  def shuffled(
    self, key: Any, shuffle_buffer: int, process_index: int, process_count: int
  ) -> Any:
    """Implements datasets.Split.shuffled."""
    del shuffle_buffer  # all ids fit into memory
    tf = tensorflow()
    order = tf.random.experimental.stateless_shuffle(
      tf.range(self.num_examples), key, alg='philox'
    )[process_index::process_count]
    columns = self._columns()
    return tf.data.Dataset.from_tensor_slices(
      {name: tf.gather(column, order) for name, column in columns.items()}
    )

  def load(self, example: Any) -> dict[str, Any]:
    """Implements datasets.Split.load."""
    tf = tensorflow()
    path = tf.strings.join([os.fsencode(self.root), example['id']], os.sep)
    return {
      'image': tf.io.read_file(path),
      'label': example['label'],
      'id': example['id'],
    }

  def locate(self, example_id: str) -> str:
    """Implements datasets.Split.locate."""
    return os.path.join(self.root, example_id)

  def contents(self) -> Iterator[tuple[str, int]]:
    """Yields the data that datasets.Split.fingerprint hashes: path and size."""
    for path in self.paths:
      yield path, os.stat(os.path.join(self.root, path)).st_size

  def all_labels(self) -> np.ndarray:
    """Returns [num_examples] labels in the order of `examples`."""
    return np.array(self.labels)

  def subset(self, positions: Iterable[int]) -> Self:
    """Returns the images at these positions in the order of `examples`."""
    return dataclasses.replace(
      self,
      paths=tuple(self.paths[i] for i in positions),
      labels=tuple(self.labels[i] for i in positions),
    )

  def _columns(self):
    tf = tensorflow()
    with tf.init_scope():  # once, not in each epoch's function
      return {
        'id': tf.constant([os.fsencode(path) for path in self.paths]),
        'label': tf.constant(self.labels, tf.int64),
      }


def scan(root: str | os.PathLike, split: str) -> Folder:
  """Lists the images of `split` in sorted order.

  Args:
    root: path of the folder.
    split: a sub-folder, or parts in TFDS's notation such as
      'train[:90%]+test'. A slice is taken from a fixed random order, because
      the sorted order keeps classes together, and is then sorted again. Slices
      that do not overlap share no image.

  Raises:
    FileNotFoundError: `root` is not a folder.
    InputError: `root` has no such split or not the layout LAYOUT, or a class
      folder of the split contains no image.
    OSError: an image of the split cannot be read, for example because it is a
      broken link.
  """
  if not os.path.isdir(root):
    raise FileNotFoundError(
      f'{root} is not a folder; an image folder is {LAYOUT}'
    )
  splits = _splits(root)
  if not splits:
    raise InputError(f'no images in {root}; an image folder is {LAYOUT}')
  class_names = sorted({c for classes in splits.values() for c in classes})
  label_of = {name: label for label, name in enumerate(class_names)}
  examples = []  # (path, label)
  for part in [split] if split in splits else split.split('+'):
    examples += _examples(root, part.strip(), splits, label_of)
  if not examples:
    raise InputError(f'split {split!r} of {root} holds no image')
  for path, _ in examples:
    _check_readable(path)
  paths, labels = zip(*examples, strict=True)
  start = len(os.path.join(root, ''))
  return Folder(
    root=os.fspath(root),
    class_names=tuple(class_names),
    paths=tuple(path[start:] for path in paths),
    labels=labels,
  )


def _splits(root):
  """Returns {split: [class with at least one image, ...]}, both sorted."""
  splits = {}
  for split in _entries(root, folders=True):
    classes = [
      name
      for name in _entries(os.path.join(root, split), folders=True)
      if next(_images(os.path.join(root, split, name)), None)
    ]
    if classes:
      splits[split] = classes
  return splits


def _examples(root, part, splits, label_of):
  match = None if part in splits else _PART.fullmatch(part)
  split, start, stop = match.groups() if match else (part, None, None)
  if split not in splits:
    raise InputError(
      f'no split {split!r} with images in {root}; choose from '
      f'{sorted(splits)} or a part such as train[:90%]'
    )
  for name in _entries(os.path.join(root, split), folders=True):
    if name not in splits[split]:
      raise InputError(
        f'class folder {os.path.join(root, split, name)} holds no image '
        f'({", ".join(EXTENSIONS)}); remove it, or put its images there'
      )
  found = [
    (path, label_of[name])
    for name in splits[split]
    for path in _images(os.path.join(root, split, name))
  ]
  if match is None:
    return found
  start = _position(start, len(found), part) if start else 0
  stop = _position(stop, len(found), part) if stop else len(found)
  # NumPy never changes RandomState's stream, unlike newer generators'.
  order = np.random.RandomState(0).permutation(len(found))
  return [found[i] for i in sorted(order[start:stop])]


def _position(text, size, part):
  """Returns the index for '10', '-10', '10%' or '-10%', rounded as in TFDS."""
  if text.endswith('%'):
    position = round(int(text[:-1]) * size / 100)
  else:
    position = int(text)
  if abs(position) > size:
    raise InputError(f'{part!r} reaches beyond the {size} images of the split')
  return position + size if text.startswith('-') else position


def _check_readable(path):
  if not os.access(path, os.R_OK):
    reason = 'permission denied' if os.path.exists(path) else 'no such file'
    raise OSError(f'{path} cannot be read: {reason}; remove or mend it')


def _images(folder, above=()):
  """Yields the paths of the images below `folder`, sorted level by level."""
  here = os.path.realpath(folder)
  if here in above:  # a symbolic link to a parent folder
    return
  for name in _entries(folder, folders=False):
    path = os.path.join(folder, name)
    if os.path.isdir(path):
      yield from _images(path, (*above, here))
    elif name.lower().endswith(EXTENSIONS):
      yield path


def _entries(folder, *, folders):
  """Returns the sorted names in a folder without hidden ones."""
  with os.scandir(folder) as entries:
    return sorted(
      entry.name
      for entry in entries
      if not entry.name.startswith('.') and (entry.is_dir() or not folders)
    )
