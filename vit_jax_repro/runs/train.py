"""A whole training run: settings in, trained model out."""

import contextlib
import dataclasses
import functools
import itertools
import os
import time
from collections.abc import Mapping
from typing import Any

import jax

from vit_jax_repro.data import datasets
from vit_jax_repro.inference import multi_label
from vit_jax_repro.output import waiting
from vit_jax_repro.output.messages import note
from vit_jax_repro.parallel import chips, mesh, processes
from vit_jax_repro.runs import (
  banner,
  card_settings,
  continuing,
  input,
  loop,
  manifest,
  memory_check,
  optimization,
  preemption,
  pretrained,
  progress,
  rescue,
  tasks,
  update,
)
from vit_jax_repro.runs import settings as settings_lib
from vit_jax_repro.runs.workdir import Workdir
from vit_jax_repro.training import averaging, steps
from vit_jax_repro.weights import model_card


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
  multi_label: Mapping[str, Any] | None = None
  best_mean_average_precision: float | None = None  # in place of best_accuracy
  # Accuracy of model.npz on the validation split, if there is one.
  validation_accuracy: float | None = None


def train(
  config: Mapping[str, Any], workdir: str | os.PathLike, *, show: bool = True
) -> TrainResult:
  """Trains a model; continues an interrupted run from its newest checkpoint.

  Args:
    config: the keys of `settings.Settings`, nested in the same way, such as the
      ConfigDict of a file in `configs/`.
    workdir: folder of the run, see runs/workdir.py. If it has checkpoints, the
      run continues from the newest one.
    show: whether the run is described on standard error, see runs/banner.py,
      and its progress shown.

  Returns:
    The result, which is also written to result.json.

  Raises:
    InputError: a setting or file is wrong, or a loss is not finite; the message
      is one line.
    OSError: a data set, weights file or folder does not exist or is not
      readable, or another process trains in the folder.
    preemption.Stopped: the run received SIGTERM or SIGINT and has saved.
  """
  started = time.perf_counter()
  settings = settings_lib.from_config(config)
  line = banner.printer(show=show)
  shape: Any = settings.mesh
  devices = mesh.create_mesh(**shape)
  line('devices', banner.devices(devices))
  with waiting.doing('waiting for the other processes in the workdir'):
    processes.require_shared_folder(workdir)
  folder = Workdir(workdir, settings_lib.to_plain(config))
  line('workdir', folder.folder)
  rescue.refuse_repetition(folder)
  line('precision', banner.precision(settings))
  fresh = not folder.has('checkpoints')
  begun = folder.read_json('manifest.json').get('data', {})
  origin = _origin(settings, folder)
  if origin is not None:
    folder.config, begun = origin.config, begun or origin.data
  source = pretrained.load(settings) if fresh and origin is None else None
  folder.config = card_settings.decided_by(
    None if source is None else source.card, folder.config
  )
  settings = _read_as_begun(settings_lib.from_config(folder.config), begun)
  if not fresh:
    finished = _finished_without_data(folder, settings, devices)
    if finished:
      line('start', banner.start(settings, finished.step, finished.step))
      return finished
  run = _Run(settings, source, devices, line, origin, folder.local)
  run.first_step = origin.step if origin else continuing.first_step(begun)
  run.step.usual_seconds = folder.compilation()
  if fresh:
    line('start', run.start(run.first_step))
    run.prepare()
  with contextlib.closing(folder):
    with waiting.doing('hashing the data'):
      folder.begin(run.manifest(), run.train.divided)
    with contextlib.closing(run.checkpoints(folder)) as checkpoints:
      if not fresh:
        finished = _finished(folder, settings, run.total_steps)
        if checkpoints.latest_step() == run.total_steps and finished:
          line('start', banner.start(settings, finished.step, finished.step))
          return finished
      state, start_step = run.state(checkpoints)
      if not fresh:
        line('start', run.start(start_step))
      run.begin_metrics(folder, start_step)
      state, evaluated = run.trained(
        state, start_step, checkpoints, folder, show
      )
      with waiting.doing('saving the checkpoint'):
        checkpoints.wait()
      is_complete = start_step == run.total_steps
      seconds = _seconds_since(started, folder, is_complete)
      result = run.result(folder, evaluated, seconds)
      run.save_model(folder, 'model', averaging.evaluated(state))
      if settings.keep_best:
        score = _score(evaluated, run.input.watched)
        if checkpoints.best_score() > score:
          del state  # memory may not hold two states
          state, score = checkpoints.restore_best(run.shapes)
        result = run.save_best(folder, result, state, score)
      result = run.completed(result, state, folder)
    folder.finish(dataclasses.asdict(result))
  return result


def _origin(settings, folder):
  """Returns the finished run whose state is the start; None without one.

  A run with a checkpoint of its own does not need it any more.
  """
  if not settings.continue_from or folder.saved_steps():
    return None
  return continuing.Origin(settings, folder.config)


def _read_as_begun(settings, begun):
  """Returns settings with the orientation that a run began with.

  begun: the manifest's description of the data; {} for a new run. Runs from
    before `pp.orientation` took images as they are stored.
  """
  if not begun or settings.pp.orientation:
    return settings
  orientation = begun.get('orientation', 'none')
  pp = dataclasses.replace(settings.pp, orientation=orientation)
  return dataclasses.replace(settings, pp=pp)


def _seconds_since(started, folder, is_complete):
  """Returns the duration of the call, or that of the one that trained."""
  seconds = time.perf_counter() - started
  if is_complete:
    return folder.read_json('result.json').get('seconds', seconds)
  return seconds


def _finished_without_data(folder, settings, devices):
  """Returns the result of a finished run, without opening its data set.

  Returns None if the data set may be a folder, which could have changed since,
  or if only the data set gives the number of updates.
  """
  total, name = settings.total_steps, settings.dataset
  if total is None or settings.teacher or datasets.may_be_folder(name):
    return None
  finished = _finished(folder, settings, total)
  if max(folder.saved_steps(), default=0) != total:
    return None
  if finished is not None:
    update.check_batch(settings, devices)
    digest = pretrained.fingerprint(settings)
    folder.check_data({'pretrained_fingerprint': digest} if digest else {})
  return finished


def _finished(folder, settings, total_steps):
  """Returns the stored result of a finished run; None if a file is missing."""
  stored = folder.read_json('result.json')
  names = {field.name for field in dataclasses.fields(TrainResult)}
  if stored.get('step') != total_steps or names != stored.keys():
    return None
  names = {'model': 'model.npz'}
  if settings.keep_best:
    names['best_model'] = 'best.npz'
  elif stored['best_model'] is not None:
    return None
  if not all(map(folder.has, names.values())):
    return None
  paths = {key: folder.path(name) for key, name in names.items()}
  stored['notes'] = tuple(stored['notes'])
  return TrainResult(**{**stored, **paths, 'workdir': folder.folder})


class _Run:
  """The parts of a run, made and checked before anything is computed."""

  def __init__(self, settings, source, devices, line, origin, workdir):
    """Checks the settings.

    Args:
      settings: the settings of the run.
      source: the pre-trained weights; None if the run has none, or continues.
      devices: the mesh.
      line: prints a line of the banner.
      origin: the finished run to continue; None if there is none, or if the
        workdir has a checkpoint.
      workdir: the folder of the run on this machine.
    """
    self.settings = settings
    self.source = source
    self.origin = origin
    self.mesh = devices
    update.check_batch(settings, self.mesh)
    records = [workdir]
    if origin is not None:
      records.append(origin.folder)
    if source is not None and source.card_file is not None:
      records.append(os.path.dirname(source.card_file))
    with waiting.doing(f'checking {settings.dataset}'):
      self.input = input.Input(settings, records=records)
    line('data', banner.data(self.input))
    self.image_size = self.input.image_size
    self.train, self.test = self.input.train, self.input.test
    device = self.mesh.devices.flat[0]
    self.task = tasks.create(settings, self.input, device)
    self.model = self.task.model
    self.total_steps, self.schedule = optimization.create_schedule(
      settings, self.train.num_examples
    )
    self.tx = optimization.create_optimizer(
      settings, self.schedule, self.total_steps, self.model
    )
    self.step = update.Update(
      settings, self.task, self.input, self.tx, self.mesh
    )
    self.shapes = self.step.shapes
    line(
      'model',
      banner.model(self.task.architecture, self.shapes.params, self.image_size),
    )
    if self.step.trained is not None or settings.layer_decay:
      line('trains', banner.trained(settings, self.step.sizes()))
    line(
      'batch',
      banner.length(settings, self.total_steps, self.train.num_examples),
    )
    self.notes = self.step.notes()
    for text in self.notes:
      note(text)
    if origin is not None:
      origin.check_length(self.total_steps)
      origin.note_schedule(self.schedule, self.total_steps, settings.decay_type)
    self.first_step = 0  # number of updates at the start in this workdir
    self.params = None
    self.scores = None  # of the last evaluation, see TrainResult.multi_label

  def prepare(self):
    """Makes the initial parameters, and checks that an update fits."""
    fresh = self.origin is None
    memory_check.require_estimate(self.step, fresh=fresh)
    self.step.begin()
    if fresh:
      with waiting.doing('making the initial parameters'):
        self.params = self._initial_params()
    memory_check.require(self.step, fresh=fresh)

  def start(self, step):
    return banner.start(self.settings, step, self.total_steps, self.first_step)

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
      **self._validation_data(),
      'orientation': self.input.orientation,
    }
    if self.task.teacher:
      data['teacher_fingerprint'] = self.task.teacher.digest
    if self.origin is not None:
      self.origin.check_data(data)
      data |= self.origin.record()
    # A continued run does not read the file.
    if not self.settings.continue_from:
      digest = pretrained.fingerprint(self.settings)
      if digest:
        data['pretrained_fingerprint'] = digest
    trained = {
      'train': self.settings.train,
      'layer_decay': self.settings.layer_decay,
      **self.step.sizes(),
    }
    return manifest.create(
      seed=self.settings.seed, mesh=self.mesh, data=data, trained=trained
    )

  def _validation_data(self):
    split = self.input.validation
    if split is None:
      return {}
    return {
      'validation': split.split,
      'validation_fingerprint': split.fingerprint(),
    }

  def checkpoints(self, folder):
    return folder.checkpoints(
      keep=self.settings.keep_checkpoints,
      keep_best=self.settings.keep_best,
      note=note,
    )

  def state(self, checkpoints):
    """Returns the initial state on the mesh and its number of updates."""
    if checkpoints.latest_step() is not None:
      self.params = None
      if checkpoints.latest_step() < self.total_steps:
        memory_check.require_estimate(self.step, fresh=False)
        memory_check.require(self.step, fresh=False)
      with waiting.doing('reading the checkpoint'):
        state, position = checkpoints.restore(self.shapes)
      _note_processes(position)
      return state, int(state.step)
    if self.origin is None:
      return self._new_state(), 0
    state, description = self.origin.restore(self.shapes)
    _note_processes(description['meta'])
    # From now on the run does not need the other workdir.
    with waiting.doing('saving a checkpoint'):
      checkpoints.save(state, self._position(), description['score'])
    return state, self.first_step

  def _new_state(self):
    """Returns the state before the first update of all."""
    params = self._initial_params() if self.params is None else self.params
    self.params = None  # frees the host's memory
    # Creates the state in its shards: one device might not hold all of it.
    create = jax.jit(
      functools.partial(
        steps.create_state,
        tx=self.tx,
        seed=self.settings.seed,
        trained=self.step.trained,
      ),
      out_shardings=self.shardings,
      donate_argnums=0,
    )
    with waiting.doing('making the state of the optimiser'):
      return create(mesh.put(params, self.shardings.params))

  def begin_metrics(self, folder, start_step):
    """Removes metrics of later steps; a new run's settings come first."""
    folder.continue_metrics(start_step)
    if start_step == self.first_step and jax.process_index() == 0:
      with waiting.doing('starting the files for TensorBoard'):
        folder.events.settings(folder.config)

  def trained(self, state, start_step, checkpoints, folder, show):
    """Returns the result of `loop`; saves the last good state after a NaN."""
    try:
      return self.loop(state, start_step, checkpoints, folder, show)
    except loop.NotFiniteError as error:
      failed = error.with_traceback(None)  # frees the state and the batches
    parts = rescue.Rescue(
      folder,
      checkpoints,
      shapes=self.shapes,
      first_step=self.first_step,
      start=functools.partial(self._first_state, folder),
      batches=lambda step: self._on_devices(self.input.batches(step)),
      step=self.step,
      save=lambda state: checkpoints.save(state, self._position()),
      save_model=lambda name, state: self.save_model(
        folder, name, averaging.evaluated(state)
      ),
    )
    raise parts.run(failed)

  def _first_state(self, folder):
    """Returns the state from which the run started in this workdir."""
    if not self.settings.continue_from:
      return self._new_state()
    origin = continuing.Origin(self.settings, folder.config)
    return origin.restore(self.shapes)[0]

  def loop(self, state, start_step, checkpoints, folder, show):
    settings = self.settings
    showing = progress.quiet(self.total_steps)
    if show and jax.process_index() == 0:
      plan = progress.Plan(
        start_step,
        self.total_steps,
        self.train.num_examples,
        settings.batch,
        self._peak_rate(),
      )
      showing = progress.shown(plan)
    with showing as display, preemption.Watch() as watch:

      def write(step, scalars):
        if self.input.replaced_images:
          scalars['replaced_images'] = self.input.replaced_images
        folder.write_metrics(step, scalars)
        display.write(step, scalars)
        if self.step.compile_seconds != folder.compilation():
          folder.record_compilation(self.step.compile_seconds)

      def save(state, evaluated):
        with waiting.doing('saving a checkpoint'):
          folder.publish_metrics()
          score = _score(evaluated, self.input.watched)
          checkpoints.save(state, self._position(), score)

      state, evaluated = loop.run(
        state,
        self._batches(start_step, folder),
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
        evaluate=functools.partial(
          self._evaluate, watch=watch, which=self.input.watched
        ),
        write=write,
        save=save,
        stop=watch.should_stop,
        stepped=display.stepped,
      )
      if evaluated is None:
        checkpoints.wait()
        stopped = watch.stopped(int(state.step))
        note(stopped)
        raise stopped
    return state, evaluated

  def _peak_rate(self):
    """Returns images per second at the peak of the devices; None if unknown."""
    kind = self.mesh.devices.flat[0].device_kind
    dtype = self.settings.model.get('dtype') or 'float32'
    peak = chips.peak(kind, str(jax.numpy.dtype(dtype)))
    if peak is None:
      return None
    # Two operations for each multiply-add.
    return peak * self.mesh.size / (2 * self.step.multiply_adds())

  def save_model(self, folder, name, params):
    params = jax.tree.map(_whole, params)
    if jax.process_index() == 0:
      model_card.save_model(
        folder.file(f'{name}.npz'),
        params,
        architecture=settings_lib.to_plain(self.task.architecture),
        class_names=self.task.class_names,
        preprocessing=self.input.preprocessing,
        image_size=self.image_size,
        # 'none' of other data does not mean that photographs lie on the side.
        orientation=self.input.orientation
        if self.train.is_folder or self.input.orientation == 'exif'
        else None,
        loss=self.task.loss,
      )
      with waiting.doing(f'writing {name}.npz'):
        folder.publish(f'{name}.json')
        folder.publish(f'{name}.npz')

  def result(self, folder, evaluated, seconds):
    """Returns the result of the run after its last evaluation.

    Until `completed`, accuracies are those of the split that is evaluated
    during training.
    """
    which = self.input.watched
    return TrainResult(
      accuracy=evaluated[f'accuracy_{which}'],
      top5_accuracy=evaluated[f'top5_accuracy_{which}'],
      num_examples=self.input.split_of(which).num_examples,
      replaced_images=self.input.replaced_by_all(),
      step=self.total_steps,
      seconds=seconds,
      workdir=folder.folder,
      model=folder.path('model.npz'),
      loss=evaluated.get(f'loss_{which}'),
    )

  def completed(self, result, state, folder):
    """Returns the result with the test split's values and all notes.

    If there is a validation split, this is the only look at the test split.

    Args:
      result: from `result` or `save_best`.
      state: of best.npz if it is kept, else of model.npz.
      folder: the workdir.
    """
    if self.input.validation is not None:
      with preemption.Watch() as watch:
        evaluated = self._evaluate(state, watch, 'test')
        if evaluated is None:
          stopped = watch.stopped(self.total_steps)
          note(stopped)
          raise stopped
      folder.write_metrics(int(state.step), evaluated)
      result = dataclasses.replace(
        result,
        accuracy=evaluated['accuracy_test'],
        top5_accuracy=evaluated['top5_accuracy_test'],
        num_examples=self.test.num_examples,
        loss=evaluated.get('loss_test'),
        validation_accuracy=result.accuracy,
      )
    unreadable_by_class, lost = self.input.unreadable()
    return dataclasses.replace(
      result,
      unreadable_by_class=unreadable_by_class,
      notes=(*self.notes, *lost),
      multi_label=self.scores,
    )

  def save_best(self, folder, result, state, score):
    """Saves the best state; returns the result with its values."""
    kind = 'accuracy' if self.scores is None else 'mean_average_precision'
    path = folder.path('best.npz')
    self.save_model(folder, 'best', averaging.evaluated(state))
    return dataclasses.replace(
      result,
      best_model=path,
      best_step=int(state.step),
      **{f'best_{kind}': score},
    )

  def _initial_params(self):
    # A run that was killed before its first checkpoint has not read the file.
    source = self.source or pretrained.load(self.settings)
    self.source = None  # frees the host's memory
    return pretrained.parameters(
      self.settings, self.model, self.image_size, self.task.class_names, source
    )

  def _batches(self, start_step, folder):
    batches = self.input.batches(start_step)
    if start_step == self.first_step and jax.process_index() == 0:
      first = next(batches)
      augmentation = self.input.augmentation
      folder.events.images(first['image'], augmentation.mean, augmentation.std)
      batches = itertools.chain([first], batches)
    return self._on_devices(batches)

  def _on_devices(self, batches):
    put = functools.partial(mesh.to_global, mesh=self.mesh)
    return loop.prefetch(batches, put, self.settings.prefetch)

  def _evaluate(self, state, watch, which):
    try:
      with waiting.doing(f'evaluating the {which} split'):
        result = self.task.evaluate(
          self.model,
          averaging.evaluated(state),
          watch.unless_stopped(self.input.evaluation_batches(which)),
          self.mesh,
          num_examples=self.input.split_of(which).num_examples,
        )
    except preemption.InterruptedEvaluationError:
      return None
    self.input.note_orientation()
    scalars = {
      f'accuracy_{which}': result['accuracy'],
      f'top5_accuracy_{which}': result['top5_accuracy'],
      f'loss_{which}': result['loss'],
    }
    if 'multi_label' in result:
      scores = result['multi_label']
      scalars |= multi_label.scalars(scores, which)
      self.scores = settings_lib.to_plain(dataclasses.asdict(scores))
    # No test image may be readable, so that there is no loss.
    return {name: value for name, value in scalars.items() if value is not None}

  def _position(self):
    """Returns the checkpoint's part of the position in the data.

    With the step and the settings it determines the next batch.
    """
    return {'processes': jax.process_count()}


def _note_processes(position):
  """Notes that the run began in another number of processes."""
  if position['processes'] != jax.process_count():
    note(
      f'the run began in {position["processes"]} processes and continues '
      f'in {jax.process_count()}: its examples come in another order'
    )


def _score(evaluated, which):
  """Returns what the best checkpoint is chosen by; None if not evaluated."""
  accuracy = evaluated.get(f'accuracy_{which}')
  return evaluated.get(f'mean_average_precision_{which}', accuracy)


def _whole(leaf):
  """Returns a parameter as one host array, also if processes share it."""
  if leaf.is_fully_addressable or leaf.is_fully_replicated:
    return jax.device_get(leaf)
  from jax.experimental import multihost_utils

  return multihost_utils.process_allgather(leaf, tiled=True)
