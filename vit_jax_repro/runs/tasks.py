"""The task of a run: model, objective, evaluation, and a teacher."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax_repro import models
from vit_jax_repro.data import class_matching, preprocess
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference import classify, multi_label, patch_colours
from vit_jax_repro.inference.restoring import restore
from vit_jax_repro.models import attention, pooling
from vit_jax_repro.output import files
from vit_jax_repro.output.messages import note
from vit_jax_repro.runs.input import Input
from vit_jax_repro.runs.settings import Settings
from vit_jax_repro.training import distillation, masked_patches, objectives


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A restored model that computes logits of a run's classes."""

  params: Any  # host arrays, or shapes if it is not loaded
  digest: str | None  # 16 hex digits of the file's contents
  # (params, images [B, H, W, 3] in the scale of the run's model) -> [B, K]
  logits: Callable[[Any, jax.Array], jax.Array]
  is_loaded: bool = True


@dataclasses.dataclass(frozen=True)
class Task:
  """Model, objective and evaluation of a run, created by `create`."""

  architecture: dict  # fields of the model, as model.json has them
  model: nn.Module
  class_names: tuple[str, ...] | None  # None: the outputs are not classes
  # The teacher's parameters -> objective. The update takes these parameters as
  # an argument next to its state.
  objective: Callable[[Any], objectives.Objective]
  # (model, params, batches, mesh, *, num_examples) -> dict of accuracy,
  # top5_accuracy, ...
  evaluate: Callable[..., dict]
  # mesh -> the jitted step of `evaluate` for (params, batch).
  evaluation_step: Callable[[jax.sharding.Mesh], Callable]
  loss: str | None = 'softmax'  # that of model.json; None: no classes
  teacher: Teacher | None = None


def create(settings: Settings, data: Input, device: jax.Device) -> Task:
  """Creates the task that settings name.

  Args:
    settings: the settings of the run.
    data: the input of the run.
    device: a device that the run's programs are compiled for. It decides which
      kernel `model.attention='auto'` is.

  Raises:
    InputError: the model is not possible, or the teacher, see `load_teacher`.
    OSError: the teacher's file cannot be read.
  """
  return _TASKS[settings.objective](settings, data, device)


def describe_teacher(
  path: str,
  *,
  image_size: tuple[int, int],
  num_classes: int,
  dtype: str,
  device: Any,
) -> Teacher:
  """Describes a teacher by the name of its file, which need not exist.

  Args:
    path: path of a file named after a model, such as 'DeiT-B_16.npz'.
    image_size: (height, width) pixels of the run.
    num_classes: number of classes of the data set.
    dtype: dtype of the computation.
    device: a device that programs are compiled for.

  Raises:
    InputError: no model has the name of the file.
  """
  name = os.path.basename(path).removesuffix('.npz')
  try:
    model = models.create(
      models.image_fields(name), num_classes=num_classes, dtype=dtype
    )
  except InputError as error:
    raise InputError(
      f'config.teacher={path!r} is not here, and no model has the name '
      f'{name!r}; get the file, or name it after its model'
    ) from error
  model = attention.resolve(model, device)
  images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), images)['params']

  def logits(params, images):
    return model.apply({'params': params}, images, train=False)

  return Teacher(params, None, logits, is_loaded=False)


def load_teacher(
  path: str,
  *,
  image_size: tuple[int, int],
  mean: Sequence[float],
  std: Sequence[float],
  class_names: Sequence[str],
  labels: str = class_matching.BY_NAME,
  orientation: str = 'none',
  dtype: str = 'float32',
  device: Any = None,
) -> Teacher:
  """Restores a teacher and adapts it to the run's image size and class order.

  As in DeiT, the teacher sees the same pixels as the model: images of the run's
  size, for which its position embeddings are resized as for fine-tuning. They
  are scaled as in the teacher's own preprocessing. Its classes are brought into
  the order of the data set, by their names.

  Args:
    path: any file that `restoring.restore` reads.
    image_size: (height, width) pixels of the run.
    mean, std: mean and deviation with which the run scales pixels, in levels
      (0 to 255).
    class_names: names of the data set's classes.
    labels: 'as_is' takes the teacher's classes in their order, whatever their
      names.
    orientation: the run's; a note reports that the teacher learned otherwise.
    dtype: dtype of the computation. The run's own is best: next to a model in
      bfloat16, a teacher in float32 would take most of an update's time.
    device: a device that programs are compiled for, see `attention.fastest`.

  Raises:
    InputError: the file is no weights file, has no trained head, does not give
      an image one class, does not fit the image size, or has other classes; one
      line.
    OSError: the file cannot be read.
  """
  restored = restore(path, image_size=image_size)
  restored.require_classes(path)
  if restored.loss == 'sigmoid':
    raise InputError(
      f'config.teacher={path!r} decides each class on its own (loss sigmoid), '
      'and distillation learns one class an image; choose a teacher that was '
      "trained with loss='softmax'"
    )
  if restored.orientation not in (None, orientation):
    note(
      f'the teacher learned from images of orientation {restored.orientation!r}'
      f" and sees the run's, {orientation!r}; config.pp.orientation sets it"
    )
  order = _order(restored, path, tuple(class_names), labels)
  scale = preprocess.pick_preprocessing(restored.preprocessing)
  factor, shift = (
    np.float32(values).reshape(1, 1, 1, -1)
    for values in (
      np.divide(std, scale.std),
      np.subtract(mean, scale.mean) / scale.std,
    )
  )

  model = attention.resolve(restored.model.clone(dtype=dtype), device)

  def logits(params, images):
    found: Any = model.apply(
      {'params': params}, images * factor + shift, train=False
    )
    return found if order is None else found[:, order]

  _check_output(logits, restored.params, image_size, path)
  return Teacher(restored.params, files.file_hash(path)[:16], logits)


def _classification(settings, data, device):
  architecture = dict(settings.model, num_classes=data.train.num_classes)
  model = attention.resolve(models.create(architecture), device)
  several = data.has_several_labels
  objective = objectives.classification(
    model, loss=settings.loss, multi_label=several
  )
  evaluate = functools.partial(classify.evaluate, loss=settings.loss)
  if several:
    evaluate = functools.partial(
      multi_label.evaluate, names=data.train.class_names, loss=settings.loss
    )
  return Task(
    architecture=architecture,
    model=model,
    class_names=data.train.class_names,
    objective=lambda _: objective,
    evaluate=evaluate,
    evaluation_step=functools.partial(
      classify.compiled_step,
      # ty does not know that linen modules are hashable.
      model,  # ty: ignore[invalid-argument-type]
      loss=settings.loss,
    ),
    loss=settings.loss,
  )


def _distillation(settings, data, device):
  task = _classification(settings, data, device)
  if data.is_described and not os.path.exists(settings.teacher):
    teacher = describe_teacher(
      settings.teacher,
      image_size=data.image_size,
      num_classes=data.train.num_classes,
      dtype=task.model.dtype,
      device=device,
    )
  else:
    teacher = load_teacher(
      settings.teacher,
      image_size=data.image_size,
      mean=data.augmentation.mean,
      std=data.augmentation.std,
      class_names=data.train.class_names,
      labels=settings.labels,
      orientation=data.orientation,
      dtype=task.model.dtype,
      device=device,
    )
    # A dry run transfers nothing to its devices.
    is_loaded = not data.is_described
    teacher = dataclasses.replace(teacher, is_loaded=is_loaded)

  def objective(params):
    return distillation.distillation(
      task.model,
      lambda images: teacher.logits(params, images),
      kind=settings.distillation,
      alpha=settings.distillation_alpha,
      tau=settings.distillation_tau,
    )

  return dataclasses.replace(task, objective=objective, teacher=teacher)


def _masked_patches(settings, data, device):
  """Creates a task whose model gives a colour for each patch."""
  classifier = settings.model.get('classifier', 'token')
  architecture = dict(
    settings.model,
    classifier=pooling.UNPOOLED.get(classifier, classifier),
    corruptible=True,
    num_classes=masked_patches.NUM_COLOURS,
  )
  model = attention.resolve(models.create(architecture), device)
  scale = dict(mean=data.augmentation.mean, std=data.augmentation.std)
  objective = masked_patches.objective(model, **scale)
  return Task(
    architecture=architecture,
    model=model,
    class_names=None,
    objective=lambda _: objective,
    evaluate=functools.partial(patch_colours.evaluate, **scale),
    evaluation_step=functools.partial(
      patch_colours.compiled_step, model, **scale
    ),
    loss=None,
  )


def _order(restored, path, names, how):
  """Returns [K] teacher classes in the data set's order; None if the same."""
  if restored.num_classes != len(names):
    raise InputError(
      f'config.teacher={path!r} has {restored.num_classes} classes and the '
      f'data set {len(names)}; choose a teacher for these classes'
    )
  try:
    match = class_matching.rows(
      names, restored.class_names, len(names), how=how
    )
  except InputError as error:
    raise InputError(f'config.teacher={path!r}: {error}') from None
  for line in match.notes('the data set'):
    note(f'the teacher: {line}')
  if (match.labels == np.arange(len(names))).all():
    return None
  return match.labels


def _check_output(logits, params, image_size, path):
  images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
  shape = jax.eval_shape(logits, params, images).shape
  if len(shape) != 2:
    raise InputError(
      f'config.teacher={path!r} gives {shape[1:]} outputs for an image instead '
      'of one for each class; choose a classifier that pools'
    )


_TASKS = {
  'classification': _classification,
  'distillation': _distillation,
  'masked_patches': _masked_patches,
}
