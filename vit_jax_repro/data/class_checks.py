"""Checks of class names and of splits: does an accuracy on them say anything?

The checks of splits see the class folders of a folder of images. Of other data
sets they know only the number of classes, because labels would have to be read
from all files.
"""

import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vit_jax_repro.errors import InputError
from vit_jax_repro.output.messages import listed

_MOSTLY = 0.5  # part of a class's images that is most of them


def in_order(names: Iterable[str]) -> list[str]:
  """Returns sorted names: by number if all of them are whole numbers."""
  names = list(names)
  if all(name.isdecimal() for name in names):
    return sorted(names, key=lambda name: (int(name), name))
  return sorted(names)


def check_spellings(
  root: str | os.PathLike, splits: Mapping[str, Sequence[str]]
) -> None:
  """Refuses names of one class that are spelt in two ways.

  Names that are one letter each, such as 'A' and 'a', are two classes.

  Args:
    root: path of a folder of images.
    splits: {split: names of its classes}.

  Raises:
    InputError: two names differ only in letter case, or in whether an accent
      is a character of its own (Unicode's forms NFC and NFD).
  """
  seen: dict[str, tuple[str, str]] = {}  # {form: (name, split)}
  for split, names in splits.items():
    for name in names:
      other, where = seen.setdefault(_form(name), (name, split))
      if other == name:
        continue
      shown = [os.path.join(where, other), os.path.join(split, name)]
      if _composed(other) == _composed(name):  # they look the same
        shown = [ascii(path) for path in shown]
      raise InputError(
        f'{root} has the class folders {" and ".join(shown)}, which differ '
        'only in letter case or in how accents are stored; give them one name'
      )


def spelt_twice(names: Iterable[str]) -> tuple[str, str] | None:
  """Returns the first two names that `check_spellings` would refuse."""
  seen: dict[str, str] = {}  # {form: name}
  for name in names:
    other = seen.setdefault(_form(name), name)
    if other != name:
      return other, name
  return None


def _composed(name):
  return unicodedata.normalize('NFC', name)


def _form(name):
  """Returns what all spellings of a name share."""
  name = _composed(name)
  return name if len(name) == 1 else _composed(name.casefold())


def check_training(train: Any, test: Any, *, as_is: bool = False) -> list[str]:
  """Refuses splits with which training or its accuracy means nothing.

  Args:
    train, test: datasets.Split of one data set.
    as_is: whether labels are taken by position, whatever the class names say.
      Then a class of the test split may be without training images.

  Returns:
    Lines on classes that one of the splits lacks, for the user.

  Raises:
    InputError: the training split has one class; images that may have several
      labels all have the same ones; or, without `as_is`, the
      test split has one of several, or a class folder that the training split
      lacks.
  """
  if train.num_classes < 2 and not train.multi_label:
    raise InputError(_one_class(train, 'nothing is learned'))
  if train.folder is None or test.folder is None:
    return []
  if train.multi_label:
    _require_several_answers(train, 'nothing is learned')
    _require_several_answers(test, 'any model that gives them is right')
  elif len(train.folder.label_set()) < 2:
    raise InputError(_one_class(train, 'nothing is learned'))
  trained, tested = (set(split.folder.folder_labels) for split in (train, test))
  notes: list[str] = _note_on_same_folders(train)
  unknown = tested - trained
  if unknown and not as_is:
    remedy = 'move these folders away'
    place = test.folder.where_first(min(unknown))
    if place:
      remedy = f'remove these labels (the first is in {place})'
    raise InputError(
      f'split {test.split!r} of {test.name} has {_named(test, unknown)}, which '
      f'split {train.split!r} lacks, so that their images could never be '
      f'right; add training images, or {remedy}'
    )
  drawn, asked = (split.folder.label_set() for split in (train, test))
  never, missing = asked - drawn, drawn - asked
  if never:
    notes.append(
      f'split {train.split!r} has no image of {_named(test, never)}, which '
      f'split {test.split!r} has: their images count as wrong'
    )
  if len(asked) == 1 and not test.multi_label:
    if len(tested) == 1 and not as_is:
      raise InputError(
        _one_class(test, 'a model with one answer to all images is right')
      )
    notes.append(_note_on_one(test))
  elif missing:
    notes.append(
      f'split {test.split!r} has no image of {_named(test, missing)}: its '
      'accuracy does not cover them'
    )
  others = set(range(train.num_classes)) - trained - tested
  if others:
    notes.append(
      f'only other splits of {train.name} have {_named(train, others)}: the '
      'model gets an output for each and never sees an image'
    )
  return notes


def _note_on_same_folders(train):
  """Notes class folders that all have the same two or more folders in them.

  Then these may be the classes, one level too deep: images/{cat,dog} and
  masks/{cat,dog}.
  """
  paths, labels = train.folder.paths, train.folder.labels
  if not train.folder.has_class_folders:
    return []
  # SPLIT/CLASS/FOLDER/.../IMAGE; most data sets end this test at one path.
  if not all(path.count(os.sep) > 2 for path in paths):
    return []
  below: dict[int, set[str]] = {}  # {label: folders in the class folder}
  for path, label in zip(paths, labels, strict=True):
    below.setdefault(label, set()).add(path.split(os.sep)[2])
  first, *others = below.values()
  if len(first) < 2 or any(other != first for other in others):
    return []
  return [
    f'all classes of split {train.split!r} ({_named(train, below)}) have the '
    f'same folders in them, {listed(first)}; if these are the classes, move '
    'them up'
  ]


def check_evaluation(source: Any, *, by_name: bool) -> list[str]:
  """Refuses an evaluation whose accuracy means nothing.

  Images of one class are a sound test of a model that has a class of this
  name. Without names, the only class of a data set is class 0 of the model,
  whatever it is.

  Args:
    source: a datasets.Split.
    by_name: whether its classes were matched to the model's by name.

  Returns:
    Lines for the user.

  Raises:
    InputError: the data set has one class and no name to match.
  """
  if source.num_classes < 2 and not by_name:
    raise InputError(
      _one_class(source, 'it would be taken for class 0 of the model')
    )
  if source.multi_label:
    if source.folder:
      _require_several_answers(source, 'any model that gives them is right')
    return []
  if source.folder and len(source.folder.label_set()) == 1:
    return [_note_on_one(source)]
  return []


def unreadable_by_class(
  split: Any, names: Iterable[str], *, in_all_processes: bool = True
) -> dict[str, tuple[int, int]]:
  """Returns {class: (unreadable images, images)} of the classes with some.

  Args:
    split: a datasets.Split; the result is empty if it is no folder.
    names: unreadable images, as from `split.locate`; some may occur twice.
    in_all_processes: whether to count those of all processes, each of which
      must call this.
  """
  folder = split.folder
  if folder is None:
    return {}
  lost = np.zeros(folder.num_examples, bool)
  lost[folder.positions(names)] = True
  if in_all_processes and jax.process_count() > 1:
    from jax.experimental import multihost_utils

    lost = multihost_utils.process_allgather(lost).any(axis=0)
  everything = slice(None)
  counts, sizes = (folder.counts(which) for which in (lost, everything))
  return {
    split.class_names[i]: (int(counts[i]), int(sizes[i]))
    for i in np.flatnonzero(counts)
  }


def notes_on_unreadable(
  split: Any, counts: dict[str, tuple[int, int]], fate: str
) -> list[str]:
  """Returns a line for the classes that lost most of their images.

  Args:
    split: a datasets.Split.
    counts: from `unreadable_by_class`.
    fate: the end of the line, such as 'counted as wrong'.
  """
  lost = [
    f'{name} {some if some < of else "all"} of {of}'
    for name, (some, of) in counts.items()
    if some >= _MOSTLY * of
  ]
  if not lost:
    return []
  return [
    f'most images of {len(lost)} of {split.num_classes} classes of split '
    f'{split.split!r} cannot be decoded ({listed(lost)}); {fate}'
  ]


def _require_several_answers(split, why):
  """Refuses images with several labels that all have the same ones."""
  first, *others = set(split.folder.labels)
  if others:
    return
  names = [split.class_names[label] for label in first]
  raise InputError(
    f'all {split.num_examples} images of split {split.split!r} of {split.name} '
    f'have the same labels ({listed(names)}), so that {why}; add images with '
    'others'
  )


def _one_class(split, why):
  """Returns why one class is refused, with the folders below its folder."""
  folder = split.folder
  label = 0
  if folder is not None and not folder.multi_label:
    (label,) = folder.label_set()
  name = split.class_names[label]
  where = f'split {split.split!r} of {split.name}'
  below = [] if folder is None else folder.folders_below(label)
  if below and len(folder.folder_labels) == 1:
    path = os.path.dirname(folder.paths[0]).split(os.sep)[:2]
    return (
      f'{where} has one class, so that {why}; {os.path.join(*path)} has '
      f'{listed(below)}: are these the classes? move them up'
    )
  need = 'an image folder is ROOT/SPLIT/CLASS with two classes or more'
  if folder is not None and not folder.has_class_folders:
    need = 'labels.csv must have two labels or more'
  return f'{where} has images of one class, {name!r}, so that {why}; {need}'


def _note_on_one(split):
  (label,) = split.folder.label_set()
  return (
    f'all images of split {split.split!r} are of one of {split.num_classes} '
    f'classes, {split.class_names[label]!r}: the accuracy says nothing about '
    'the others'
  )


def _named(split, labels):
  names = [split.class_names[label] for label in sorted(labels)]
  return f'{len(names)} of {split.num_classes} classes ({listed(names)})'
