"""Accuracy of a weights file on a data set."""

import dataclasses
import os
import time
from typing import Any

import jax

from vit_jax_repro.data import (
  class_checks,
  datasets,
  labels,
  pipeline,
  preprocess,
)
from vit_jax_repro.data.batches import NO_CLASS
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference import classify
from vit_jax_repro.inference.restoring import restore
from vit_jax_repro.output.messages import note


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """The result of `evaluate`; accuracies are fractions."""

  accuracy: float
  top5_accuracy: float
  correct: int
  num_examples: int  # denominator of the accuracies
  seconds: float  # for reading, compiling and computing
  images_per_sec: float
  weights: str
  dataset: str
  split: str
  model: str
  image_size: tuple[int, int]
  preprocessing: str
  num_classes: int  # of the model
  skipped: int = 0  # further images without a label (ImageNet-ReaL)
  # One line for each image that this process could not decode. These images
  # count as wrong.
  unreadable: tuple[str, ...] = ()
  # Lines on the data: files left out, classes without a readable image.
  notes: tuple[str, ...] = ()


def evaluate(
  weights: str | os.PathLike,
  dataset: str,
  *,
  model: str | None = None,
  split: str = 'test',
  batch_size: int = 64,
  preprocessing: str | None = None,
  image_size: int | tuple[int, ...] | list[int] | None = None,
  data_dir: str | None = None,
  head: str = 'both',
) -> Evaluation:
  """Measures top-1 and top-5 accuracy; every image counts once.

  If the data set's class names are among the model's, labels are matched by
  name; otherwise they are used unchanged. If an image has several classes, a
  prediction of any of them is correct; an image without a class is skipped. An
  image that cannot be decoded counts as wrong.

  Args:
    weights, model, image_size, preprocessing: see `restoring.restore`.
    dataset, split, data_dir: see data.datasets.open_split.
    batch_size: images of a step, over all processes and devices; any number.
    head: 'class' or 'distillation' evaluates one head of a distilled model.

  Returns:
    The accuracies and the settings of the evaluation.

  Raises:
    InputError: an argument or a file is wrong, the head is all zeros, or the
      model has no class for a label. The message is one line.
    OSError: a file or data set is missing or cannot be read.
  """
  if batch_size < 1:
    raise InputError(f'{batch_size=} must be at least 1')
  restored = restore(weights, model, image_size, preprocessing)
  restored.require_trained_head(weights)
  restored = dataclasses.replace(
    restored, model=classify.pick_head(restored.model, head)
  )
  source = datasets.open_split(dataset, split, data_dir=data_dir)
  started = time.perf_counter()
  faults: list[tuple[str, str]] = []  # (name, reason)
  table = _label_table(source, restored)
  notes = [
    *source.notes,
    *class_checks.check_evaluation(source, by_name=table is not None),
  ]
  for line in notes:
    note(line)
  measured = _measured(
    source, restored, table, batch_size, lambda *fault: faults.append(fault)
  )
  counts = class_checks.unreadable_by_class(source, (x for x, _ in faults))
  lost = class_checks.notes_on_unreadable(source, counts, 'they count as wrong')
  for line in lost:
    note(line)
  seconds = time.perf_counter() - started
  return Evaluation(
    **measured,
    unreadable=tuple(preprocess.undecodable(*fault) for fault in faults),
    notes=(*notes, *lost),
    seconds=seconds,
    images_per_sec=source.num_examples / seconds,
    weights=os.fspath(weights),
    dataset=dataset,
    split=split,
    model=restored.name,
    image_size=restored.image_size,
    preprocessing=restored.preprocessing,
    num_classes=restored.num_classes,
  )


def _measured(source, restored, table, batch_size, report) -> dict[str, Any]:
  """Returns accuracies and counts, over all processes."""
  examples = pipeline.evaluation_batches(
    source,
    preprocessing=restored.preprocessing,
    image_size=restored.image_size,
    batch_size=-(-batch_size // jax.process_count()),
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    report=report,
  )
  measured = classify.evaluate(
    restored.model,
    restored.params,
    labels.translated(examples, table, restored.num_classes),
    num_examples=source.num_examples,
  )
  measured.pop('correct_top5')
  return measured


def _label_table(source, restored):
  """Returns the model's label for each label of the data set.

  Returns None if labels are used unchanged.
  """
  names, num_classes = restored.class_names, restored.num_classes
  table = labels.align(source.class_names, names, num_classes)
  if table is None and source.num_classes > num_classes:
    raise InputError(
      f'data set {source.name!r} has {source.num_classes} classes and the '
      f'model {num_classes}; use weights for this data set'
    )
  if table is None and names is not None:
    note(
      f'class names of {source.name!r} are not those of the model; labels are '
      'used unchanged'
    )
  lacking = 0 if table is None else int((table == NO_CLASS).sum())
  if lacking:
    note(
      f'the model has no class for {lacking} of the {source.num_classes} of '
      f'{source.name!r}; their images count as wrong'
    )
  if source.num_classes < num_classes:
    note(
      f'the model has {num_classes} classes, more than the '
      f'{source.num_classes} of {source.name!r}'
    )
  return table
