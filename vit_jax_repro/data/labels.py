"""ImageNet's class names; translation of a data set's labels to a model's."""

import functools
import gzip
import importlib.resources
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from vit_jax_repro.data.batches import NO_CLASS
from vit_jax_repro.errors import InputError

FILES = {  # class lists of ImageNet and ImageNet-21k, by number of classes
  1000: 'imagenet_classes.tsv',  # id, names
  21843: 'imagenet21k_classes.tsv.gz',  # id minus the previous id, names
}
# Fraction of a data set's classes that a model must have for a match by name.
# ImageNet-21k has all of ImageNet's 1000 but n04399382, the teddy bear.
_NEARLY_ALL = 0.99


def class_names_of(num_classes: int) -> tuple[str, ...] | None:
  """Returns the class names of a published head, None for other sizes.

  1000 classes are those of ImageNet (ILSVRC-2012), 21843 those of ImageNet-21k.
  """
  return class_names(num_classes) if num_classes in FILES else None


def class_names(num_classes: int = 1000) -> tuple[str, ...]:
  """Returns readable ImageNet class names, with synonyms separated by ', '."""
  return _classes(num_classes)[1]


def wordnet_ids(num_classes: int = 1000) -> tuple[str, ...]:
  """Returns the WordNet ids of ImageNet classes, such as 'n01440764'."""
  return _classes(num_classes)[0]


def readable(label: int, class_names: Sequence[str] | None) -> str:
  """Returns the name of a class, or 'class 17' without names."""
  return class_names[label] if class_names else f'class {label}'


def align(
  dataset_names: Sequence[str],
  model_names: Iterable[str] | None,
  num_classes: int,
) -> np.ndarray | None:
  """Matches the classes of a data set to those of a model by name.

  The data set may have fewer classes than the model, in another order.
  ImageNet classes may have their WordNet ids or readable names on either side.

  Args:
    dataset_names: the data set's classes in label order.
    model_names: the model's classes in label order, or None.
    num_classes: of the model.

  Returns:
    [len(dataset_names)] int32 labels of the model, with NO_CLASS for each name
    that the model lacks. None if the model lacks more than 1 % of the names;
    then the data set's labels must be used unchanged.
  """
  for names in _vocabularies(model_names, num_classes):
    label_of = {name: label for label, name in enumerate(names)}
    # A name of two classes, such as ImageNet's two cranes, is ambiguous.
    unique = {name for name, times in Counter(names).items() if times == 1}
    labels = [
      label_of[name] if name in unique else NO_CLASS for name in dataset_names
    ]
    if labels.count(NO_CLASS) <= (1 - _NEARLY_ALL) * len(labels):
      return np.array(labels, np.int32)
  return None


def translated(
  batches: Iterable[dict[str, Any]],
  table: np.ndarray | None,
  num_classes: int,
) -> Iterator[dict[str, Any]]:
  """Translates the labels of batches to the model's.

  Args:
    batches: dicts with label [B] int32, or [B, classes of the data set] with
      1 for each class of the image. They may have a mask [B] bool.
    table: from `align`; None keeps the labels.
    num_classes: of the model.

  Yields:
    The batches with label [B] or [B, num_classes].

  Raises:
    InputError: a label is not a class, such as the -1 of unlabelled splits.
      NO_CLASS is allowed and kept.
  """
  largest = num_classes if table is None else len(table)
  for batch in batches:
    label = batch['label']
    if label.ndim == 2:
      yield {**batch, 'label': _translated_columns(label, table, num_classes)}
      continue
    never = label == NO_CLASS
    outside = ((label < 0) | (label >= largest)) & ~never
    wrong = label[outside & batch.get('mask', True)]
    if wrong.size:
      raise InputError(
        f'label {wrong[0]} of the data set is none of the {largest} classes'
      )
    if table is None:
      yield batch
    else:
      label = np.where(never, NO_CLASS, table[np.where(never, 0, label)])
      yield {**batch, 'label': label}


def _translated_columns(label, table, num_classes):  # [B, K] -> [B, classes]
  if table is None:
    table = np.arange(label.shape[1])
  has = table != NO_CLASS
  result = np.zeros((len(label), num_classes), label.dtype)
  result[:, table[has]] = label[:, has]
  lost = label.any(axis=1) & ~result.any(axis=1)
  result[lost] = -1  # the model lacks all classes of the image
  return result


def _vocabularies(model_names, num_classes):
  """Returns the possible tuples of a model's class names, in label order."""
  imagenets = []
  if num_classes in FILES:
    imagenets = [wordnet_ids(num_classes), class_names(num_classes)]
  if model_names is None or tuple(model_names) in imagenets:
    return imagenets
  return [tuple(model_names)]


@functools.cache
def _classes(num_classes):
  if num_classes not in FILES:
    raise InputError(
      f'no ImageNet class list of {num_classes=}; choose from {sorted(FILES)}'
    )
  name = FILES[num_classes]
  folder = importlib.resources.files('vit_jax_repro.data')
  data = folder.joinpath(name).read_bytes()
  if name.endswith('.gz'):
    data = gzip.decompress(data)
  rows = [line.split('\t') for line in data.decode().splitlines()]
  ids, names = zip(*rows, strict=True)
  if name.endswith('.gz'):
    ids = tuple(f'n{n:08}' for n in itertools.accumulate(map(int, ids)))
  return ids, names
