"""The compiled update of a run, and the memory that it takes."""

import concurrent.futures
import dataclasses
import functools
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vit_jax_repro.analysis import (
  convolution_copies,
  cost,
  dry_run,
  memory,
)
from vit_jax_repro.errors import InputError
from vit_jax_repro.models import patches
from vit_jax_repro.output import waiting
from vit_jax_repro.parallel import chips, host_memory
from vit_jax_repro.parallel import mesh as mesh_lib
from vit_jax_repro.runs import batch_sizes, fitting, tasks
from vit_jax_repro.runs.input import Input
from vit_jax_repro.runs.settings import Settings
from vit_jax_repro.training import selection, steps
from vit_jax_repro.weights import trees

_GIB = 2**30


class Update:
  """The update (state, batch) -> (state, metrics), compiled on its first use.

  Attributes:
    settings, mesh, data: of the run.
    model: its model.
    shapes: shapes of the state, with shardings.
    trained: paths of the trained parameters; None for all.
    compile_seconds: how long compiling took; None before it has ended.
    usual_seconds: how long it took the last time, for a line on the progress;
      None if unknown.
  """

  def __init__(
    self,
    settings: Settings,
    task: tasks.Task,
    data: Input,
    tx: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
  ):
    """Computes the shapes of the state; compiles nothing.

    Raises:
      InputError: the model does not give one output for each class, the axis
        `model` of the mesh divides nothing, or `train` selects nothing.
    """
    self.settings, self.mesh, self._task = settings, mesh, task
    self.data, self._tx, self.model = data, tx, task.model
    params = _parameter_shapes(task, data.image_size)
    self.trained = selection.select(params, task.model, settings.train)
    self.shapes = _state_shapes(params, tx, mesh, self.trained)
    mesh_lib.check_model_axis(self.shapes.params, mesh)
    self.compile_seconds: float | None = None
    self.usual_seconds: float | None = None
    self._compiling: concurrent.futures.Future | None = None
    self._saved: int | None = None  # see `saved_activations`
    self._teacher = None  # parameters on the mesh, after their first use

  def begin(self) -> None:
    """Starts to compile in a thread; the caller can read files meanwhile.

    A process that fails meanwhile reports its error at once, but exits only
    after compiling: Python cannot end while a daemon thread is in the compiler.
    After Ctrl-C it does not wait, see `command_line.one_line_errors`.
    """
    if self._compiling is None:
      self._compiling = concurrent.futures.Future()
      threading.Thread(
        target=self._fulfil, args=(self._compiling,), name=waiting.COMPILER
      ).start()

  def __call__(self, state: Any, batch: dict) -> tuple[Any, dict]:
    """Runs an update on arrays on the mesh; donates the state."""
    return self._compiled()(state, batch, self._teacher_params())

  def notes(self) -> list[str]:
    """Lists what a user should know about data and settings, a line each."""
    model, settings = self._task.model, self.settings
    uncovered = patches.note_on_uncovered(model, self.data.image_size)
    lines = [*self.data.notes, *([uncovered] if uncovered else [])]
    lines += mesh_lib.unsharded_parameters(self.shapes.params, self.mesh)
    advice = chips.advice_on_dtype(
      self.mesh.devices.flat[0], settings.model.get('dtype')
    )
    if advice:
      lines.append(f'config.model.dtype: {advice}')
    if getattr(model, 'scan', False) and not model.remat:
      lines.append(
        'config.model.scan=True without remat keeps two to three times as much '
        'of each block as an unrolled model; add --config.model.remat=True, or '
        'leave scan out'
      )
    is_fresh = not (settings.pretrained_dir or settings.continue_from)
    if self.trained is not None and is_fresh:
      lines.append(
        f'config.train={settings.train!r}: the parameters that are not trained '
        'stay random, because no weights are given; set config.pretrained_dir'
      )
    return lines

  def limit(self) -> int | None:
    """Returns the bytes of a device that a run may use; None for no limit."""
    settings = self.settings
    if settings.memory_limit_gb is not None:
      return int(settings.memory_limit_gb * _GIB) or None
    if self.is_in_host_memory():
      free = host_memory.usable()
      return None if free is None else free // jax.local_device_count()
    return dry_run.limits(mesh_lib.local_device(self.mesh))[1]

  def is_in_host_memory(self) -> bool:
    """Returns whether the devices take this machine's memory, as CPUs do.

    Programs of a dry run are not for this machine.
    """
    device = mesh_lib.local_device(self.mesh)
    is_here = device.platform == 'cpu' and not self.data.is_described
    return is_here and dry_run.limits(device)[1] is None

  def ready(self) -> int:
    """Returns the bytes of the batches that are ready on a device.

    These are the batches ahead, and that of the next update, see `loop.paced`.
    """
    number = 1 + batch_sizes.batches_ahead(self.settings, self.mesh)
    return number * mesh_lib.bytes_per_device(self.batch())

  def batch(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a batch on the mesh, see data/batches.py."""
    rows, sharding = self.settings.batch, mesh_lib.batch_sharding(self.mesh)
    shapes = {
      'image': (
        (rows, *self.data.image_size, 3),
        self.settings.transfer_dtype,
      ),
      'label': (self.data.label_shape(rows), 'int32'),
    }
    if self.data.augmentation.flips_on_device:
      shapes['flip'] = (rows,), 'bool'
    return {
      key: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=sharding)
      for key, (shape, dtype) in shapes.items()
    }

  def teacher_bytes(self) -> int:
    """Returns the bytes of a teacher's parameters on a device."""
    return mesh_lib.bytes_per_device(self._teacher_params())

  def arguments(self) -> int:
    """Returns the bytes of the state and one batch on a device."""
    return mesh_lib.bytes_per_device((self.shapes, self.batch()))

  def gradients(self) -> int:
    """Returns the bytes of all gradients on a device."""
    return mesh_lib.bytes_per_device(
      selection.part(self.shapes.params, self.trained)
    )

  def sizes(self) -> dict[str, int]:
    """Returns the numbers of trained and of all parameters."""
    params = self.shapes.params
    return {
      'trained_parameters': trees.num_parameters(
        selection.part(params, self.trained)
      ),
      'parameters': trees.num_parameters(params),
    }

  def multiply_adds(self) -> int:
    """Returns the multiply-adds of an update for one image.

    Those of a teacher and recomputed ones do not count.
    """
    return cost.multiply_adds_of_update(
      self.plain_model(), self.data.image_size, self.trained
    )

  def plain_model(self) -> Any:
    """Returns the model for counts of operations, which recomputes nothing."""
    values: dict[str, Any] = dict(
      dtype=jnp.float32, attention='plain', remat=False
    )
    fields = {x: values[x] for x in values if hasattr(self.model, x)}
    return self.model.clone(**fields)

  def rows(self) -> int:
    """Returns the images of an update on a device."""
    return self.settings.batch // mesh_lib.batch_shards(self.mesh)

  def saved_activations(self) -> int:
    """Returns the bytes of activations that the backward pass reads.

    Takes less than a second, because nothing is compiled.
    """
    if self._saved is not None:
      return self._saved
    rows = self.rows() // self.settings.accum_steps
    batch = {
      'image': jax.ShapeDtypeStruct(
        (rows, *self.data.image_size, 3), jnp.float32
      ),
      'label': jax.ShapeDtypeStruct(self.data.label_shape(rows), jnp.int32),
    }
    found = fitting.saved_activations(
      self._task.objective,
      self.shapes.params,
      batch,
      self._teacher_shapes(),
      self.trained,
    )
    self._saved = found // self.mesh.shape['model']
    return self._saved

  def changed(self, changes: Mapping[str, Any]) -> 'Update':
    """Returns the update of the same run with some settings changed.

    It can be compiled but not called, because a teacher has only shapes.

    Args:
      changes: {key of the configuration: new value}; keys of the mesh and the
        model have a dot, such as 'mesh.fsdp'.
    """
    values: dict[str, Any] = {}
    for key, value in changes.items():
      section, _, name = key.rpartition('.')
      if section:
        before = values.get(section, getattr(self.settings, section))
        values[section] = {**before, name: value}
      else:
        values[key] = value
    settings = dataclasses.replace(self.settings, **values)
    devices = list(self.mesh.devices.flat)
    sizes: dict[str, Any] = dict(settings.mesh)
    other = Update(
      settings,
      tasks.create(settings, self.data, devices[0]),
      self.data,
      self._tx,
      mesh_lib.create_mesh(**sizes, devices=devices),
    )
    other._teacher = other._teacher_shapes()
    return other

  def measure(self) -> memory.Memory | None:
    """Returns the memory of the compiled update; None if it was refused.

    On a CPU it has the copies that convolutions make.
    """
    measured = memory.compile_and_measure(self._compiled)
    if measured is None or measured.is_refused or not self.is_in_host_memory():
      return measured
    copied = convolution_copies.copied_bytes(self._compiled().as_text())
    return dataclasses.replace(
      measured, temporaries=measured.temporaries + copied
    )

  def program(self) -> tuple[jax.stages.Wrapped, tuple]:
    """Returns the jitted update and the shapes of its arguments."""
    function = jax.jit(
      functools.partial(
        _step(self.settings, self._task, self.data, self._tx, self.mesh),
        trained=self.trained,
      ),
      donate_argnums=0,
      out_shardings=(
        jax.tree.map(lambda x: x.sharding, self.shapes),
        mesh_lib.replicated(self.mesh),
      ),
    )
    return function, (self.shapes, self.batch(), self._teacher_params())

  def _compiled(self):
    """Waits for the compiled update; compiles it if `begin` was not called."""
    self.begin()
    assert self._compiling is not None
    if self._compiling.done():
      return self._compiling.result()
    last = self.usual_seconds
    usual = '' if last is None else f', which took {last:.0f} s the last time'
    with waiting.doing(f'compiling the update{usual}'):
      return self._compiling.result()

  def _fulfil(self, compiling):
    started = time.perf_counter()
    try:
      program = self._compile()
      self.compile_seconds = time.perf_counter() - started
      compiling.set_result(program)
    except BaseException as error:
      compiling.set_exception(error)

  def _compile(self):
    function, arguments = self.program()
    return function.lower(*arguments).compile()

  def _teacher_shapes(self):
    """Returns the shapes of a teacher's parameters; None without a teacher."""
    teacher = self._task.teacher
    if teacher is None:
      return None
    shardings = mesh_lib.parameter_sharding(teacher.params, self.mesh)
    return mesh_lib.with_shardings(teacher.params, shardings)

  def _teacher_params(self):
    """Puts a teacher's parameters on the mesh; None without a teacher."""
    teacher = self._task.teacher
    if self._teacher is None and teacher is not None:
      shardings = mesh_lib.parameter_sharding(teacher.params, self.mesh)
      # Programs for other machines are compiled from shapes.
      put = mesh_lib.put if teacher.is_loaded else mesh_lib.with_shardings
      self._teacher = put(teacher.params, shardings)
    return self._teacher


def check_batch(settings: Settings, mesh: jax.sharding.Mesh) -> None:
  """Raises an InputError if the mesh does not divide a batch evenly."""
  shards = mesh_lib.batch_shards(mesh)
  parts = settings.accum_steps * shards
  if settings.batch % parts:
    raise InputError(
      f'config.batch={settings.batch} must be a multiple of {parts}: '
      f'accum_steps={settings.accum_steps} times {shards} devices that divide '
      'the batch'
    )


def _step(settings, task, data, tx, mesh) -> Callable:
  augment = data.device_augmentation()

  def step(state, batch, teacher, *, trained):
    return steps.train_step(
      state,
      batch,
      objective=task.objective(teacher),
      tx=tx,
      accum_steps=settings.accum_steps,
      augment=augment,
      mesh=mesh,
      grad_reduce_dtype=settings.grad_reduce_dtype,
      trained=trained,
    )

  return step


def _parameter_shapes(task, image_size):
  logits, variables = _traced(task.model, tuple(image_size))
  if logits.ndim != 2 and task.class_names is not None:
    raise InputError(
      f'config.model gives {logits.shape[1:]} outputs for an image instead '
      'of one for each class; choose a classifier that pools'
    )
  return variables['params']


@functools.lru_cache(maxsize=8)  # a proposal or a study has few models
def _traced(model, image_size):
  images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
  return jax.eval_shape(model.init_with_output, jax.random.key(0), images)


def _state_shapes(params, tx, mesh, trained):
  state = jax.eval_shape(
    functools.partial(steps.create_state, tx=tx, trained=trained), params
  )
  return mesh_lib.with_shardings(
    state, mesh_lib.parameter_sharding(state, mesh)
  )
