"""What a run learns: its model, its objective, and how it is evaluated."""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from vit_jax_repro import models
from vit_jax_repro.evaluation import classify, patch_colours
from vit_jax_repro.models import attention
from vit_jax_repro.runs import teacher as teachers
from vit_jax_repro.runs.settings import Settings
from vit_jax_repro.runs.training_input import Input
from vit_jax_repro.training import distillation, masked_patches, objectives


@dataclasses.dataclass(frozen=True)
class Task:
  """Made by `create`."""

  architecture: dict  # fields of the model, as model.json has them
  model: nn.Module
  class_names: tuple[str, ...] | None  # None: outputs are no classes
  # Of the teacher's parameters, which the update is given beside its state.
  objective: Callable[[Any], objectives.Objective]
  # (model, params, batches, mesh, *, num_examples) -> dict of accuracy,
  # top5_accuracy, ...
  evaluate: Callable[..., dict]
  # mesh -> the jitted step of `evaluate` for (params, batch).
  evaluation_step: Callable[[jax.sharding.Mesh], Callable]
  teacher: teachers.Teacher | None = None


def create(settings: Settings, data: Input, device: jax.Device) -> Task:
  """Creates the task that settings name.

  Args:
    device: that the run's programs are compiled for; it decides which kernel
      `model.attention='auto'` is.

  Raises:
    ValueError: a model or teacher that cannot be; see `teacher.load`.
    OSError: the teacher's file cannot be read.
  """
  return _TASKS[settings.objective](settings, data, device)


def _classification(settings, data, device):
  architecture = dict(settings.model, num_classes=data.train.num_classes)
  model = attention.resolve(models.create(architecture), device)
  objective = objectives.classification(model, loss=settings.loss)
  return Task(
    architecture=architecture,
    model=model,
    class_names=data.train.class_names,
    objective=lambda _: objective,
    evaluate=classify.evaluate,
    evaluation_step=functools.partial(classify.compiled_step, model),
  )


def _distillation(settings, data, device):
  task = _classification(settings, data, device)
  if data.is_described and not os.path.exists(settings.teacher):
    teacher = teachers.described(
      settings.teacher,
      image_size=data.image_size,
      num_classes=data.train.num_classes,
      dtype=task.model.dtype,
      device=device,
    )
  else:
    teacher = teachers.load(
      settings.teacher,
      image_size=data.image_size,
      mean=data.augmentation.mean,
      std=data.augmentation.std,
      class_names=data.train.class_names,
      dtype=task.model.dtype,
      device=device,
    )
    # A dry run's devices hold nothing.
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


_UNPOOLED = {'token': 'token_unpooled', 'gap': 'unpooled'}


def _masked_patches(settings, data, device):
  """Creates a task whose model gives a colour for each patch."""
  classifier = settings.model.get('classifier', 'token')
  architecture = dict(
    settings.model,
    classifier=_UNPOOLED.get(classifier, classifier),
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
  )


_TASKS = {
  'classification': _classification,
  'distillation': _distillation,
  'masked_patches': _masked_patches,
}
