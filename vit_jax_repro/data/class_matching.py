"""Matching of a data set's classes to a model's, by name.

Names are compared in four steps, from exact to loose: as they are; in one
Unicode form; without regard to letter case, blanks, hyphens and underscores;
by WordNet ids and synonyms. The first step that finds a class decides.
"""

import dataclasses
import functools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from vit_jax_repro.data import labels
from vit_jax_repro.data.batches import NO_CLASS
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages

BY_NAME, AS_IS = 'by_name', 'as_is'  # choices of a user
NAMES, NUMBERS, POSITIONS = 'names', 'numbers', 'positions'
_STEPS = 4
_WORDNET_ID = re.compile(r'(n\d{8})(?:[\s_-]+(.*))?')
# A model is taken for one of ImageNet if it has at least this fraction of
# ImageNet's names, each at its place. Other lists spell a few differently.
_MOSTLY = 0.9


@dataclasses.dataclass(frozen=True)
class Match:
  """The classes of a model that the classes of a data set are."""

  labels: np.ndarray  # [classes of the data set] int32, or NO_CLASS
  by: str  # NAMES, NUMBERS, POSITIONS or AS_IS
  inexact: tuple[str, ...] = ()  # "'Cat' is 'cat'", for names spelt otherwise
  ambiguous: tuple[str, ...] = ()  # names of several classes of the model
  lacking: tuple[str, ...] = ()  # names of no class of the model

  @property
  def unmatched(self) -> tuple[str, ...]:
    """The names whose images count as wrong."""
    return self.lacking + self.ambiguous

  def notes(self, dataset: str) -> list[str]:
    """Returns what a user should know of the match, one line each.

    Args:
      dataset: the data set, in words.
    """
    lines = []
    if self.by == POSITIONS:
      lines.append(
        f'no class names are known to compare for {dataset}; its labels are '
        "taken as the model's"
      )
    is_moved = (self.labels != np.arange(len(self.labels))).any()
    if self.by == NUMBERS and is_moved:
      lines.append(
        f'the class names of {dataset} are numbers; they are taken as the '
        "model's class numbers, from 0"
      )
    if self.inexact:
      lines.append(
        f'{len(self.inexact)} class names of {dataset} are spelt otherwise '
        f'in the model: {messages.listed(self.inexact)}'
      )
    total = len(self.labels)
    if self.lacking:
      lines.append(
        f'the model has no class for {len(self.lacking)} of the {total} of '
        f'{dataset} ({_listed(self.lacking)}); their images count '
        'as wrong'
      )
    if self.ambiguous:
      lines.append(
        f'{len(self.ambiguous)} class names of {dataset} are those of '
        f'several classes of the model ({_listed(self.ambiguous)}); '
        'their images count as wrong'
      )
    return lines


def match(
  dataset_names: Sequence[str],
  model_names: Sequence[str] | None,
  num_classes: int,
  *,
  how: str = BY_NAME,
) -> Match:
  """Finds the model's class for each class of a data set.

  The data set may have fewer classes, other classes, and another order.
  ImageNet's classes may have WordNet ids or readable names on either side.
  Names that are all whole numbers are class numbers, unless the model has such
  names itself.

  Args:
    dataset_names: the data set's classes in label order.
    model_names: the model's classes in label order; None if they are unknown.
    num_classes: of the model. 1000 and 21843 without names are ImageNet's.
    how: BY_NAME, or AS_IS to take the data set's labels as they are.

  Raises:
    InputError: no name matches; or the model has no names and another number
      of classes.
  """
  if how not in (BY_NAME, AS_IS):
    raise InputError(f'labels={how!r} must be {BY_NAME!r} or {AS_IS!r}')
  model_names = model_names or labels.class_names_of(num_classes)
  if how == AS_IS:
    return _by_position(dataset_names, num_classes, AS_IS)
  if model_names is not None:
    named = _by_name(dataset_names, model_names)
    if len(named.unmatched) < len(dataset_names):
      return named
  numbered = None
  if not any(name.isdecimal() for name in model_names or ()):
    numbered = _by_number(dataset_names, num_classes)
  if numbered is not None:
    return numbered
  if model_names is None and len(dataset_names) >= num_classes:
    return _by_position(dataset_names, num_classes, POSITIONS)
  if model_names is None:
    raise InputError(
      f'the {num_classes} classes of the model have no names, so those of the '
      f'data set ({_listed(dataset_names)}) cannot be found among them; give '
      "the file names (convert --class_names), or labels='as_is'"
    )
  raise InputError(
    f'no class of the data set ({_listed(dataset_names)}) is one of '
    f'the model ({_listed(model_names)}); use weights for this data '
    "set, or labels='as_is' to take its labels as the model's"
  )


def rows(
  dataset_names: Sequence[str],
  model_names: Sequence[str] | None,
  num_classes: int,
  *,
  how: str = BY_NAME,
) -> Match:
  """Finds the rows of a head that are the data set's classes, one for each.

  Args:
    dataset_names, model_names, num_classes, how: see `match`.

  Raises:
    InputError: as `match`; or a class has no row, or shares it with another.
  """
  found = match(dataset_names, model_names, num_classes, how=how)
  if found.unmatched:
    raise InputError(
      f'it has no class {_listed(found.unmatched)}, as the data set '
      "has; use another file, or labels='as_is'"
    )
  shared = [
    name
    for name, label in zip(dataset_names, found.labels, strict=True)
    if (found.labels == label).sum() > 1
  ]
  if shared:
    raise InputError(
      f'the classes {_listed(shared)} of the data set have the name of '
      "one class of it; rename them, or give labels='as_is'"
    )
  return found


def _by_name(dataset_names, model_names):
  ids = _imagenet_ids(model_names)
  indices = _indices(model_names, ids)
  found, inexact, ambiguous, lacking = [], [], [], []
  for name in dataset_names:
    with_id = _WORDNET_ID.fullmatch(name)
    # Where both sides have ids, synonyms could only mislead: ImageNet-21k has a
    # "teddy" that is a garment, and no teddy bear.
    only = [with_id[1]] if with_id and ids else None
    label, step = _find(name, indices, only)
    found.append(NO_CLASS if label is None else label)
    if label is not None and step:
      inexact.append(f'{name!r} is {model_names[label]!r}')
    if label is None:
      (lacking if step is None else ambiguous).append(name)
  return Match(
    np.array(found, np.int32),
    NAMES,
    inexact=tuple(inexact),
    ambiguous=tuple(ambiguous),
    lacking=tuple(lacking),
  )


def _find(name, indices, only):
  """Returns (label, step) of a name.

  The label is None for a name of several classes. Both are None for a name of
  no class. `only` replaces the keys of the name.
  """
  for step, index in enumerate(indices):
    keys = _keys(name, step) if only is None else only
    found = [index[key] for key in keys if key in index]
    for labels_of_key in found:
      if len(labels_of_key) == 1:
        return next(iter(labels_of_key)), step
    if found:
      return None, step
  return None, None


def _indices(model_names, ids):
  """Returns for each step {key: labels of the classes that have it}."""
  ids = ids or [None] * len(model_names)
  indices = [defaultdict(set) for _ in range(_STEPS)]
  for label, (name, wordnet_id) in enumerate(
    zip(model_names, ids, strict=True)
  ):
    for step, index in enumerate(indices):
      for each in (name, wordnet_id):
        for key in () if each is None else _keys(each, step):
          index[key].add(label)
  return indices


def _keys(name: str, step: int) -> Iterator[str]:
  """Yields what two names must share to match at a step, the best first."""
  if step == 0:
    yield name
  elif step == 1:
    yield unicodedata.normalize('NFC', name)
  elif step == 2:
    yield _tidy(name)
  else:
    found = _WORDNET_ID.fullmatch(name)
    if found:
      wordnet_id, name = found[1], found[2] or ''
      yield wordnet_id
      name = name or _readable_names().get(wordnet_id, '')
    for synonym in name.split(','):
      if key := _tidy(synonym):
        yield key


def _tidy(name):
  """Returns a name without case, and with one blank for all separators."""
  name = unicodedata.normalize('NFKC', name).casefold()
  name = ' '.join(re.split(r'[\s_-]+', name)).strip()
  return str(int(name)) if name.isdecimal() else name


@functools.cache
def _readable_names():
  """Returns {WordNet id: names} of ImageNet-21k and ImageNet."""
  return {
    wordnet_id: name
    for number in sorted(labels.FILES, reverse=True)
    for wordnet_id, name in zip(
      labels.wordnet_ids(number), labels.class_names(number), strict=True
    )
  }


def _imagenet_ids(model_names):
  """Returns the WordNet ids of a model of ImageNet's classes, or None."""
  number = len(model_names)
  if number not in labels.FILES:
    return None
  ids, names = labels.wordnet_ids(number), labels.class_names(number)
  same = sum(
    not {*_keys(own, 3)}.isdisjoint((*_keys(name, 3), wordnet_id))
    for own, name, wordnet_id in zip(model_names, names, ids, strict=True)
  )
  return ids if same >= _MOSTLY * number else None


def _listed(names):
  return messages.listed(map(messages.quoted, names))


def _by_position(dataset_names, num_classes, by):
  number = len(dataset_names)
  if number > num_classes:
    raise InputError(
      f'the data set has {number} classes and the model {num_classes}; use '
      'weights for this data set'
    )
  return Match(np.arange(number, dtype=np.int32), by)


def _by_number(dataset_names, num_classes):
  """Takes names as class numbers; None if none or one too large is a number.

  Names that are no numbers, such as 'unsorted', are no class of the model.
  """
  numbers = {
    place: int(name)
    for place, name in enumerate(dataset_names)
    if name.isdecimal()
  }
  if not numbers or max(numbers.values()) >= num_classes:
    return None
  found = np.full(len(dataset_names), NO_CLASS, np.int32)
  found[list(numbers)] = list(numbers.values())
  lacking = tuple(name for name in dataset_names if not name.isdecimal())
  return Match(found, NUMBERS, lacking=lacking)
