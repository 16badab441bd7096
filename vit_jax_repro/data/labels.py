"""ImageNet's class names; translation of labels by a table."""

import functools
import gzip
import importlib.resources
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from vit_jax_repro.data.batches import NO_CLASS
from vit_jax_repro.errors import InputError

FILES = {  # class lists of ImageNet and ImageNet-21k, by number of classes
  1000: 'imagenet_classes.tsv',  # id, names
  21843: 'imagenet21k_classes.tsv.gz',  # id minus the previous id, names
}


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


def translated(
  batches: Iterable[dict[str, Any]],
  table: np.ndarray | None,
  num_classes: int,
) -> Iterator[dict[str, Any]]:
  """Translates the labels of batches to the model's.

  Args:
    batches: dicts with label [B] int32, or [B, classes of the data set] with
      1 for each class of the image. They may have a mask [B] bool.
    table: labels from `class_matching.match`; None keeps the labels.
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
