"""Accuracy of a weights file on a data set."""

import dataclasses
import functools
import os
import time
from typing import Any

import jax
import numpy as np

from vit_jax_repro.data import (
  class_checks,
  class_matching,
  datasets,
  pipeline,
  preprocess,
  split_records,
)
from vit_jax_repro.data.batches import NO_CLASS
from vit_jax_repro.data.labels import readable, translated
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference import classify, multi_label, process_facts
from vit_jax_repro.inference import zero_shot as texts_as_classes
from vit_jax_repro.inference.each_image import (
  Collector,
  EachImage,
  check_one_label,
)
from vit_jax_repro.inference.multi_label import MultiLabel
from vit_jax_repro.inference.restoring import restore
from vit_jax_repro.output import waiting
from vit_jax_repro.output.messages import note, note_unapplied
from vit_jax_repro.parallel import host_memory
from vit_jax_repro.published import weight_names

MODEL, DATASET = AMONG = ('model', 'dataset')  # whose classes compete


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """The result of `evaluate`; accuracies are fractions."""

  accuracy: float
  top5_accuracy: float | None  # None if at most five classes compete
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
  num_competing: int  # of these classes, see `among` of `evaluate`
  orientation: str  # 'exif' or 'none', see `evaluate`
  skipped: int = 0  # further images without a label (ImageNet-ReaL)
  # One line for each image that this process could not decode. These images
  # count as wrong.
  unreadable: tuple[str, ...] = ()
  # Classes of the data set that the model lacks. Their images count as wrong.
  unmatched: tuple[str, ...] = ()
  # Lines on the data: files left out, classes without a readable image.
  notes: tuple[str, ...] = ()
  # Scores of a model with loss sigmoid on images that may have several labels.
  multi_label: MultiLabel | None = None
  each_image: EachImage | None = None  # if asked for


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
  labels: str = class_matching.BY_NAME,
  orientation: str | None = None,
  among: str = MODEL,
  each: bool = False,
  one_label: bool = False,
  zero_shot: bool = False,
  prompts: str | None = None,
) -> Evaluation:
  """Measures top-1 and top-5 accuracy; every image counts once.

  Classes are matched by name, see data/class_matching.py. The images of a class
  that the model lacks count as wrong. If an image has several classes, a
  prediction of any of them is correct; an image without a class is skipped. An
  image that cannot be decoded counts as wrong. If also the model decides each
  class on its own (loss sigmoid), `multi_label` has the scores of all classes
  that both the data set and the model have.

  Args:
    weights, model, image_size, preprocessing: see `restoring.restore`.
    dataset, split, data_dir: see data.datasets.open_split.
    batch_size: images of a step, over all processes and devices; any number.
    head: 'class' or 'distillation' evaluates one head of a distilled model.
    labels: 'as_is' takes the data set's labels as the model's, whatever the
      names of their classes.
    orientation: 'exif' turns images upright by their EXIF orientation, 'none'
      takes them as they are stored; by default that of model.json, else 'exif'
      for a folder and 'none' for other data sets.
    among: 'model': all classes of the model compete; 'dataset': only those of
      the data set, as accuracy on ImageNet-A and ImageNet-R is published.
    each: whether to return the prediction for each image. In several processes
      all get the predictions; only the first gets the names of wrong images.
    one_label: whether to refuse a data set whose images may have several
      labels, which have no confusion matrix.
    zero_shot: whether the classes are texts, those of the data set's classes;
      for an image-text model, see zero_shot.py.
    prompts: with zero_shot: path of a file with a template on each line.

  Returns:
    The accuracies and the settings of the evaluation.

  Raises:
    InputError: an argument or a file is wrong, the head is all zeros, the model
      has no class of the data set, or processes differ. The message is one
      line.
    OSError: a file or data set is missing or cannot be read.
  """
  if batch_size < 1:
    raise InputError(f'{batch_size=} must be at least 1')
  if among not in AMONG:
    raise InputError(f'{among=} must be one of {list(AMONG)}')
  choices = dict(head=head, labels=labels, among=among, each=each)
  found = None
  if zero_shot:
    found = texts_as_classes.restore(
      weights, model, image_size, preprocessing, orientation=orientation
    )
    restored, labels = found.restored, class_matching.AS_IS
  else:
    restored = restore(
      weights, model, image_size, preprocessing, orientation=orientation
    )
    restored.require_classes(weights)
  source = datasets.open_split(
    dataset,
    split,
    data_dir=data_dir,
    division=split_records.of_weights(weight_names.on_disk(weights)),
  )
  if one_label:
    check_one_label(source)
  lines = []
  if found is not None:
    restored, line = texts_as_classes.of_data(found, source, prompts)
    lines = [line]
  restored = dataclasses.replace(
    restored, model=classify.pick_head(restored.model, head)
  )
  with waiting.doing(f'checking {source.num_examples:,} images of {dataset}'):
    match = _match(source, restored, labels, among)
    restored = restored.for_data(source)
    started = time.perf_counter()
    faults: list[tuple[str, str]] = []  # (name, reason)
    notes = [
      *source.notes,
      *source.divided_notes,
      *class_checks.check_evaluation(
        source, by_name=match.by == class_matching.NAMES
      ),
      *_notes_on_loss(source, restored),
    ]
    for line in notes:
      note(line)
  process_facts.require_same(
    restored, source, split=split, batch_size=batch_size, **choices
  )
  with waiting.doing(f'starting to read {source.num_examples:,} images'):
    competing = _competing(match, restored.num_classes, among)
    measured, collected = _measured(
      source,
      restored,
      match,
      batch_size,
      lambda *fault: faults.append(fault),
      among=competing,
      collector=Collector() if each else None,
    )
  if len(faults) == source.num_examples:
    name, why = faults[0]
    raise InputError(
      f'none of the {len(faults)} images of {dataset} can be decoded; '
      f'{preprocess.undecodable(name, why)}'
    )
  counts = class_checks.unreadable_by_class(source, (x for x, _ in faults))
  lost = class_checks.notes_on_unreadable(source, counts, 'they count as wrong')
  for line in lost:
    note(line)
  seconds = time.perf_counter() - started
  return Evaluation(
    **measured,
    unreadable=tuple(preprocess.undecodable(*fault) for fault in faults),
    unmatched=match.unmatched,
    notes=(*lines, *notes, *lost),
    seconds=seconds,
    images_per_sec=source.num_examples / seconds,
    weights=os.fspath(weights),
    dataset=dataset,
    split=split,
    model=restored.name,
    image_size=restored.image_size,
    preprocessing=restored.preprocessing,
    num_classes=restored.num_classes,
    orientation=restored.orientation or source.orientation,
    num_competing=len(competing or range(restored.num_classes)),
    each_image=collected,
  )


def _competing(match, num_classes, among):
  """Returns the classes of the model that compete; None if all do."""
  if among == MODEL:
    return None
  found = {int(label) for label in match.labels if label != NO_CLASS}
  return tuple(sorted(found)) if len(found) < num_classes else None


def _measured(
  source, restored, match, batch_size, report, *, among, collector
) -> tuple[dict[str, Any], EachImage | None]:
  """Returns accuracies and counts, and each image, over all processes."""
  turned = set() if source.is_folder else None
  examples = pipeline.evaluation_batches(
    source,
    preprocessing=restored.preprocessing,
    image_size=restored.image_size,
    batch_size=host_memory.rows_at_once(
      -(-batch_size // jax.process_count()), restored.image_size
    ),
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    report=report,
    orientation=restored.orientation,
    turned=turned,
    traced=collector is not None,
  )
  evaluate_classes, number = classify.evaluate, restored.num_classes
  if source.multi_label and restored.loss == 'sigmoid':
    examples = multi_label.with_truth(examples, match.labels, number)
    table = np.arange(number) if match.labels is None else match.labels
    evaluate_classes = functools.partial(
      multi_label.evaluate,
      names=[readable(i, restored.class_names) for i in range(number)],
      classes=table[table != NO_CLASS].tolist(),
    )
  measured = evaluate_classes(
    restored.model,
    restored.params,
    translated(examples, match.labels, number),
    num_examples=source.num_examples,
    loss=restored.loss,
    among=among,
    keep=collector and collector.add,
  )
  note_unapplied(turned)
  for name in ('correct_top5', 'loss'):
    del measured[name]
  if len(among or range(restored.num_classes)) <= classify.TOP:
    measured['top5_accuracy'] = None  # 100 % whatever the model predicts
  if collector is None:
    return measured, None
  found = collector.result(
    source.class_names, restored.class_names, match.labels
  )
  if jax.process_index() == 0:
    found = dataclasses.replace(
      found, wrong_names=_names(source, found.place, found.wrong())
    )
  return measured, found


def _notes_on_loss(source, restored):
  """Returns a line if the model and the data differ in labels an image."""
  decides_each = restored.loss == 'sigmoid'
  if source.multi_label and source.is_folder and not decides_each:
    return [
      f'images of {source.name} may have several labels, and the model was '
      'trained to give one: its most probable class is right if it is one of '
      "the image's, and there is no mean average precision"
    ]
  if decides_each and not source.multi_label:
    return [
      'the model decides each class on its own (loss sigmoid), and images of '
      f'{source.name} have one label: the accuracy is that of the most '
      'probable class'
    ]
  return []


def _names(source, places, positions):
  """Returns {position: name} of the images at these positions of `places`."""
  count = jax.process_count()
  wanted = {int(places[position]): int(position) for position in positions}
  names = {}
  with waiting.doing(f'looking up the names of {len(wanted):,} wrong images'):
    for part in range(count):
      examples = source.examples(part, count).map(lambda example: example['id'])
      for number, name in enumerate(examples.as_numpy_iterator()):
        position = wanted.get(number * count + part)
        if position is not None:
          names[position] = source.locate(os.fsdecode(name))
  return names


def _match(source, restored, how, among):
  """Returns the model's class of each class of the data set; prints notes."""
  number = restored.num_classes
  try:
    match = class_matching.match(
      source.class_names, restored.class_names, number, how=how
    )
  except InputError:
    class_checks.check_evaluation(source, by_name=False)
    raise
  for line in match.notes(repr(source.name)):
    note(line)
  if source.num_classes < number and among == MODEL:
    note(
      f'the model has {number} classes, more than the {source.num_classes} of '
      f'{source.name!r}; all of them compete (--among=dataset: only those of '
      'the data set do)'
    )
  return match
