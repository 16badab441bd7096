"""Folders of images whose labels are in labels.csv, without class folders.

  ROOT/SPLIT/labels.csv   names files below ROOT/SPLIT
  ROOT/labels.csv         names files such as train/1.jpg, which begin with the
                          split; or such as 1.jpg or images/1.jpg, without
                          splits: then splitting.py divides them, by their one
                          label, or by their contents alone

label_files.py has the form of labels.csv. If a labels.csv of any split has
several columns `label`, an image of any split may have several labels. Images
without a row are left out, and counted in `Folder.notes`.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from vit_jax_repro.data import (
  class_checks,
  divided_folders,
  folders,
  image_hashes,
  label_files,
  split_parts,
  splitting,
  trees,
)
from vit_jax_repro.data import folder_listing as listing
from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import waiting

_WHOLE = ''  # the name of the only split of a folder without splits
LAYOUT = f'ROOT/SPLIT/{label_files.NAME} next to the images of the split'


class _Entry(NamedTuple):
  path: str  # relative to the root
  labels: tuple[str, ...]
  row: label_files.Row
  file: label_files.LabelFile


@dataclasses.dataclass(frozen=True)
class LabelledFolder(folders.Folder):
  """The images of one split, or of parts of splits, with labels of a file.

  `labels` has a tuple of labels for each image if `has_several`.
  """

  labels: tuple[Any, ...] = ()
  has_several: bool = False
  # {class name: the place of its first row, such as 'labels.csv, line 2'}
  first_lines: Mapping[str, str] = dataclasses.field(default_factory=dict)
  has_class_folders = False

  @property
  def multi_label(self) -> bool:
    """Returns whether an image may have several labels, or none."""
    return self.has_several

  def load(self, example: Any) -> dict[str, Any]:
    """Implements datasets.Split.load."""
    record = super().load(example)
    return {**record, 'label': tensorflow().cast(record['label'], 'int64')}

  def contents(self) -> Iterator[Any]:
    """Yields the data that datasets.Split.fingerprint hashes, with labels."""
    for position, (path, size) in enumerate(super().contents()):
      yield path, size, self.labels_at(position)

  def all_labels(self) -> np.ndarray:
    """Returns [num_examples] labels; if `has_several`, [num_examples, K] 0/1.

    The order is that of `examples`.
    """
    if not self.has_several:
      return super().all_labels()
    result = np.zeros((self.num_examples, len(self.class_names)), np.uint8)
    for row, labels in zip(result, self.labels, strict=True):
      row[list(labels)] = 1
    return result

  def labels_at(self, position: int) -> tuple[int, ...]:
    """Returns the labels of the image at a position in `paths`."""
    labels = self.labels[position]
    return labels if self.has_several else (labels,)

  def label_set(self) -> set[int]:
    """Returns the labels that the images have."""
    return {x for i in range(self.num_examples) for x in self.labels_at(i)}

  def positions_of(self, label: int) -> np.ndarray:
    """Returns the positions in `paths` of the images with a label."""
    if not self.has_several:
      return super().positions_of(label)
    return np.flatnonzero(self.all_labels()[:, label])

  def counts(self, positions: Any) -> np.ndarray:
    """Returns the number of images of each class among these, [K]."""
    if not self.has_several:
      return super().counts(positions)
    return self.all_labels()[positions].sum(axis=0, dtype=np.int64)

  def where_first(self, label: int) -> str | None:
    """Returns the place of the first row that has a label."""
    return self.first_lines.get(self.class_names[label])

  def folders_below(self, label: int) -> list[str]:
    """Returns no names, because there are no class folders."""
    del label
    return []

  def _columns(self):
    tf = tensorflow()
    with tf.init_scope():  # once, not in each epoch's function
      dtype = tf.uint8 if self.has_several else tf.int64
      return {
        'id': tf.constant([os.fsencode(path) for path in self.paths]),
        'label': tf.constant(self.all_labels(), dtype),
      }


def has_label_file(root: str | os.PathLike) -> bool:
  """Returns whether a folder or one of its sub-folders has a labels.csv."""
  return trees.is_folder(root) and bool(_paths(root))


def scan(
  root: str | os.PathLike,
  split: str,
  division: splitting.Division | None = None,
) -> LabelledFolder:
  """Lists the images of `split` that have a row, sorted by their paths.

  Args:
    root: path of a folder for which `has_label_file`.
    split: as for `folders.scan`, or as for `divided_folders.scan`.
    division: how images without splits are divided; None: by default.

  Raises:
    InputError: a labels.csv has another form, or names an image twice or one
      that does not exist; labels are spelt in two ways; `root` has no such
      split.
    OSError: a labels.csv or an image of the split cannot be read.
  """
  files = [label_files.read(path) for path in _paths(root)]
  label_files.check_spellings(files)
  splits = _splits(root, files)
  first_lines = label_files.first_lines(files)
  class_names = class_checks.in_order(first_lines)
  if not class_names:
    raise InputError(f'no row of {files[0].path} has a label; add labels')
  label_of = {name: label for label, name in enumerate(class_names)}
  has_several = any(file.has_several for file in files)
  examples, used, notes, divided = [], set(), {}, None
  parts = [split] if split in splits else split.split('+')
  if _WHOLE in splits:
    parts, used = [], set(label_of.values())
    examples, divided, notes = _divided(
      root,
      split,
      splits[_WHOLE],
      None if has_several else label_of,
      division or splitting.Division(),
    )
  for part in parts:
    name, chosen = split_parts.part_of(root, part.strip(), splits)
    entries = splits[name]
    notes |= _left_out(root, name, _check_images(root, name, entries))
    used |= {label_of[x] for entry in entries for x in entry.labels}
    examples += [entries[i] for i in chosen(len(entries))]
  if not examples:
    raise InputError(f'split {split!r} of {root} holds no image')
  labels = [
    tuple(sorted(label_of[x] for x in entry.labels)) for entry in examples
  ]
  return LabelledFolder(
    root=os.fspath(root),
    class_names=tuple(class_names),
    paths=tuple(entry.path for entry in examples),
    labels=tuple(labels if has_several else (x for (x,) in labels)),
    folder_labels=tuple(sorted(used)),
    notes=tuple(notes.values()),
    divided=divided,
    has_several=has_several,
    first_lines=first_lines,
  )


def _divided(root, split, entries, label_of, division):
  """Divides entries; returns those of a split, the division, and notes.

  Without `label_of`, an image has several labels, or none.
  """
  without = _check_images(root, _WHOLE, entries)
  paths = [os.path.join(root, entry.path) for entry in entries]
  contents = image_hashes.hashes(root, paths)
  labels = [label_of[x.labels[0]] if label_of else 0 for x in entries]
  divided = division.divide(contents, labels, is_stratified=bool(label_of))
  positions = divided_folders.positions_of(
    root, split, divided, contents, labels
  )
  notes = _left_out(root, _WHOLE, without)
  return [entries[i] for i in positions], divided, notes


def _left_out(root, split, without):
  if not without:
    return {}
  return {
    split: f'{os.path.join(root, split)}: left out {without} images without a '
    f'row in {label_files.NAME}'
  }


def _paths(root):
  """Returns the paths of the labels.csv of a data set."""
  at_root = os.path.join(root, label_files.NAME)
  below = [
    path
    for name in listing.entries(root, folders=True)
    if trees.is_file(path := os.path.join(root, name, label_files.NAME))
  ]
  if not trees.is_file(at_root):
    return below
  if below:
    raise InputError(
      f'{at_root} and {below[0]} both have labels; keep one of the two kinds'
    )
  return [at_root]


def _splits(root, files):
  """Returns {split: entries sorted by path}."""
  splits = {}
  for file in files:
    folder = os.path.relpath(os.path.dirname(file.path), root)
    is_whole = folder == '.' and _has_no_splits(file.rows)
    for row in file.rows:
      path = os.path.normpath(os.path.join(folder, row.file))
      split, *rest = path.split(os.sep)
      if is_whole:
        split = _WHOLE
      elif not rest:
        raise InputError(
          f'{file.at(row.line)} names {row.file!r} without a split; write '
          f'train/{row.file}, or lay the data set out as {LAYOUT}'
        )
      if not listing.is_image(path):
        raise InputError(
          f'{file.at(row.line)} names {row.file!r}, which has none of the '
          f'endings of images, {", ".join(listing.EXTENSIONS)}'
        )
      splits.setdefault(split, []).append(_Entry(path, row.labels, row, file))
  return {split: sorted(rows) for split, rows in sorted(splits.items())}


def _has_no_splits(rows):
  """Returns whether the files do not begin with splits."""
  first = {row.file.split('/')[0] if '/' in row.file else '' for row in rows}
  if {name.lower() for name in first} & {*listing.SPLIT_NAMES}:
    return False
  return '' in first or len(first) == 1


def _check_images(root, split, entries):
  """Checks that a split's images exist; returns how many have no row."""
  with waiting.doing(f'looking at {len(entries):,} images of {root}'):
    paths = {entry.path: os.path.join(root, entry.path) for entry in entries}
    label_files.refuse_lost(
      entries[0].file,
      [entry.row for entry in entries if not trees.is_file(paths[entry.path])],
    )
    for path in paths.values():
      trees.check_readable(path)
    images = set(listing.images(os.path.join(root, split)))
  return len(images - set(paths.values()))
