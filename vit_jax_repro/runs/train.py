"""A whole training run: settings in, trained model out."""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax_repro.runs import (
  initial,
  model_files,
  optimization,
  progress,
  tasks,
  training_input,
)
from vit_jax_repro.runs import settings as settings_lib
from vit_jax_repro.runs.restoring import note
from vit_jax_repro.runs.workdir import Workdir
from vit_jax_repro.training import (
  averaging,
  checkpoint,
  loop,
  manifest,
  mesh,
  steps,
)


@dataclasses.dataclass(frozen=True)
class TrainResult:
  """What a run came to."""

  # Of the test split, as fractions; of masked patches, where it learned those.
  accuracy: float
  top5_accuracy: float
  num_examples: int  # of the test split
  replaced_images: int  # not decodable, in the training of this call
  step: int
  seconds: float  # of this call
  workdir: str
  model: str  # path of the trained model.npz


def train(
  config: Mapping[str, Any], workdir: str | os.PathLike, *, show: bool = True
) -> TrainResult:
  """Trains, or continues a run that was interrupted, to the end.

  Args:
    config: the keys of `settings.Settings`, nested as there; such as the
      ConfigDict of a file in `configs/`.
    workdir: folder of the run, see `workdir`; the same call again continues
      from the newest checkpoint in it.
    show: whether progress is shown on standard error.

  Returns:
    TrainResult; the same stands in result.json.

  Raises:
    ValueError: one line on a wrong setting or file, or a loss that is not
      finite.
    OSError: a data set, weights file or folder is not there or not readable.
  """
  started = time.perf_counter()
  settings = settings_lib.from_config(config)
  folder = Workdir(workdir, settings_lib.to_plain(config))
  fresh = not os.path.isdir(folder.path('checkpoints'))
  run = _Run(settings, load=fresh)
  folder.begin(run.manifest())
  checkpoints = checkpoint.Checkpoints(folder.path('checkpoints'))
  try:
    state, start_step = run.state(checkpoints)
    folder.continue_metrics(start_step)
    state, evaluated = run.loop(state, start_step, checkpoints, folder, show)
    checkpoints.wait()
  finally:
    checkpoints.close()
    folder.close()
  seconds = time.perf_counter() - started
  if start_step == run.total_steps:  # it was finished: how long it took stays
    seconds = folder.read_json('result.json').get('seconds', seconds)
  result = TrainResult(
    accuracy=evaluated['accuracy_test'],
    top5_accuracy=evaluated['top5_accuracy_test'],
    num_examples=run.test.num_examples,
    replaced_images=run.input.replaced_by_all(),
    step=run.total_steps,
    seconds=seconds,
    workdir=folder.folder,
    model=folder.path('model.npz'),
  )
  run.save_model(result.model, averaging.evaluated(state))
  folder.write_json('result.json', dataclasses.asdict(result))
  return result


class _Run:
  """The parts of a run, made and checked before anything is computed."""

  def __init__(self, settings, load):
    """`load`: read the pretrained file already now, so that errors come now."""
    self.settings = settings
    self.mesh = mesh.create_mesh(**settings.mesh)
    _check_batch(settings, self.mesh)
    self.input = training_input.Input(settings)
    self.image_size = self.input.image_size
    self.train, self.test = self.input.train, self.input.test
    self.task = tasks.create(settings, self.input)
    self.model = self.task.model
    self.total_steps, self.schedule = optimization.create_schedule(
      settings, self.train.num_examples
    )
    self.tx = optimization.create_optimizer(
      settings, self.schedule, self.total_steps
    )
    self.shapes = self._state_shapes()
    self.params = self._initial_params() if load else None
    self.step = self._compiled_step()

  def _state_shapes(self):
    """Shapes and shardings of the state; the model's output is checked."""
    images = jax.ShapeDtypeStruct((1, *self.image_size, 3), jnp.float32)
    logits, variables = jax.eval_shape(
      self.model.init_with_output, jax.random.key(0), images
    )
    if logits.ndim != 2 and self.task.class_names is not None:
      raise ValueError(
        f'config.model gives {logits.shape[1:]} outputs for an image instead '
        'of one for each class; choose a classifier that pools'
      )
    state = jax.eval_shape(
      functools.partial(steps.create_state, tx=self.tx), variables['params']
    )
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      state,
      mesh.parameter_sharding(state, self.mesh),
    )

  @property
  def shardings(self):
    return jax.tree.map(lambda x: x.sharding, self.shapes)

  def manifest(self):
    data = {
      'dataset': self.settings.dataset,
      'train': self.train.split,
      'train_fingerprint': self.train.fingerprint(),
      'test': self.test.split,
      'test_fingerprint': self.test.fingerprint(),
    }
    if self.task.teacher:
      data['teacher_fingerprint'] = self.task.teacher.digest
    return manifest.create(seed=self.settings.seed, mesh=self.mesh, data=data)

  def state(self, checkpoints):
    """The state to start from on the mesh, and how many updates it has had."""
    if checkpoints.latest_step() is not None:
      self.params = None
      state, position = checkpoints.restore(self.shapes)
      if position['processes'] != jax.process_count():
        note(
          f'the run began in {position["processes"]} processes and goes on in '
          f'{jax.process_count()}: its examples come in another order'
        )
      return state, int(state.step)
    params = self._initial_params() if self.params is None else self.params
    self.params = None  # not needed twice
    state = steps.create_state(params, self.tx, seed=self.settings.seed)
    return mesh.put(state, self.shardings), 0

  def loop(self, state, start_step, checkpoints, folder, show):
    settings = self.settings
    showing = contextlib.nullcontext(progress.silent)
    if show and jax.process_index() == 0:
      showing = progress.bar(start_step, self.total_steps)
    with showing as display:

      def write(step, scalars):
        if self.input.replaced_images:
          scalars['replaced_images'] = self.input.replaced_images
        folder.write_metrics(step, scalars)
        display(step, scalars)

      return loop.run(
        state,
        self._batches(start_step),
        step=self.step,
        start_step=start_step,
        total_steps=self.total_steps,
        batch_size=settings.batch,
        every=loop.Every(
          progress=settings.progress_every,
          evaluation=settings.eval_every,
          checkpoint=settings.checkpoint_every,
        ),
        learning_rate=self.schedule,
        evaluate=self._evaluate,
        write=write,
        save=functools.partial(checkpoints.save, meta=self._position()),
      )

  def save_model(self, path, params):
    params = jax.tree.map(_whole, params)
    if jax.process_index() == 0:
      model_files.save_model(
        path,
        params,
        architecture=settings_lib.to_plain(self.task.architecture),
        class_names=self.task.class_names,
        preprocessing=self.settings.preprocessing,
        image_size=self.image_size,
      )

  def _initial_params(self):
    return initial.parameters(self.settings, self.model, self.image_size)

  def _compiled_step(self):
    """(state, batch) -> (state, metrics); a teacher lies on the mesh beside."""
    settings = self.settings
    augment = self.input.device_augmentation()

    def step(state, batch, teacher):
      return steps.train_step(
        state,
        batch,
        objective=self.task.objective(teacher),
        tx=self.tx,
        accum_steps=settings.accum_steps,
        augment=augment,
      )

    compiled = jax.jit(
      step,
      donate_argnums=0,
      out_shardings=(self.shardings, mesh.replicated(self.mesh)),
    )
    teacher = self.task.teacher and self.task.teacher.params
    shardings = mesh.parameter_sharding(teacher, self.mesh)
    teacher = mesh.put(teacher, shardings)
    return lambda state, batch: compiled(state, batch, teacher)

  def _batches(self, start_step):
    batches = self.input.batches(start_step)
    put = functools.partial(mesh.to_global, mesh=self.mesh)
    return loop.prefetch(batches, put, self.settings.prefetch)

  def _evaluate(self, state):
    result = self.task.evaluate(
      self.model,
      averaging.evaluated(state),
      self.input.evaluation_batches(),
      self.mesh,
      num_examples=self.test.num_examples,
    )
    return {
      'accuracy_test': result['accuracy'],
      'top5_accuracy_test': result['top5_accuracy'],
    }

  def _position(self):
    """With the step and the settings, the position in the data."""
    return {'processes': jax.process_count()}


def _check_batch(settings, device_mesh):
  shards = device_mesh.shape['data'] * device_mesh.shape['fsdp']
  parts = settings.accum_steps * shards
  if settings.batch % parts:
    raise ValueError(
      f'config.batch={settings.batch} must be a multiple of {parts}: '
      f'accum_steps={settings.accum_steps} times {shards} devices that divide '
      'the batch'
    )


def _whole(leaf):
  """A parameter as one host array, also where processes share it."""
  if leaf.is_fully_addressable or leaf.is_fully_replicated:
    return jax.device_get(leaf)
  from jax.experimental import multihost_utils

  return multihost_utils.process_allgather(leaf, tiled=True)
