"""Which class of a model a data set's label means."""

import functools
import gzip
import importlib.resources
import itertools
from collections import Counter

import numpy as np

from vit_jax_repro.data.batches import NO_CLASS
from vit_jax_repro.errors import InputError

# Of a data set's classes, from how many on it is taken to be about a model's.
# ImageNet-21k has all of ImageNet's 1000 but n04399382, the teddy bear.
_NEARLY_ALL = 0.99


def class_names_of(num_classes):
  """Names of the classes of a published head; None if its size says nothing.

  1000 classes are ImageNet's (ILSVRC-2012), 21843 those of ImageNet-21k.
  """
  if num_classes in FILES:
    return class_names(num_classes)
  return None


def readable(label, class_names):
  """The name of a class, 'class 17' where there are no names."""
  return class_names[label] if class_names else f'class {label}'


def align(dataset_names, model_names, num_classes):
  """Matches the classes of a data set to those of a model by name.

  The data set may have fewer classes than the model and in another order.
  ImageNet classes may be called by WordNet id or by readable name on either
  side.

  Args:
    dataset_names: the data set's classes in label order.
    model_names: the model's, or None.
    num_classes: of the model.

  Returns:
    [len(dataset_names)] int32 labels of the model, NO_CLASS for a name that
    the model lacks while it has at least 99 of 100; None if it lacks more, so
    that labels must stand as they are.
  """
  for names in _vocabularies(model_names, num_classes):
    label_of = {name: label for label, name in enumerate(names)}
    # A name that two classes share, as ImageNet's two cranes do, says nothing.
    known = {name for name, times in Counter(names).items() if times == 1}
    found = [
      label_of[name] if name in known else NO_CLASS for name in dataset_names
    ]
    if found.count(NO_CLASS) <= (1 - _NEARLY_ALL) * len(found):
      return np.array(found, np.int32)
  return None


def translated(batches, table, num_classes):
  """Batches whose labels are the model's.

  Args:
    batches: dicts with label [B] int32, or [B, classes of the data set] with
      1 for each class that the image is of, and mask [B] bool, or no mask.
    table: what `align` gave; None leaves labels as they are.
    num_classes: of the model.

  Yields:
    The same with label [B] or [B, num_classes].

  Raises:
    InputError: a label that is no class, such as the -1 of unlabelled splits;
      NO_CLASS stays.
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
  result[lost] = -1  # of classes, though of none that the model has
  return result


def _vocabularies(model_names, num_classes):
  """Sequences of names, in the model's label order, that it may go by."""
  imagenets = []
  if num_classes in FILES:
    imagenets = [
      wordnet_ids(num_classes),
      class_names(num_classes),
    ]
  if model_names is None or tuple(model_names) in imagenets:
    return imagenets
  return [tuple(model_names)]


FILES = {
  1000: 'imagenet_classes.tsv',  # id, names
  21843: 'imagenet21k_classes.tsv.gz',  # id minus the id before it, names
}


def class_names(num_classes: int = 1000) -> tuple[str, ...]:
  """Readable names, synonyms separated by ', '."""
  return _classes(num_classes)[1]


def wordnet_ids(num_classes: int = 1000) -> tuple[str, ...]:
  """WordNet ids such as 'n01440764'."""
  return _classes(num_classes)[0]


@functools.cache
def _classes(num_classes):
  if num_classes not in FILES:
    raise InputError(
      f'no ImageNet class list of {num_classes=}; choose from {sorted(FILES)}'
    )
  name = FILES[num_classes]
  data = importlib.resources.files(__package__).joinpath(name).read_bytes()
  if name.endswith('.gz'):
    data = gzip.decompress(data)
  rows = [line.split('\t') for line in data.decode().splitlines()]
  ids, names = zip(*rows, strict=True)
  if name.endswith('.gz'):
    ids = tuple(f'n{n:08}' for n in itertools.accumulate(map(int, ids)))
  return ids, names
