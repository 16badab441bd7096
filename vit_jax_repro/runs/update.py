"""The compiled update of a run, and whether it fits into the devices."""

import concurrent.futures
import dataclasses
import functools
import math
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vit_jax_repro.analysis import memory
from vit_jax_repro.runs import tasks
from vit_jax_repro.runs.restoring import note
from vit_jax_repro.runs.settings import Settings
from vit_jax_repro.runs.training_input import Input
from vit_jax_repro.training import mesh as mesh_lib
from vit_jax_repro.training import steps

_GIB = 2**30


class Update:
  """(state, batch) -> (state, metrics), compiled when it is needed first.

  Attributes:
    shapes: of the state, with shardings.
  """

  def __init__(
    self,
    settings: Settings,
    task: tasks.Task,
    data: Input,
    tx: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
  ):
    """Raises ValueError where the model's output is not one for each class."""
    self._settings, self._task, self._mesh = settings, task, mesh
    self._data, self._tx = data, tx
    self.shapes = _state_shapes(task, tx, mesh, data.image_size)
    self._compiling = None
    self._teacher = None  # its parameters on the mesh, once they are there

  def begin(self) -> None:
    """Compiles in a thread, while this one reads files and images.

    A process that fails meanwhile says so, and ends when it has compiled:
    Python cannot end while a daemon is about to come back from a compiler.
    """
    if self._compiling is None:
      self._compiling = concurrent.futures.Future()
      threading.Thread(target=self._fulfil).start()

  def __call__(self, state: Any, batch: dict) -> tuple[Any, dict]:
    self.begin()
    return self._compiling.result()(state, batch, self._teacher_params())

  def check_memory(self, *, fresh: bool = True) -> None:
    """Refuses an update that does not fit into a device.

    The limit is `config.memory_limit_gb`, or 0.95 of what the device reports.
    Counted are the update and the batches that lie ready; not an evaluation.
    Other settings are tried by compiling them, so this may take minutes.

    Args:
      fresh: whether the run begins; the parts that a batch is computed in
        cannot be changed any more in one that goes on.

    Raises:
      ValueError: it does not fit; the line says what would.
    """
    limit = self._limit()
    if limit is None:
      return
    self.begin()
    needed = memory.of_result(self._compiling.result)
    if needed is not None and needed.total + self._ready() <= limit:
      return
    found = 'more than its compiler accepts'
    if needed is not None:
      found = (
        f'{(needed.total + self._ready()) / _GIB:.4g} GiB of each device '
        f'({needed.arguments / _GIB:.4g} for parameters, optimiser and batch)'
      )
    raise ValueError(
      f'an update needs {found}, which has {limit / _GIB:.4g}; '
      f'{self._remedy(limit, fresh)}'
    )

  def _limit(self):
    settings = self._settings
    wanted = settings.memory_limit_gb
    if wanted is None:
      return memory.usable()
    return int(wanted * _GIB) or None

  def _ready(self):
    """Bytes of the batches that lie on a device beside that of the update."""
    batch = _batch_shapes(self._settings, self._data.image_size, self._mesh)
    return self._settings.prefetch * mesh_lib.bytes_per_device(batch)

  def _remedy(self, limit, fresh):
    """Settings that fit, found by trying, in words."""
    found = self._fitting(limit, fresh)
    if found is None:
      tried = 'no number of accum_steps' if fresh else 'recomputing blocks'
      does = 'helps' if fresh else 'does not help'
      return (
        f'{tried} {does}; choose a smaller model or image, divide parameters '
        '(--config.mesh.fsdp), or another device'
      )
    changes, needed = found
    flags = ' '.join(f'--config.{k}={v}' for k, v in changes.items())
    return f'with {flags} it needs {needed / _GIB:.4g}'

  def _fitting(self, limit, fresh):
    """Changes of settings that fit and the bytes they need, or None."""
    settings = self._settings
    changes = {}
    if hasattr(self._task.model, 'remat') and not self._task.model.remat:
      changes['model.remat'] = True
      needed = self._needed(changes)
      if needed <= limit:
        return changes, needed
    if not fresh:
      return None
    rows = settings.batch // mesh_lib.batch_shards(self._mesh)
    parts = [
      n
      for n in range(settings.accum_steps + 1, rows + 1)
      if rows % n == 0 and n % settings.accum_steps == 0
    ]
    best = None
    while parts:  # halved each time: more parts need less
      middle = len(parts) // 2
      tried = {**changes, 'accum_steps': parts[middle]}
      needed = self._needed(tried)
      if needed <= limit:
        best, parts = (tried, needed), parts[:middle]
      else:
        parts = parts[middle + 1 :]
    return best

  def _needed(self, changes):
    shown = ', '.join(f'{key}={value}' for key, value in changes.items())
    note(f'does it fit with {shown}?')
    settings = self._settings
    if 'model.remat' in changes:
      settings = dataclasses.replace(
        settings, model={**settings.model, 'remat': True}
      )
    settings = dataclasses.replace(
      settings, accum_steps=changes.get('accum_steps', settings.accum_steps)
    )
    other = Update(
      settings,
      tasks.create(settings, self._data),
      self._data,
      self._tx,
      self._mesh,
    )
    other._teacher = self._teacher_params()
    found = memory.of_result(other._compile)
    return math.inf if found is None else found.total + self._ready()

  def _fulfil(self):
    try:
      self._compiling.set_result(self._compile())
    except BaseException as error:
      self._compiling.set_exception(error)

  def _compile(self):
    function = jax.jit(
      _step(self._settings, self._task, self._data, self._tx, self._mesh),
      donate_argnums=0,
      out_shardings=(
        jax.tree.map(lambda x: x.sharding, self.shapes),
        mesh_lib.replicated(self._mesh),
      ),
    )
    batch = _batch_shapes(self._settings, self._data.image_size, self._mesh)
    lowered = function.lower(self.shapes, batch, self._teacher_params())
    return lowered.compile()

  def _teacher_params(self):
    """None without a teacher."""
    teacher = self._task.teacher
    if self._teacher is None and teacher is not None:
      shardings = mesh_lib.parameter_sharding(teacher.params, self._mesh)
      self._teacher = mesh_lib.put(teacher.params, shardings)
    return self._teacher


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
    raise ValueError(
      f'config.model gives {logits.shape[1:]} outputs for an image instead '
      'of one for each class; choose a classifier that pools'
    )
  state = jax.eval_shape(
    functools.partial(steps.create_state, tx=tx), variables['params']
  )
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    state,
    mesh_lib.parameter_sharding(state, mesh),
  )


def _batch_shapes(settings, image_size, mesh):
  """Of what `mesh.to_global` makes of a batch, see data/batches.py."""
  sharding = mesh_lib.batch_sharding(mesh)
  shapes = {
    'image': ((settings.batch, *image_size, 3), settings.transfer_dtype),
    'label': ((settings.batch,), 'int32'),
  }
  return {
    key: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=sharding)
    for key, (shape, dtype) in shapes.items()
  }
