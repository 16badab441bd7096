"""The compiled update of a run, and whether it fits into the devices."""

import concurrent.futures
import dataclasses
import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vit_jax_repro.analysis import dry_run, memory
from vit_jax_repro.errors import InputError
from vit_jax_repro.models import patches
from vit_jax_repro.output import waiting
from vit_jax_repro.output.messages import note
from vit_jax_repro.parallel import chips
from vit_jax_repro.parallel import mesh as mesh_lib
from vit_jax_repro.runs import fitting, tasks
from vit_jax_repro.runs.input import Input
from vit_jax_repro.runs.settings import Settings
from vit_jax_repro.training import steps

_GIB = 2**30
_OTHERS = (
  'a smaller model or image, parameters divided over devices '
  '(--config.mesh.fsdp), or another device'
)


class Update:
  """The update (state, batch) -> (state, metrics), compiled on its first use.

  Attributes:
    shapes: shapes of the state, with shardings.
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
      InputError: the model does not give one output for each class, or the
        axis `model` of the mesh divides nothing.
    """
    self._settings, self._task, self._mesh = settings, task, mesh
    self._data, self._tx = data, tx
    self.shapes = _state_shapes(task, tx, mesh, data.image_size)
    mesh_lib.check_model_axis(self.shapes.params, mesh)
    self.compile_seconds: float | None = None
    self.usual_seconds: float | None = None
    self._compiling: concurrent.futures.Future | None = None
    self._teacher = None  # parameters on the mesh, after their first use

  def begin(self) -> None:
    """Starts to compile in a thread; the caller can read files meanwhile.

    A process that fails meanwhile reports its error at once, but exits only
    after compiling: Python cannot end while a daemon thread is in the compiler.
    """
    if self._compiling is None:
      self._compiling = concurrent.futures.Future()
      threading.Thread(target=self._fulfil, args=(self._compiling,)).start()

  def __call__(self, state: Any, batch: dict) -> tuple[Any, dict]:
    """Runs an update on arrays on the mesh; donates the state."""
    return self._compiled()(state, batch, self._teacher_params())

  def check_memory(self, *, fresh: bool = True) -> None:
    """Refuses an update that does not fit into the memory of a device.

    The limit is `config.memory_limit_gb`, or 0.95 of the memory that the device
    reports. The needed memory is that of the update and of the batches that are
    ready on the device, without evaluations.

    Args:
      fresh: whether the run is new. A continued run cannot change the number of
        parts in which a batch is computed.

    Raises:
      InputError: the update does not fit; the message has a remedy.
    """
    limit = self.limit()
    if limit is None:
      return
    needed = memory.compile_and_measure(self._compiled)
    if needed is not None and needed.total + self.ready() <= limit:
      return
    found = 'more than its compiler accepts'
    if needed is not None:
      found = (
        f'{(needed.total + self.ready()) / _GIB:.4g} GiB of each device '
        f'({self.arguments() / _GIB:.4g} for parameters, optimiser and batch)'
      )
    total = None if needed is None else needed.total
    remedy = self.remedy(total, limit, fresh=fresh)
    raise InputError(
      f'an update needs {found}, which has {limit / _GIB:.4g}; {remedy}'
    )

  def notes(self) -> list[str]:
    """Lists what a user should know about data and settings, a line each."""
    model, settings = self._task.model, self._settings
    uncovered = patches.note_on_uncovered(model, self._data.image_size)
    lines = [*self._data.notes, *([uncovered] if uncovered else [])]
    lines += mesh_lib.unsharded_parameters(self.shapes.params, self._mesh)
    advice = chips.advice_on_dtype(
      self._mesh.devices.flat[0], settings.model.get('dtype')
    )
    if advice:
      lines.append(f'config.model.dtype: {advice}')
    if getattr(model, 'scan', False) and not model.remat:
      lines.append(
        'config.model.scan=True without remat keeps two to three times as much '
        'of each block as an unrolled model; add --config.model.remat=True, or '
        'leave scan out'
      )
    return lines

  def limit(self) -> int | None:
    """Returns the bytes of a device that a run may use; None for no limit."""
    settings = self._settings
    wanted = settings.memory_limit_gb
    if wanted is None:
      return dry_run.limits(mesh_lib.local_device(self._mesh))[1]
    return int(wanted * _GIB) or None

  def ready(self) -> int:
    """Returns the bytes of the batches that are ready on a device."""
    batch = batch_shapes(self._settings, self._data.image_size, self._mesh)
    return self._settings.prefetch * mesh_lib.bytes_per_device(batch)

  def teacher_bytes(self) -> int:
    """Returns the bytes of a teacher's parameters on a device."""
    return mesh_lib.bytes_per_device(self._teacher_params())

  def arguments(self) -> int:
    """Returns the bytes of the state and one batch on a device."""
    batch = batch_shapes(self._settings, self._data.image_size, self._mesh)
    return mesh_lib.bytes_per_device((self.shapes, batch))

  def remedy(
    self, needed: int | None, limit: int, *, fresh: bool = True
  ) -> str:
    """Returns one line with changes of settings that may make an update fit.

    Values of settings are estimated from the memory that this update needs. The
    line names them only if an update compiled with them fits.

    Args:
      needed: bytes that this update takes; None if unknown.
      limit: bytes of a device that a run may use.
      fresh: see `check_memory`.
    """
    changes = self._proposal(needed, limit - self.ready(), fresh)
    if changes is None:
      if fresh:
        return f'no number of accum_steps helps; choose {_OTHERS}'
      return f'recomputing blocks does not help; choose {_OTHERS}'
    flags = ' '.join(f'--config.{k}={v}' for k, v in changes.items())
    note(f'trying {flags}')
    found = memory.compile_and_measure(self._changed(changes)._compile)
    if found is not None and not found.is_refused:
      total = found.total + self.ready()
      if total <= limit:
        return f'with {flags} it needs {total / _GIB:.4g}'
    recomputed = '--config.model.remat=True, ' * ('model.remat' in changes)
    parts = 'a larger --config.accum_steps, ' * fresh
    return f'choose {recomputed}{parts}{_OTHERS}'

  def _proposal(self, needed, limit, fresh):
    settings = self._settings
    return fitting.proposal(
      needed,
      limit,
      model=self._task.model,
      arguments=self.arguments(),
      gradients=mesh_lib.bytes_per_device(self.shapes.params),
      rows=settings.batch // mesh_lib.batch_shards(self._mesh),
      accum_steps=settings.accum_steps,
      fresh=fresh,
    )

  def _changed(self, changes):
    """Returns the update of the same run with some settings changed."""
    settings = self._settings
    if 'model.remat' in changes:
      settings = dataclasses.replace(
        settings, model={**settings.model, 'remat': True}
      )
    settings = dataclasses.replace(
      settings, accum_steps=changes.get('accum_steps', settings.accum_steps)
    )
    device = self._mesh.devices.flat[0]
    other = Update(
      settings,
      tasks.create(settings, self._data, device),
      self._data,
      self._tx,
      self._mesh,
    )
    other._teacher = self._teacher_params()
    return other

  def program(self) -> tuple[jax.stages.Wrapped, tuple]:
    """Returns the jitted update and the shapes of its arguments."""
    function = jax.jit(
      _step(self._settings, self._task, self._data, self._tx, self._mesh),
      donate_argnums=0,
      out_shardings=(
        jax.tree.map(lambda x: x.sharding, self.shapes),
        mesh_lib.replicated(self._mesh),
      ),
    )
    batch = batch_shapes(self._settings, self._data.image_size, self._mesh)
    return function, (self.shapes, batch, self._teacher_params())

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

  def _teacher_params(self):
    """Puts a teacher's parameters on the mesh; None without a teacher."""
    teacher = self._task.teacher
    if self._teacher is None and teacher is not None:
      shardings = mesh_lib.parameter_sharding(teacher.params, self._mesh)
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

  def step(state, batch, teacher):
    return steps.train_step(
      state,
      batch,
      objective=task.objective(teacher),
      tx=tx,
      accum_steps=settings.accum_steps,
      augment=augment,
      mesh=mesh,
      grad_reduce_dtype=settings.grad_reduce_dtype,
    )

  return step


def _state_shapes(task, tx, mesh, image_size):
  images = jax.ShapeDtypeStruct((1, *image_size, 3), jnp.float32)
  logits, variables = jax.eval_shape(
    task.model.init_with_output, jax.random.key(0), images
  )
  if logits.ndim != 2 and task.class_names is not None:
    raise InputError(
      f'config.model gives {logits.shape[1:]} outputs for an image instead '
      'of one for each class; choose a classifier that pools'
    )
  state = jax.eval_shape(
    functools.partial(steps.create_state, tx=tx), variables['params']
  )
  return mesh_lib.with_shardings(
    state, mesh_lib.parameter_sharding(state, mesh)
  )


def batch_shapes(
  settings: Settings, image_size: tuple[int, int], mesh: jax.sharding.Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of a training batch on the mesh, see data/batches.py."""
  sharding = mesh_lib.batch_sharding(mesh)
  shapes = {
    'image': ((settings.batch, *image_size, 3), settings.transfer_dtype),
    'label': ((settings.batch,), 'int32'),
  }
  return {
    key: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=sharding)
    for key, (shape, dtype) in shapes.items()
  }
