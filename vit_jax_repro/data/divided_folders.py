"""Folders of images without splits, ROOT/CLASS/*.{jpg,png,...}.

The images lie right below the class folders. splitting.py divides them.
"""

import os
from collections import Counter
from collections.abc import Sequence

from vit_jax_repro.data import (
  class_checks,
  folders,
  image_hashes,
  split_parts,
  splitting,
  trees,
)
from vit_jax_repro.data import folder_listing as listing
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import waiting
from vit_jax_repro.output.messages import listed

LAYOUT = f'ROOT/CLASS/*.{{{folders.ENDINGS}}}'
_COUNTED = 1000  # images between two updates of the line on progress


def has_no_splits(root: str | os.PathLike) -> bool:
  """Returns whether the folders right below `root` are classes.

  Raises:
    InputError: they are splits that lack class folders.
  """
  if not trees.is_folder(root):
    return False
  names = listing.with_images_right_below(root)
  if not names or _has_deeper_images(root):
    return False
  if all(name.lower() in listing.SPLIT_NAMES for name in names):
    raise InputError(
      f'images lie right below {os.path.join(root, names[0])}, which is named '
      'as a split and needs a folder for each class; an image folder is '
      f'{folders.LAYOUT}, or {LAYOUT} without splits'
    )
  return True


def scan(
  root: str | os.PathLike, split: str, division: splitting.Division
) -> folders.Folder:
  """Divides the images and lists those of `split` in sorted order.

  Args:
    root: path of a folder for which `has_no_splits`.
    split: 'train', 'test', or 'validation' if the division has it; a part of
      all images such as 'train[:10%]'; a part of a side such as 'test[:5]'; or
      a sum of these.
    division: how the folder is divided.

  Raises:
    InputError: there is no such split, the division has no meaning, a class
      folder has no image, or two classes have names that are spelt alike.
    OSError: an image cannot be read.
  """
  root = os.fspath(root)
  names = listing.entries(root, folders=True)
  class_checks.check_spellings(root, {'': names})
  class_names = class_checks.in_order(names)
  paths, labels, left_out = _images(root, class_names)
  contents = image_hashes.hashes(root, [os.path.join(root, p) for p in paths])
  divided = division.divide(contents, labels)
  chosen = positions_of(root, split, divided, contents, labels)
  notes = _notes(class_names, paths, labels, contents)
  if left_out:
    notes.insert(0, listing.left_out_note(root, left_out))
  return folders.Folder(
    root=root,
    class_names=tuple(class_names),
    paths=tuple(paths[i] for i in chosen),
    labels=tuple(labels[i] for i in chosen),
    folder_labels=tuple(range(len(class_names))),
    notes=tuple(notes),
    divided=divided,
  )


def positions_of(
  root: str,
  split: str,
  divided: splitting.Divided,
  contents: Sequence[str],
  labels: Sequence[int],
) -> list[int]:
  """Returns the sorted positions of the images of a split.

  Args:
    root: path of the folder, for messages.
    split: see `scan`.
    divided: how the images are divided.
    contents, labels: SHA-256 and class of each image.

  Raises:
    InputError: there is no such split, or it has no image.
  """
  chosen: set[int] = set()
  whole = divided.division.side_of(split) is not None
  for part in [split] if whole else split.split('+'):
    chosen |= set(_part(root, part.strip(), divided, contents, labels))
  if not chosen:
    raise InputError(
      f'split {split!r} of {root} holds no image{_why_none(divided, whole)}'
    )
  return sorted(chosen)


def _why_none(divided, whole):
  if not whole:
    return ''
  if divided.num_recorded:
    return f', as recorded in {divided.division.record.path}'
  return (
    ', because every class has too few different images: one for training, a '
    'second for test, a third for validation; add images'
  )


def _has_deeper_images(root):
  for name in listing.entries(root, folders=True):
    folder = os.path.join(root, name)
    above = trees.identity(root), trees.identity(folder)
    for below in listing.entries(folder, folders=True):
      if next(listing.images(os.path.join(folder, below), above=above), None):
        return True
  return False


def _images(root, class_names):
  """Returns the paths below `root`, their labels, and counts of other files."""
  paths, labels = [], []
  start = len(os.path.join(root, ''))
  left_out: Counter[str] = listing.left_out_beside(root)
  with waiting.doing(f'counting the images in {root}'):
    for label, name in enumerate(class_names):
      found = list(listing.images(os.path.join(root, name), left_out))
      if not found:
        raise InputError(
          f'class folder {os.path.join(root, name)} holds no image '
          f'({", ".join(listing.EXTENSIONS)}); remove it, or put its images '
          'there'
        )
      for path in found:
        trees.check_readable(path)
        paths.append(path[start:])
        labels.append(label)
        if len(paths) % _COUNTED == 0:
          waiting.now_doing(
            f'counting the images in {root}: {len(paths):,} so far'
          )
  return paths, labels, left_out


def _part(root, part, divided, contents, labels):
  """Returns the positions of the images of a part."""
  side = divided.division.side_of(part)
  if side is not None:
    return [i for i, x in enumerate(contents) if divided.sides[x] == side]
  chosen = divided.chosen(part, contents, labels)
  if chosen is not None:
    return [i for i, content in enumerate(contents) if content in chosen]
  sides = divided.division.texts()
  name = part.partition('[')[0]
  side = divided.division.side_of(name)
  if side in (None, 'train') or name == part:
    raise InputError(
      f'no split {part!r} in {root}, which has no splits and is divided into '
      f'{", ".join(sides)}; choose one, or a part of all images in percent, '
      "such as 'train[:10%]'"
    )
  of_side = [i for i, x in enumerate(contents) if divided.sides[x] == side]
  _, select = split_parts.part_of(root, part, {name: of_side})
  return [of_side[i] for i in select(len(of_side))]


def _notes(class_names, paths, labels, contents):
  """Returns lines on classes that cannot be divided, and on equal images."""
  notes = []
  of_class = Counter(
    label for label, _ in set(zip(labels, contents, strict=True))
  )
  alone = [class_names[label] for label, n in of_class.items() if n == 1]
  if alone:
    notes.append(
      f'{len(alone)} of {len(class_names)} classes ({listed(sorted(alone))}) '
      'have one image, which is for training: no accuracy covers them'
    )
  first: dict[str, int] = {}
  doubtful = [
    (paths[first[content]], paths[i])
    for i, content in enumerate(contents)
    if labels[first.setdefault(content, i)] != labels[i]
  ]
  if doubtful:
    notes.append(
      f'{len(doubtful)} images have an equal one in another class, such as '
      f'{" and ".join(doubtful[0])}: one of the two labels is wrong'
    )
  named = [name for name in class_names if name.lower() in listing.SPLIT_NAMES]
  if named:
    notes.append(
      f'{listed(named)} is taken for a class, because images lie right below '
      'it as below the other folders'
    )
  return notes
