"""Folders of images as data sets: ROOT/SPLIT/CLASS/**/*.{jpg,png,...}.

ROOT is on this machine, or gs://BUCKET/PATH (trees.py).

The endings are EXTENSIONS of folder_listing.py, in any letter case. Images may
be at any depth below CLASS. Symbolic links are followed. Hidden files and
folders, TOOL_FOLDERS and all other files are left out; `Folder.notes` counts
what is not hidden. A label is a position in the sorted class names of all
splits together, so a class has the same label in each split even if some split
lacks a class. Names that are all whole numbers are sorted as numbers.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import numpy as np

from vit_jax_repro.data import (
  class_checks,
  pillow,
  split_parts,
  splitting,
  trees,
)
from vit_jax_repro.data import folder_listing as listing
from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import waiting
from vit_jax_repro.output.messages import listed

ENDINGS = ','.join(ending[1:] for ending in listing.EXTENSIONS)
LAYOUT = f'ROOT/SPLIT/CLASS/*.{{{ENDINGS}}}'
_SAMPLE = 64  # images of `Folder.pieces`
_COUNTED = 1000  # images between two updates of the line on progress


@dataclasses.dataclass(frozen=True)
class Folder:
  """The images of one split of a folder, or of parts of its splits."""

  root: str
  class_names: tuple[str, ...]
  paths: tuple[str, ...]  # relative to root; also the ids of the examples
  labels: tuple[int, ...]
  # Labels of the class folders of the splits, of which `labels` may be a part.
  folder_labels: tuple[int, ...] = ()
  notes: tuple[str, ...] = ()  # a line on what was left out, if anything was
  # How the images were divided; None for a folder that has splits.
  divided: splitting.Divided | None = None
  multi_label = False
  has_class_folders = True

  @property
  def num_examples(self) -> int:
    """Returns the number of images."""
    return len(self.paths)

  def examples(
    self, process_index: int, process_count: int, start: int = 0
  ) -> Any:
    """Implements datasets.Split.examples."""
    columns = self._columns()
    part = slice(process_index + start * process_count, None, process_count)
    return tensorflow().data.Dataset.from_tensor_slices(
      {name: column[part] for name, column in columns.items()}
    )

  def shuffled(
    self,
    key: Any,
    shuffle_buffer: int,
    process_index: int,
    process_count: int,
    start: int = 0,
  ) -> Any:
    """Implements datasets.Split.shuffled."""
    del shuffle_buffer  # all ids fit into memory
    tf = tensorflow()
    order = tf.random.experimental.stateless_shuffle(
      tf.range(self.num_examples), key, alg='philox'
    )[process_index + start * process_count :: process_count]
    columns = self._columns()
    return tf.data.Dataset.from_tensor_slices(
      {name: tf.gather(column, order) for name, column in columns.items()}
    )

  def buffered(self, shuffle_buffer: int) -> tuple[int, int]:
    """Returns the images that `shuffled` holds in memory: none."""
    del shuffle_buffer
    return 0, 0

  def load(self, example: Any) -> dict[str, Any]:
    """Implements datasets.Split.load."""
    tf = tensorflow()
    path = tf.strings.join([os.fsencode(self.root), example['id']], os.sep)
    return {
      'image': trees.read_in_graph(self.root, path),
      'label': example['label'],
      'id': example['id'],
    }

  def locate(self, example_id: str) -> str:
    """Implements datasets.Split.locate."""
    return os.path.join(self.root, example_id)

  def positions(self, names: Iterable[str]) -> list[int]:
    """Returns the positions in `paths` of names from `locate`."""
    start = len(os.path.join(self.root, ''))
    return [self._positions[name[start:]] for name in names]

  def labels_at(self, position: int) -> tuple[int, ...]:
    """Returns the labels of the image at a position in `paths`."""
    return (self.labels[position],)

  def label_set(self) -> set[int]:
    """Returns the labels that the images have."""
    return set(self.labels)

  def positions_of(self, label: int) -> np.ndarray:
    """Returns the positions in `paths` of the images with a label."""
    return np.flatnonzero(self.all_labels() == label)

  def counts(self, positions: Any) -> np.ndarray:
    """Returns the number of images of each class among these, [K]."""
    size = len(self.class_names)
    return np.bincount(self.all_labels()[positions], minlength=size)

  def where_first(self, label: int) -> str | None:
    """Returns where a label is first written; None: a class folder has it."""
    del label
    return None

  def folders_below(self, label: int) -> list[str]:
    """Returns the names of the folders in a class folder of these images."""
    if self.divided:  # images lie right below its class folders
      return []
    parts = self.paths[self.labels.index(label)].split(os.sep)[:2]
    return listing.entries(os.path.join(self.root, *parts), folders=True)

  def contents(self) -> Iterator[tuple[str, int]]:
    """Yields the data that datasets.Split.fingerprint hashes: path and size."""
    for path in self.paths:
      yield path, trees.size(os.path.join(self.root, path))

  def pieces(self) -> Iterator[Callable[[], bytes]]:
    """Yields functions that read what datasets.Split.sample_hash hashes."""
    spread = np.linspace(0, self.num_examples - 1, _SAMPLE).astype(int)
    for position in sorted(set(spread.tolist())):
      path = os.path.join(self.root, self.paths[position])
      yield functools.partial(trees.read_bytes, path)

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

  @functools.cached_property
  def first_pixels(self) -> int:
    """Returns the pixels of the first image; 0 if it cannot be read."""
    try:
      return pillow.pixels_of(trees.read_bytes(self.locate(self.paths[0])))
    except (InputError, OSError):  # reported when the image is decoded
      return 0

  @functools.cached_property
  def _positions(self):
    return {path: position for position, path in enumerate(self.paths)}

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
    root: path of the folder, on this machine or as from `trees.opened`.
    split: a sub-folder, or parts in TFDS's notation such as
      'train[:90%]+test'. A slice is taken from a fixed random order, because
      the sorted order keeps classes together, and is then sorted again. Slices
      that do not overlap share no image.

  Raises:
    FileNotFoundError: `root` is not a folder.
    InputError: `root` has no such split or not the layout LAYOUT, a class
      folder of the split contains no image, or two classes differ only in
      letter case or in the form of their accents.
    OSError: an image of the split cannot be read, for example because it is a
      broken link.
  """
  if not trees.is_folder(root):
    raise FileNotFoundError(
      f'{root} is not a folder; an image folder is {LAYOUT}'
    )
  splits = _splits(root)
  if not splits:
    loose = listing.left_out_beside(os.fspath(root))[listing.LOOSE]
    but = f' but {loose:,} without a class' if loose else ''
    raise InputError(
      f'no images in {root}{but}; an image folder is {LAYOUT}, or '
      f'ROOT/CLASS/*.{{{ENDINGS}}} without splits'
    )
  class_checks.check_spellings(root, splits)
  class_names = class_checks.in_order(
    {c for classes in splits.values() for c in classes}
  )
  label_of = {name: label for label, name in enumerate(class_names)}
  examples = []  # (path, label)
  folder_labels, notes = set(), {}
  parts = [split] if split in splits else split.split('+')
  stray = _check_stray(root, [part.strip() for part in parts], splits)
  for part in parts:
    found, name, left_out = _examples(root, part.strip(), splits, label_of)
    examples += found
    folder_labels |= {label_of[each] for each in splits[name]}
    if left_out:
      notes[name] = listing.left_out_note(os.path.join(root, name), left_out)
  if not examples:
    raise InputError(f'split {split!r} of {root} holds no image')
  with waiting.doing(f'looking at {len(examples):,} images of {root}'):
    for path, _ in examples:
      trees.check_readable(path)
  paths, labels = zip(*examples, strict=True)
  start = len(os.path.join(root, ''))
  return Folder(
    root=os.fspath(root),
    class_names=tuple(class_names),
    paths=tuple(path[start:] for path in paths),
    labels=labels,
    folder_labels=tuple(sorted(folder_labels)),
    notes=(*stray, *notes.values()),
  )


def _check_stray(root, parts, splits):
  """Returns a note on images that lie one level too high.

  Raises:
    InputError: a part is of no split, and the folders may be classes.
  """
  stray = [
    name for name in listing.with_images_right_below(root) if name not in splits
  ]
  asked = {part.partition('[')[0] for part in parts}
  if splits.keys() & {*asked, *listing.SPLIT_NAMES, *parts}:
    if not stray:
      return []
    return [
      f'{root}: left out the images right below {listed(stray)}, which are '
      f'next to the split{"s" * (len(splits) > 1)} {listed(splits)} and have '
      'no class folder'
    ]
  deep = next(iter(splits))
  if stray:
    raise InputError(
      f'{root} has images right below {listed(stray)} and deeper in {deep} '
      f'({listed(splits[deep])}); either let the images of each class lie '
      'right below its folder, or make splits of class folders, such as '
      f'{os.path.join(root, "train", stray[0])}'
    )
  raise InputError(
    f'no split {parts[0]!r} with images in {root}; choose from '
    f'{sorted(splits)}, or, if these are classes, let their images lie right '
    'below them and not in folders such as '
    f'{os.path.join(deep, splits[deep][0])}'
  )


def _splits(root):
  """Returns {split: [class with at least one image, ...]}, both sorted."""
  splits = {}
  for split in listing.entries(root, folders=True):
    classes = [
      name
      for name in listing.entries(os.path.join(root, split), folders=True)
      if next(listing.images(os.path.join(root, split, name)), None)
    ]
    if classes:
      splits[split] = classes
  return splits


def _examples(root, part, splits, label_of):
  """Returns (path, label) of a part, its split, and counts of what is not."""
  split, chosen = split_parts.part_of(root, part, splits)
  for name in listing.entries(os.path.join(root, split), folders=True):
    if name not in splits[split]:
      raise InputError(
        f'class folder {os.path.join(root, split, name)} holds no image '
        f'({", ".join(listing.EXTENSIONS)}); remove it, or put its images there'
      )
  left_out = listing.left_out_beside(os.path.join(root, split))
  found, where = [], os.path.join(root, split)
  with waiting.doing(f'counting the images in {where}'):
    for name in splits[split]:
      for path in listing.images(os.path.join(where, name), left_out):
        found.append((path, label_of[name]))
        if len(found) % _COUNTED == 0:
          waiting.now_doing(
            f'counting the images in {where}: {len(found):,} so far'
          )
  return [found[i] for i in chosen(len(found))], split, left_out
