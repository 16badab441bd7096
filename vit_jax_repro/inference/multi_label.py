"""Scores of a model that gives an image several labels, or none.

scikit-learn computes all of them, from the scores of the whole split:

  average precision   sklearn.metrics.average_precision_score of one class; the
                      mean is over the classes that have an image
  precision, recall, F1   sklearn.metrics.precision_recall_fscore_support, where
                      an image has each class of probability THRESHOLD or more.
                      'micro' sums over classes, 'macro' is the mean over the
                      classes that have an image. A fraction of nothing is 0.

An image that cannot be decoded counts as if the model gave it no class: its
probabilities are 0.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from vit_jax_repro.data import batches as batch_form
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference import classify
from vit_jax_repro.output import waiting
from vit_jax_repro.output.messages import listed

THRESHOLD = 0.5
TRUTH = 'truth'  # the key of a batch that `with_truth` adds


@dataclasses.dataclass(frozen=True)
class Average:
  """Precision, recall and F1 over several classes, as fractions."""

  precision: float
  recall: float
  f1: float


@dataclasses.dataclass(frozen=True)
class ClassScores:
  """The scores of one class, as fractions."""

  name: str
  images: int  # that have the class
  average_precision: float | None  # None: no image has the class
  precision: float
  recall: float
  f1: float


@dataclasses.dataclass(frozen=True)
class MultiLabel:
  """The scores of a split, see the top of this file."""

  mean_average_precision: float
  micro: Average
  macro: Average
  threshold: float
  num_examples: int  # images, also those without a label
  classes: tuple[ClassScores, ...]
  # Classes without an image, which the means leave out.
  empty_classes: tuple[str, ...]


class Scores:
  """Collects the scores of all images; `classify.evaluate` calls `add`."""

  def __init__(self):
    self._logits: list[np.ndarray] = []
    self._truth: list[np.ndarray] = []

  def add(self, rows: Mapping[str, Any]) -> None:
    """Adds the rows of a batch whose mask is True.

    Args:
      rows: logits [B, K], truth [B, K] (see `with_truth`) and mask [B], of all
        processes.
    """
    mask = np.asarray(rows['mask'])
    self._logits.append(np.asarray(rows['logits'])[mask])
    self._truth.append(np.asarray(rows[TRUTH])[mask])

  def measure(
    self, names: Sequence[str], classes: Sequence[int] | None = None
  ) -> MultiLabel:
    """Computes the scores of all rows.

    Args:
      names: a name for each of the K outputs.
      classes: the outputs that the labels are of; None: all.

    Raises:
      InputError: no image has a label.
    """
    columns = list(range(len(names)) if classes is None else classes)
    logits, truth = (
      np.concatenate(each)[:, columns] for each in (self._logits, self._truth)
    )
    # float64 keeps large logits apart, which are 1 in float32.
    scores = special.expit(logits.astype(np.float64))
    scores[truth < 0] = 0.0
    wanted = [names[column] for column in columns]
    with waiting.doing(f'computing the scores of {len(wanted):,} classes'):
      return measure(scores, np.abs(truth) == 1, wanted)


def evaluate(
  model: Any,
  params: Mapping[str, Any],
  batches: Iterable[dict[str, Any]],
  mesh: Any = None,
  *,
  names: Sequence[str],
  classes: Sequence[int] | None = None,
  keep: Callable[[Mapping[str, Any]], None] | None = None,
  **options: Any,
) -> dict[str, Any]:
  """Evaluates a classifier whose images have several labels.

  Args:
    model, params, mesh, keep, options: see `classify.evaluate`.
    batches: as from `with_truth`.
    names, classes: see `Scores.measure`.

  Returns:
    The result of `classify.evaluate`, and `multi_label`, a `MultiLabel`. A
    prediction counts as correct if its class is one of the image's; images
    without a label are skipped.

  Raises:
    InputError: as `classify.evaluate`; or no image has a label.
  """
  scores = Scores()

  def keep_rows(rows):
    scores.add(rows)
    if keep is not None:
      keep(rows)

  result = classify.evaluate(
    model, params, batches, mesh, keep=keep_rows, **options
  )
  return {**result, 'multi_label': scores.measure(names, classes)}


def measure(
  scores: np.ndarray, truth: np.ndarray, names: Sequence[str]
) -> MultiLabel:
  """Computes the scores of a split.

  Args:
    scores: [N, K] probabilities.
    truth: [N, K] bool, whether the image has the class.
    names: K names of the classes.

  Raises:
    InputError: no image has a class.
  """
  from sklearn import metrics

  if not truth.any():
    raise InputError(
      f'none of {len(truth)} images has one of the {len(names)} labels, so '
      'that there is nothing to measure; choose another split'
    )
  found = scores >= THRESHOLD
  if len(names) == 1:
    # scikit-learn takes one column for one class or another. Two equal columns
    # have the same means as one.
    truth, found = (np.repeat(x, 2, axis=1) for x in (truth, found))

  def averages(average, columns):
    values = metrics.precision_recall_fscore_support(
      truth, found, labels=columns, average=average, zero_division=0.0
    )
    return values[:3]

  filled = np.asarray(truth.any(axis=0))  # [K]
  every, nonempty = np.arange(filled.size), np.flatnonzero(filled)
  micro, macro = (
    Average(*map(float, averages(*each)))
    for each in (('micro', every), ('macro', nonempty))
  )
  precisions = [
    float(metrics.average_precision_score(truth[:, k], scores[:, k]))
    if filled[k]
    else None
    for k in range(len(names))
  ]
  by_class = zip(*averages(None, every), strict=True)
  classes = tuple(
    ClassScores(name, int(number), precision, *map(float, values))
    for name, number, precision, values in zip(
      names, truth.sum(axis=0), precisions, by_class, strict=False
    )
  )
  return MultiLabel(
    mean_average_precision=float(
      np.mean([x for x in precisions if x is not None])
    ),
    micro=micro,
    macro=macro,
    threshold=THRESHOLD,
    num_examples=len(truth),
    classes=classes,
    empty_classes=tuple(x.name for x in classes if not x.images),
  )


def with_truth(
  batches: Iterable[dict[str, Any]],
  table: np.ndarray | None,
  num_classes: int,
) -> Iterator[dict[str, Any]]:
  """Adds the labels that `measure` compares with to batches.

  Args:
    batches: dicts with label [B, classes of the data set], see data/batches.py.
    table: the model's class of each class of the data set, or NO_CLASS; None:
      the classes are the same.
    num_classes: K, of the model.

  Yields:
    The batches with truth [B, K] int8: 1 for a class of the image, else 0; of
    an image that cannot be decoded -1 for its classes and -2 for the others.
  """
  for batch in batches:
    label = batch['label']
    columns = np.arange(label.shape[1]) if table is None else table
    has = columns != batch_form.NO_CLASS
    truth = np.zeros((len(label), num_classes), np.int8)
    truth[:, columns[has]] = np.abs(label[:, has]) == 1
    lost = (label < 0).any(axis=1)
    truth[lost] = np.where(truth[lost] == 1, -1, -2)
    yield {**batch, TRUTH: truth}


def scalars(scores: MultiLabel, which: str) -> dict[str, float]:
  """Returns the scores of a run's metrics.jsonl.

  Args:
    scores: of one evaluation.
    which: the split, 'test' or 'validation'.
  """
  return {
    f'mean_average_precision_{which}': scores.mean_average_precision,
    f'f1_micro_{which}': scores.micro.f1,
    f'f1_macro_{which}': scores.macro.f1,
  }


def summary(scores: Mapping[str, Any]) -> dict[str, str]:
  """Returns {name of a row: text} for a table, without the classes.

  Args:
    scores: a `MultiLabel` as a dict.
  """
  classes, empty = scores['classes'], scores['empty_classes']
  precision = (
    f'{scores["mean_average_precision"]:.2%} over '
    f'{len(classes) - len(empty)} of {len(classes)} classes'
  )
  if empty:
    precision += f'; no image has {listed(empty)}'
  rows = {'mean average precision': precision}
  for kind in ('micro', 'macro'):
    average = scores[kind]
    rows[f'at {scores["threshold"]:g}, {kind}'] = (
      f'precision {average["precision"]:.2%}, recall {average["recall"]:.2%}, '
      f'F1 {average["f1"]:.2%}'
    )
  return rows
