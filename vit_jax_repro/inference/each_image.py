"""What a model predicted for each image of a data set.

From this follow the accuracy of each class, the confusion matrix, and the list
of the images that are wrong. Shapes: N images, K classes of the data set.
"""

import collections
import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax_repro.data import labels as class_labels
from vit_jax_repro.data.batches import NO_CLASS
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import rows

_COLUMNS = (
  'place', 'own_label', 'predicted', 'probability', 'right', 'readable',
)  # fmt: skip
# Columns of the confusion matrix after the classes of the data set.
ANOTHER, UNREADABLE = 'another class', 'unreadable'


@dataclasses.dataclass(frozen=True)
class ClassAccuracy:
  """The accuracy of the images of a class."""

  label: int  # of the data set
  name: str
  num_examples: int
  correct: int
  accuracy: float | None  # None without images
  # The wrong class that is predicted most often, and how often.
  taken_for: str | None
  taken_for_count: int


@dataclasses.dataclass(frozen=True)
class EachImage:
  """The predictions for the images that have a label, in a fixed order."""

  class_names: tuple[str, ...]  # of the data set
  model_names: tuple[str, ...] | None  # of the model's classes
  labels: np.ndarray  # [K] the model's class of each class, or NO_CLASS
  place: np.ndarray  # [N] int, see pipeline.evaluation_batches
  truth: np.ndarray  # [N] int, the class of the image, or [N, K] bool
  predicted: np.ndarray  # [N] the model's class
  probability: np.ndarray  # [N] of the predicted class
  right: np.ndarray  # [N] bool
  readable: np.ndarray  # [N] bool
  # By position, the names of the images that are wrong.
  wrong_names: Mapping[int, str] = dataclasses.field(default_factory=dict)

  def per_class(self) -> list[ClassAccuracy]:
    """Returns the accuracy of each class of the data set, in label order.

    An image of several classes counts in each of them.
    """
    return [
      self._of_class(label, images)
      for label, images in enumerate(self._images_by_class())
    ]

  def confusion(self) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the confusion matrix [K, K + 2] and the names of its columns.

    Row i counts the predictions for the images of class i of the data set. The
    last columns count the predictions of classes that the data set lacks, and
    the images that cannot be decoded.

    The data set must have one label for each image, see `check_one_label`.
    """
    number = len(self.class_names)
    matrix = np.zeros((number, number + 2), np.int64)
    np.add.at(matrix, (self.truth, self._columns()), 1)
    return matrix, (*self.class_names, ANOTHER, UNREADABLE)

  def wrong(self) -> np.ndarray:
    """Returns the positions of the images that are wrong."""
    return np.flatnonzero(~self.right)

  def names_of(self, position: int) -> list[str]:
    """Returns the names of the classes of an image."""
    truth = self.truth[position]
    labels = np.flatnonzero(truth) if truth.ndim else [truth]
    return [self.class_names[label] for label in labels]

  def predicted_name(self, position: int) -> str:
    """Returns the name of the class that is predicted for an image."""
    return class_labels.readable(self.predicted[position], self.model_names)

  def _images_by_class(self):
    """Yields the positions of the images of each class."""
    number = len(self.class_names)
    if self.truth.ndim > 1:
      yield from (np.flatnonzero(self.truth[:, i]) for i in range(number))
      return
    order = np.argsort(self.truth, kind='stable')
    starts = np.searchsorted(self.truth[order], np.arange(number + 1))
    yield from (order[starts[i] : starts[i + 1]] for i in range(number))

  def _columns(self):  # -> [N]
    """Returns the column of the confusion matrix of each image."""
    number = len(self.class_names)
    column_of = {}
    for column, label in enumerate(self.labels):
      if label != NO_CLASS:
        column_of.setdefault(int(label), column)
    found = [column_of.get(int(label), number) for label in self.predicted]
    # Of several classes of the data set with one label, the right one.
    columns = np.where(self.right, self.truth, np.array(found, np.int64))
    return np.where(self.readable, columns, number + 1)

  def _of_class(self, label, images):
    correct = int(self.right[images].sum())
    mistaken = collections.Counter(
      self.predicted_name(i)
      for i in images
      if self.readable[i] and not self.right[i]
    )
    name, count = max(
      mistaken.items(), key=lambda item: item[1], default=(None, 0)
    )
    return ClassAccuracy(
      label=label,
      name=self.class_names[label],
      num_examples=len(images),
      correct=correct,
      accuracy=correct / len(images) if len(images) else None,
      taken_for=name,
      taken_for_count=count,
    )


def mean_accuracy(classes: Iterable[ClassAccuracy]) -> float:
  """Returns the mean of the accuracies of the classes that have images."""
  return float(np.mean([c.accuracy for c in classes if c.num_examples]))


def check_one_label(split: Any) -> None:
  """Raises an InputError if images of a datasets.Split may have more labels."""
  if split.multi_label:
    raise InputError(
      f'images of {split.name!r} may have several labels, so there is no '
      'confusion matrix; --per_class and --wrong take several labels'
    )


class Collector:
  """Collects the rows of `classify.eval_step`."""

  def __init__(self):
    self._rows: list[dict[str, np.ndarray]] = []

  def add(self, found: Mapping[str, Any]) -> None:
    """Adds the rows of a step, of all processes and with padding."""
    mask = np.asarray(found['counted'])
    kept = {name: np.asarray(found[name])[mask] for name in _COLUMNS}
    if kept['own_label'].ndim > 1:
      kept['own_label'] = kept['own_label'] > 0
    self._rows.append(kept)

  def result(
    self,
    class_names: Sequence[str],
    model_names: Sequence[str] | None,
    labels: np.ndarray,
  ) -> EachImage:
    """Returns the predictions; for the arguments see `EachImage`."""
    columns = {
      name: np.concatenate([found[name] for found in self._rows])
      for name in _COLUMNS
    }
    order = np.argsort(columns['place'])
    ordered: dict[str, Any] = {
      name: column[order] for name, column in columns.items()
    }
    ordered['truth'] = ordered.pop('own_label')
    return EachImage(
      class_names=tuple(class_names),
      model_names=None if model_names is None else tuple(model_names),
      labels=labels,
      **ordered,
    )


def write_wrong(path: str | os.PathLike, found: EachImage) -> None:
  """Writes a CSV file of the images that are wrong, in their order.

  Its columns are the name of the image, its classes in the data set (joined by
  ' | '), and the class of the model that was predicted: its number, name and
  probability. An image that cannot be decoded is predicted 'unreadable'.

  Raises:
    OSError: the file cannot be written; an existing file is unchanged.
  """
  with rows.csv_rows(path) as write:
    write(('image', 'class', 'predicted_label', 'predicted', 'probability'))
    for i in found.wrong():
      predicted = (None, UNREADABLE, None)
      if found.readable[i]:
        name, probability = found.predicted_name(i), found.probability[i].item()
        predicted = found.predicted[i], name, probability
      write((found.wrong_names[i], ' | '.join(found.names_of(i)), *predicted))
