"""Which class of a model a data set's label means."""

from collections import Counter

import numpy as np

from vit_jax_repro.data import imagenet


def class_names_of(num_classes):
  """Names of the classes of a published head; None if its size says nothing.

  1000 classes are ImageNet's (ILSVRC-2012), 21843 those of ImageNet-21k.
  """
  if num_classes in imagenet.FILES:
    return imagenet.class_names(num_classes)
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
    [len(dataset_names)] int32 labels of the model; None if some name of the
    data set is not one of the model's, so that labels must stand as they are.
  """
  for names in _vocabularies(model_names, num_classes):
    label_of = {name: label for label, name in enumerate(names)}
    # A name that two classes share, as ImageNet's two cranes do, says nothing.
    known = {name for name, times in Counter(names).items() if times == 1}
    if set(dataset_names) <= known:
      return np.array([label_of[name] for name in dataset_names], np.int32)
  return None


def translated(batches, table, num_classes):
  """Batches whose labels are the model's.

  Args:
    batches: dicts with label [B] int32 and mask [B] bool, or no mask.
    table: what `align` gave; None leaves labels as they are.
    num_classes: of the model.

  Raises:
    ValueError: a label that is no class, such as the -1 of unlabelled splits.
  """
  largest = num_classes if table is None else len(table)
  for batch in batches:
    label = batch['label']
    outside = (label < 0) | (label >= largest)
    wrong = label[outside & batch.get('mask', True)]
    if wrong.size:
      raise ValueError(
        f'label {wrong[0]} of the data set is none of the {largest} classes'
      )
    yield batch if table is None else {**batch, 'label': table[label]}


def _vocabularies(model_names, num_classes):
  """Sequences of names, in the model's label order, that it may go by."""
  imagenets = []
  if num_classes in imagenet.FILES:
    imagenets = [
      imagenet.wordnet_ids(num_classes),
      imagenet.class_names(num_classes),
    ]
  if model_names is None or tuple(model_names) in imagenets:
    return imagenets
  return [tuple(model_names)]
