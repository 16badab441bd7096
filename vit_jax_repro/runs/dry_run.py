"""Dry runs: the programs of a run, compiled for hardware that need not exist.

A dry run takes the configuration of a run and needs no images, no weights and
no workdir. Its programs depend only on the model, the number of classes, the
size of the images and the mesh.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax_repro import models
from vit_jax_repro.analysis import cost, dry_run
from vit_jax_repro.data import augment, photographs
from vit_jax_repro.errors import InputError
from vit_jax_repro.inference import multi_label
from vit_jax_repro.parallel import mesh as mesh_lib
from vit_jax_repro.parallel import targets
from vit_jax_repro.runs import (
  batch_sizes,
  input,
  memory_check,
  optimization,
  tasks,
  update,
)
from vit_jax_repro.runs import settings as settings_lib
from vit_jax_repro.training import averaging


@dataclasses.dataclass(frozen=True)
class DryRun:
  """Memory and time bounds of a run, compiled but not started.

  Attributes:
    target: the target, as for the flag `--target`.
    device_kind: JAX's name of the devices.
    mesh: {axis: size}.
    model: name of the model, or None.
    parameters: number of parameters.
    trained_parameters: number of trained parameters.
    train: value of the configuration.
    dtype: dtype of the computation.
    attention: attention kernel; None for a model without attention.
    image_size: (height, width) in pixels.
    num_classes: number of outputs of the model.
    batch, accum_steps: values of the configuration.
    batch_eval: images of a batch of evaluation.
    update: analysis of the compiled update.
    evaluation: analysis of the compiled evaluation; None if not compiled.
    needed: bytes of a device in training, for the update and the batches that
      are ready on the device; None if the compiler refused the update without
      giving a number.
    needed_evaluation: bytes of a device in an evaluation, with the state of the
      run; None if it was not compiled or was refused without a number.
    taken: bytes of a device that JAX reserves; None if unknown.
    limit: bytes of a device that a run may use, from `config.memory_limit_gb`
      or from the device; None if there is no limit.
    fits: whether both programs fit.
    remedy: settings to change if a program does not fit.
    largest_batch: the batch of the configuration, doubled or halved until it
      just fits; 0 if none fits; None if not requested.
    images_per_sec: upper bound of the images per second of all devices in
      training; None if it is not known.
    augmentation: of the training images.
    notes: notes that the run would print on standard error.
  """

  target: str
  device_kind: str
  mesh: dict[str, int]
  model: str | None
  parameters: int
  trained_parameters: int
  train: str
  dtype: str
  attention: str | None
  image_size: tuple[int, int]
  num_classes: int
  batch: int
  accum_steps: int
  batch_eval: int
  update: dry_run.Analysis
  evaluation: dry_run.Analysis | None
  needed: int | None
  needed_evaluation: int | None
  taken: int | None
  limit: int | None
  fits: bool
  remedy: str | None
  largest_batch: int | None
  images_per_sec: float | None
  augmentation: augment.Augmentation
  notes: tuple[str, ...]

  def reading(self) -> str | None:
    """Measures reading here; returns a line on the cores that are needed.

    None if the speed of the devices is not known, or TensorFlow is missing.
    """
    if self.images_per_sec is None:
      return None
    try:
      rate = photographs.core_rate(self.augmentation)
    except InputError:
      return None
    line = photographs.need(self.images_per_sec, rate)
    return f'At its bound, the update {line}.'


def create(
  config: Mapping[str, Any],
  target: targets.Target,
  *,
  largest_batch: bool = False,
  evaluation: bool = True,
  show: Callable[[str], None],
) -> DryRun:
  """Compiles the update and the evaluation of a run for a target.

  Must be called before any other code initialises JAX's devices.

  Args:
    config: as for `train.train`; `pretrained_dir` need not exist.
    target: the hardware to compile for.
    largest_batch: whether to search for the largest batch.
    evaluation: whether to compile the evaluation, too.
    show: called with one line of text about the progress.

  Raises:
    InputError: a setting or the target is wrong, or the data set is neither in
      the catalogue nor on this machine.
    OSError: a folder of images cannot be read.
  """
  devices = target.devices()
  with dry_run.without_cache():
    return _create(config, target, devices, largest_batch, evaluation, show)


def _create(config, target, devices, largest_batch, evaluation, show):
  settings = settings_lib.from_config(config)
  parts = _Parts(settings, devices)
  limit = parts.update.limit()
  if largest_batch and limit is None:
    raise InputError(
      'the largest batch needs a limit: set --config.memory_limit_gb above 0'
    )
  analysis = parts.analyse_update()
  needed = parts.needed(analysis)
  evaluated, needed_evaluation, evaluation_fits = None, None, True
  if evaluation:
    evaluated = parts.analyse_evaluation()
    needed_evaluation = parts.needed_evaluation(evaluated)
    evaluation_fits = evaluated.fits(limit, needed_evaluation)
  update_fits = analysis.fits(limit, needed)
  remedy = None
  if not update_fits:
    total = None if analysis.memory is None else analysis.memory.total
    least = limit or dry_run.limits(devices[0])[1]
    # Only hardware with a known limit refuses a program.
    assert least is not None
    remedy = memory_check.remedy(parts.update, total, least)
  elif not evaluation_fits:
    remedy = _less_evaluation(
      parts, devices, evaluated, needed_evaluation, limit
    )
  largest = None
  if largest_batch:
    largest = _largest(settings, devices, limit, update_fits, show)
  model = parts.task.model
  return DryRun(
    target=target.name,
    device_kind=devices[0].device_kind,
    mesh=dict(parts.mesh.shape),
    model=settings.model.get('model_name') or models.name_of(model),
    **parts.update.sizes(),
    train=settings.train,
    dtype=parts.dtype,
    attention=getattr(model, 'attention', None),
    image_size=parts.data.image_size,
    num_classes=model.num_classes,
    batch=settings.batch,
    accum_steps=settings.accum_steps,
    batch_eval=batch_sizes.evaluation_rows(
      settings, parts.data.image_size, parts.mesh
    ),
    update=analysis,
    evaluation=evaluated,
    needed=needed,
    needed_evaluation=needed_evaluation,
    taken=dry_run.limits(devices[0])[0],
    limit=limit,
    fits=remedy is None,
    remedy=remedy,
    largest_batch=largest,
    images_per_sec=None
    if analysis.bound is None
    else analysis.bound.images_per_sec * parts.mesh.size,
    augmentation=parts.data.augmentation,
    notes=tuple(parts.update.notes()),
  )


def _less_evaluation(parts, devices, analysis, needed, limit):
  """Returns a remedy; it names a batch only if that was compiled and fits."""
  settings = parts.settings
  line = (
    'the evaluation is too much; lower '
    f'--config.batch_eval={settings.batch_eval}'
  )
  if needed is None or analysis.memory.is_refused:
    return line
  shards = mesh_lib.batch_shards(parts.mesh)
  rows = batch_sizes.evaluation_rows(
    settings, parts.data.image_size, parts.mesh
  )
  images = rows // shards * math.prod(parts.data.image_size) * 12
  varying = images + analysis.memory.temporaries
  share = 0.9 * (limit - needed + varying) / varying
  batch = int(rows * share) // shards * shards
  if batch <= 0:
    return line
  less = _Parts(dataclasses.replace(settings, batch_eval=batch), devices)
  found = less.analyse_evaluation()
  if found.fits(limit, less.needed_evaluation(found)):
    return f'{line} to {batch} or less'
  return line


class _Parts:
  """The parts of a run that its programs depend on."""

  def __init__(self, settings, devices):
    self.settings = settings
    self.mesh = mesh_lib.create_mesh(**settings.mesh, devices=devices)
    update.check_batch(settings, self.mesh)
    self.data = input.Input(settings, is_described=True)
    self.task = tasks.create(settings, self.data, devices[0])
    total_steps, schedule = optimization.create_schedule(
      settings, self.data.train.num_examples
    )
    tx = optimization.create_optimizer(
      settings, schedule, total_steps, self.task.model
    )
    self.update = update.Update(settings, self.task, self.data, tx, self.mesh)

  @property
  def dtype(self):
    return str(jnp.dtype(self.task.model.dtype))

  def analyse_update(self):
    function, arguments = self.update.program()
    images, parts = self.settings.batch, self.settings.accum_steps
    return self._analyse(
      'the update',
      function,
      arguments,
      images,
      parts,
      self.update.multiply_adds(),
    )

  def analyse_evaluation(self):
    shards = mesh_lib.batch_shards(self.mesh)
    rows = batch_sizes.evaluation_rows(
      self.settings, self.data.image_size, self.mesh
    )
    rows = -(-rows // shards) * shards
    sharding = mesh_lib.batch_sharding(self.mesh)
    batch = {
      'image': ((rows, *self.data.image_size, 3), jnp.float32),
      'label': (self.data.label_shape(rows), jnp.int32),
      'mask': ((rows,), jnp.bool),
    }
    if self.data.has_several_labels:
      shape = self.data.label_shape(rows)
      batch[multi_label.TRUTH] = (shape, jnp.int8)
    batch = {
      key: jax.ShapeDtypeStruct(*value, sharding=sharding)
      for key, value in batch.items()
    }
    arguments = averaging.evaluated(self.update.shapes), batch
    if self.task.class_names is None:  # masked patches take a key and a number
      key = jax.eval_shape(lambda: jax.random.key(0))
      arguments += key, jax.ShapeDtypeStruct((), jnp.int32)
    function = self.task.evaluation_step(self.mesh)
    forward = cost.multiply_adds(
      self.update.plain_model(), self.data.image_size
    )
    return self._analyse('an evaluation', function, arguments, rows, 1, forward)

  def needed(self, analysis):
    if analysis.memory is None:
      return None
    return analysis.memory.total + self.update.ready()

  def needed_evaluation(self, analysis):
    """Returns the bytes of an evaluation with the run's state in memory."""
    if analysis.memory is None:
      return None
    state = self.update.shapes
    stays = mesh_lib.bytes_per_device(state) - mesh_lib.bytes_per_device(
      averaging.evaluated(state)
    )
    stays += self.update.ready() + self.update.teacher_bytes()
    return analysis.memory.total + stays

  def _analyse(self, what, function, arguments, images, parts, products):
    """Compiles a program with a number of multiply-adds for each image."""
    return dry_run.analyse(
      function,
      arguments,
      mesh=self.mesh,
      params=self.update.shapes.params,
      images=images,
      parts=parts,
      model_operations=2 * products * images,
      dtype=self.dtype,
      name=what,
    )


def _largest(settings, devices, limit, fits, show):
  """Returns the batch, doubled or halved until it just fits."""
  shards = mesh_lib.batch_shards(
    mesh_lib.create_mesh(**settings.mesh, devices=devices)
  )
  unit = shards * settings.accum_steps
  known = {settings.batch // unit: fits}

  def does_fit(number):
    if number not in known:
      show(f'does a batch of {number * unit} fit?')
      changed = dataclasses.replace(settings, batch=number * unit)
      parts = _Parts(changed, devices)
      analysis = parts.analyse_update()
      known[number] = analysis.fits(limit, parts.needed(analysis))
    return known[number]

  return unit * dry_run.largest(settings.batch // unit, does_fit)
