"""The result of a run: its values and files, also those of a finished run."""

import dataclasses
import time
import types
import typing
from collections.abc import Mapping
from typing import Any

from vit_jax_repro.data import datasets
from vit_jax_repro.inference.multi_label import MultiLabel
from vit_jax_repro.output.messages import note
from vit_jax_repro.runs import preemption, pretrained, update
from vit_jax_repro.runs.parts import Parts
from vit_jax_repro.runs.settings import Settings
from vit_jax_repro.runs.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class TrainResult:
  """The accuracies and files of a completed run."""

  # Fractions of the test split, or of its masked patches for a run with
  # objective='masked_patches'.
  # With a validation split and `keep_best` they are of best.npz, else of
  # model.npz.
  accuracy: float
  top5_accuracy: float
  num_examples: int  # in the test split
  replaced_images: int  # images that this call could not decode in training
  step: int
  seconds: float  # duration of this call
  workdir: str
  model: str  # path of the trained model.npz
  # The checkpoint with the best accuracy, if `keep_best` is set.
  best_model: str | None = None  # path of best.npz
  best_step: int | None = None
  # Of the split that it was chosen by: the validation split, if there is one.
  best_accuracy: float | None = None
  # Images of the training split, by class, that this call could not decode;
  # only classes of a folder that lost some.
  unreadable_by_class: Mapping[str, int] = dataclasses.field(
    default_factory=dict
  )
  notes: tuple[str, ...] = ()  # notes of the run on its data and settings
  # Mean loss over the readable images of the test split, or over its masked
  # patches; None if there are none.
  loss: float | None = None
  # The scores of a run whose images have several labels, see
  # inference/multi_label.py. Then `accuracy` is the fraction of the images with
  # a label whose most probable class is one of theirs.
  multi_label: Mapping[str, Any] | None = None  # a `MultiLabel`
  best_mean_average_precision: float | None = None  # in place of best_accuracy
  # Accuracy of model.npz on the validation split, if there is one.
  validation_accuracy: float | None = None


def finished_without_data(
  folder: Workdir, settings: Settings, devices: Any
) -> TrainResult | None:
  """Returns the result of a finished run, without opening its data set.

  Returns None if the data set may be a folder, which could have changed since,
  if only the data set gives the number of updates, or if the run that it
  continues has moved.

  Args:
    folder: the workdir.
    settings: the settings of the run.
    devices: the mesh.
  """
  total, name = settings.total_steps, settings.dataset
  if total is None or settings.teacher or datasets.may_be_folder(name):
    return None
  if 'continue_from' in folder.moved:
    return None
  done = finished(folder, settings, total)
  if max(folder.saved_steps(), default=0) != total:
    return None
  if done is not None:
    update.check_batch(settings, devices)
    digest = pretrained.fingerprint(settings)
    folder.check_data({'pretrained_fingerprint': digest} if digest else {})
  return done


def finished(
  folder: Workdir, settings: Settings, total_steps: int
) -> TrainResult | None:
  """Returns the stored result of a finished run.

  Returns None if a file is missing, or result.json has other keys or types than
  this version writes: the run is evaluated again then.
  """
  stored: Any = folder.read_json('result.json')
  if stored.get('step') != total_steps or not _fits(stored, TrainResult):
    return None
  if not _fits(stored['multi_label'], MultiLabel | None):
    return None
  names = {'model': 'model.npz'}
  if settings.keep_best:
    names['best_model'] = 'best.npz'
  elif stored['best_model'] is not None:
    return None
  if not all(map(folder.has, names.values())):
    return None
  paths = {key: folder.path(name) for key, name in names.items()}
  stored |= paths
  stored['workdir'] = folder.folder
  return TrainResult(**stored | {'notes': tuple(stored['notes'])})


def _fits(value, kind):
  """Returns whether a value of JSON has the fields and types of a dataclass.

  Args:
    value: of a file that may be damaged, or of another version.
    kind: the dataclass, or the type of a field.
  """
  origin, parts = typing.get_origin(kind), typing.get_args(kind)
  if dataclasses.is_dataclass(kind):
    kinds = typing.get_type_hints(kind)
    return (
      isinstance(value, dict)
      and value.keys() == kinds.keys()
      and all(_fits(value[name], kinds[name]) for name in kinds)
    )
  if origin is types.UnionType:
    return any(_fits(value, part) for part in parts)
  if origin is tuple:
    return isinstance(value, list) and all(_fits(x, parts[0]) for x in value)
  if origin is Mapping:
    return isinstance(value, dict) and all(
      _fits(x, parts[1]) for x in value.values()
    )
  return kind is Any or type(value) is kind


def seconds_since(
  started: float, folder: Workdir, *, is_complete: bool
) -> float:
  """Returns the duration of this call, or that of the one that trained.

  Args:
    started: what the clock showed when the call began.
    folder: the workdir.
    is_complete: whether the last update was made by an earlier call.
  """
  seconds = time.perf_counter() - started
  if is_complete:
    return folder.read_json('result.json').get('seconds', seconds)
  return seconds


def trained(
  parts: Parts, folder: Workdir, evaluated: Mapping[str, float], seconds: float
) -> TrainResult:
  """Returns the result of the run after its last evaluation.

  Until `completed`, accuracies are those of the split that is evaluated
  during training.
  """
  which = parts.input.watched
  return TrainResult(
    accuracy=evaluated[f'accuracy_{which}'],
    top5_accuracy=evaluated[f'top5_accuracy_{which}'],
    num_examples=parts.input.split_of(which).num_examples,
    replaced_images=parts.input.replaced_by_all(),
    step=parts.total_steps,
    seconds=seconds,
    workdir=folder.folder,
    model=folder.path('model.npz'),
    loss=evaluated.get(f'loss_{which}'),
  )


def with_best(
  result: TrainResult, parts: Parts, folder: Workdir, state: Any, score: float
) -> TrainResult:
  """Saves the best state; returns the result with its values."""
  kind = 'accuracy' if parts.scores is None else 'mean_average_precision'
  path = folder.path('best.npz')
  parts.save_model(folder, 'best', state)
  return dataclasses.replace(
    result,
    best_model=path,
    best_step=int(state.step),
    **{f'best_{kind}': score},
  )


def completed(
  result: TrainResult, parts: Parts, folder: Workdir, state: Any
) -> TrainResult:
  """Returns the result with the test split's values and all notes.

  If there is a validation split, this is the only look at the test split.

  Args:
    result: from `trained` or `with_best`.
    state: of best.npz if it is kept, else of model.npz.
    folder: the workdir.
  """
  if parts.input.validation is not None:
    with preemption.Watch() as watch:
      evaluated = parts.evaluate(state, watch, 'test')
      if evaluated is None:
        stopped = watch.stopped(parts.total_steps)
        note(stopped)
        raise stopped
    folder.write_metrics(int(state.step), evaluated)
    result = dataclasses.replace(
      result,
      accuracy=evaluated['accuracy_test'],
      top5_accuracy=evaluated['top5_accuracy_test'],
      num_examples=parts.test.num_examples,
      loss=evaluated.get('loss_test'),
      validation_accuracy=result.accuracy,
    )
  unreadable_by_class, lost = parts.input.unreadable()
  return dataclasses.replace(
    result,
    unreadable_by_class=unreadable_by_class,
    notes=(*parts.notes, *lost),
    multi_label=parts.scores,
  )
