"""A whole training run: settings in, trained model out."""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Mapping
from typing import Any

import jax

from vit_jax_repro.inference import classify
from vit_jax_repro.output import waiting
from vit_jax_repro.output.messages import note
from vit_jax_repro.parallel import mesh, processes
from vit_jax_repro.runs import (
  banner,
  input_wait,
  loop,
  manifest,
  preemption,
  process_facts,
  progress,
  rescue,
  results,
)
from vit_jax_repro.runs import settings as settings_lib
from vit_jax_repro.runs.parts import Parts
from vit_jax_repro.runs.results import TrainResult
from vit_jax_repro.runs.starting import Start
from vit_jax_repro.runs.workdir import Workdir


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
  with waiting.doing('comparing the settings of all processes'):
    process_facts.require_same_settings(settings_lib.to_plain(config))
  folder = Workdir(workdir, settings_lib.to_plain(config))
  line('workdir', folder.folder)
  rescue.refuse_repetition(folder)
  line('precision', banner.precision(settings))
  start = Start(settings, folder)
  settings = start.settings
  if not start.fresh:
    finished = results.finished_without_data(folder, settings, devices)
    if finished:
      line('start', banner.start(settings, finished.step, finished.step))
      return finished
  parts = Parts(settings, devices, line, start.records())
  start.check_schedule(parts)
  data = _described_data(parts, start, folder)
  parts.step.usual_seconds = folder.compilation()
  if start.fresh:
    line('start', _start_line(parts, start, start.step))
    start.prepare(parts)
  with contextlib.closing(folder):
    folder.begin(_manifest(parts, data), parts.train.divided)
    keeping = folder.checkpoints(
      keep=settings.keep_checkpoints, keep_best=settings.keep_best, note=note
    )
    with contextlib.closing(keeping) as checkpoints:
      if not start.fresh:
        finished = results.finished(folder, settings, parts.total_steps)
        if checkpoints.latest_step() == parts.total_steps and finished:
          line('start', banner.start(settings, finished.step, finished.step))
          return finished
      state, first = start.state(parts, checkpoints)
      if not start.fresh:
        line('start', _start_line(parts, start, first))
      _begin_metrics(folder, first, is_new=first == start.step)
      run = _Run(parts, start, folder, checkpoints)
      state, evaluated = run.trained(state, first, show=show)
      with waiting.doing('saving the checkpoint'):
        checkpoints.wait()
      is_complete = first == parts.total_steps
      seconds = results.seconds_since(started, folder, is_complete=is_complete)
      result = results.trained(parts, folder, evaluated, seconds)
      parts.save_model(folder, 'model', state)
      if settings.keep_best:
        score = _score(evaluated, parts.input.watched)
        if checkpoints.best_score() > score:
          del state  # memory may not hold two states
          state, score = checkpoints.restore_best(parts.shapes)
        result = results.with_best(result, parts, folder, state, score)
      result = results.completed(result, parts, folder, state)
    folder.finish(dataclasses.asdict(result))
  # Until then a full disk of the first process ends all with a message.
  processes.wait_for_all('the run is finished')
  return result


def _described_data(parts, start, folder):
  """Describes the data, which must be the same in all processes."""
  with waiting.doing('hashing the data'):
    data = start.data(parts)
  with waiting.doing('comparing the data of all processes'):
    process_facts.require_same_data(
      parts, folder.begun() | data, folder.saved_steps()
    )
  return start.checked(data)


def _start_line(parts, start, step):
  return banner.start(parts.settings, step, parts.total_steps, start.step)


def _manifest(parts, data):
  settings = parts.settings
  trained = {
    'train': settings.train,
    'layer_decay': settings.layer_decay,
    **parts.step.sizes(),
  }
  return manifest.create(
    seed=settings.seed,
    mesh=parts.mesh,
    data=data,
    trained=trained,
  )


def _begin_metrics(folder, step, *, is_new):
  """Removes metrics of later steps; a new run's settings come first."""
  folder.continue_metrics(step)
  if is_new and jax.process_index() == 0:
    with waiting.doing('starting the files for TensorBoard'):
      folder.events.settings(folder.config)


class _Run:
  """The updates of a run, and what happens between them."""

  def __init__(self, parts, start, folder, checkpoints):
    self.parts, self.start = parts, start
    self.folder, self.checkpoints = folder, checkpoints

  def trained(self, state, step, *, show):
    """Returns the result of `loop`; saves the last good state after a NaN."""
    try:
      return self.loop(state, step, show)
    except loop.NotFiniteError as error:
      failed = error.with_traceback(None)  # frees the state and the batches
    parts = self.parts
    attempt = rescue.Rescue(
      self.folder,
      self.checkpoints,
      shapes=parts.shapes,
      first_step=self.start.step,
      start=functools.partial(self.start.first_state, parts),
      batches=parts.batches,
      step=parts.step,
      save=lambda state: self.checkpoints.save(state, parts.meta()),
      save_model=functools.partial(parts.save_model, self.folder),
    )
    raise attempt.run(failed)

  def loop(self, state, start_step, show):
    parts, folder = self.parts, self.folder
    settings = parts.settings
    showing = progress.quiet(parts.total_steps)
    if show and jax.process_index() == 0:
      plan = progress.Plan(
        start_step,
        parts.total_steps,
        parts.train.num_examples,
        settings.batch,
        parts.peak_rate(),
      )
      showing = progress.shown(plan)
    adviser = input_wait.Adviser(parts.mesh.devices.flat[0].platform)
    with showing as display, preemption.Watch() as watch:

      def write(step, scalars):
        line = adviser.line(scalars['input_wait'])
        if line is not None:
          note(line, every_process=True)
        if parts.input.replaced_images:
          scalars['replaced_images'] = parts.input.replaced_images
        folder.write_metrics(step, scalars)
        display.write(step, scalars)
        if parts.step.compile_seconds != folder.compilation():
          folder.record_compilation(parts.step.compile_seconds)

      def save(state, evaluated):
        with waiting.doing('saving a checkpoint'):
          folder.publish_metrics()
          score = _score(evaluated, parts.input.watched)
          self.checkpoints.save(state, parts.meta(), score)

      state, evaluated = loop.run(
        state,
        self._batches(start_step),
        step=parts.step,
        start_step=start_step,
        total_steps=parts.total_steps,
        batch_size=settings.batch,
        every=loop.Every(
          progress=settings.progress_every,
          evaluation=settings.eval_every,
          checkpoint=settings.checkpoint_every,
        ),
        learning_rate=parts.schedule,
        evaluate=functools.partial(self._evaluate, watch=watch),
        write=write,
        save=save,
        stop=watch.should_stop,
        stepped=display.stepped,
      )
      if evaluated is None:
        self.checkpoints.wait()
        stopped = watch.stopped(int(state.step))
        note(stopped)
        raise stopped
    return state, evaluated

  def _evaluate(self, state, watch):
    """Evaluates a state; logits that are not finite end the run like a loss."""
    try:
      return self.parts.evaluate(state, watch, self.parts.input.watched)
    except classify.NotFiniteError as error:
      reason = f'{error} in the evaluation'
    # The first error's traceback has the state, which the replay must free.
    step = int(state.step)
    raise loop.NotFiniteError(step, reason, step, in_evaluation=True)

  def _batches(self, step):
    if step == self.start.step:
      return self.parts.first_batches(step, self.folder)
    return self.parts.batches(step)


def _score(evaluated, which):
  """Returns what the best checkpoint is chosen by; None if not evaluated."""
  accuracy = evaluated.get(f'accuracy_{which}')
  return evaluated.get(f'mean_average_precision_{which}', accuracy)
