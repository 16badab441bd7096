"""The parts of a run: its mesh, data, model, optimiser and update."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from vit_jax_repro.inference import multi_label
from vit_jax_repro.output import waiting
from vit_jax_repro.output.messages import note
from vit_jax_repro.parallel import chips, mesh
from vit_jax_repro.runs import (
  banner,
  batch_sizes,
  input,
  loop,
  optimization,
  preemption,
  tasks,
  tensorboard,
  update,
)
from vit_jax_repro.runs import settings as settings_lib
from vit_jax_repro.runs.workdir import Workdir
from vit_jax_repro.training import averaging, mixing
from vit_jax_repro.weights import model_card


class Parts:
  """The parts of a run, made and checked before anything is computed.

  Attributes:
    line: prints a line of the banner.
    shapes: shapes of the training state, with shardings.
    notes: notes of the run on its data and settings.
    scores: of the last evaluation, see `results.TrainResult.multi_label`.
  """

  def __init__(
    self,
    settings: settings_lib.Settings,
    devices: Any,
    line: Any,
    records: Sequence[str],
  ):
    """Checks the settings.

    Args:
      settings: the settings of the run.
      devices: the mesh.
      line: prints a line of the banner.
      records: folders whose division of the data set is kept.
    """
    self.settings, self.line = settings, line
    self.mesh = devices
    update.check_batch(settings, self.mesh)
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
    self.scores = None

  @property
  def shardings(self) -> Any:
    """Returns the shardings of the training state."""
    return jax.tree.map(lambda x: x.sharding, self.shapes)

  def position(self) -> dict[str, int]:
    """Returns the checkpoint's part of the position in the data.

    With the step and the settings it determines the next batch.
    """
    return {'processes': jax.process_count()}

  def meta(self) -> dict[str, Any]:
    """Returns what is saved with each checkpoint: position and model card."""
    return {**self.position(), 'card': self.card()}

  def card(self) -> dict[str, Any]:
    """Returns the description of the model, see weights.model_card."""
    return dict(
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

  def data(self) -> dict[str, Any]:
    """Returns the description of the data for the manifest."""
    data = {'dataset': self.settings.dataset}
    for name in ('train', 'test', 'validation'):
      split = getattr(self.input, name)
      if split is not None:
        data[name] = split.split
        data[f'{name}_fingerprint'] = split.fingerprint()
        contents = split.contents_hash()
        if contents is not None:
          data[f'{name}_contents'] = contents
        data[f'{name}_images'] = split.num_examples
        if split.folder is not None:
          counts = split.folder.counts(range(split.num_examples))
          data[f'{name}_classes'] = dict(
            zip(split.class_names, counts.tolist(), strict=True)
          )
    data['orientation'] = self.input.orientation
    if self.task.teacher:
      data['teacher_fingerprint'] = self.task.teacher.digest
    return data

  def batches(self, step: int) -> Iterator[dict]:
    """Returns the training batches after an update, on the devices."""
    return self._on_devices(self.input.batches(step))

  def first_batches(self, step: int, folder: Workdir) -> Iterator[dict]:
    """Returns `batches`; images of the first one are drawn for TensorBoard."""
    batches = self.input.batches(step)
    if jax.process_index() == 0:
      first = next(batches)
      shown = {key: value[: tensorboard.SHOWN] for key, value in first.items()}
      augmentation = self.input.augmentation
      folder.events.images(
        mixing.flip(shown)['image'], augmentation.mean, augmentation.std
      )
      batches = itertools.chain([first], batches)
    return self._on_devices(batches)

  def _on_devices(self, batches):
    put = functools.partial(mesh.to_global, mesh=self.mesh)
    ahead = batch_sizes.batches_ahead(self.settings, self.mesh)
    return loop.prefetch(batches, put, ahead)

  def evaluate(
    self, state: Any, watch: preemption.Watch, which: str
  ) -> dict[str, float] | None:
    """Returns the scalars of a split; None if the run must stop before.

    Args:
      state: a training state.
      watch: knows whether the run must stop.
      which: the split: 'test' or 'validation'.
    """
    rows = batch_sizes.evaluation_rows(
      self.settings, self.image_size, self.mesh
    )
    try:
      with waiting.doing(f'evaluating the {which} split'):
        result = self.task.evaluate(
          self.model,
          averaging.evaluated(state),
          watch.unless_stopped(self.input.evaluation_batches(which, rows)),
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

  def save_model(self, folder: Workdir, name: str, state: Any) -> None:
    """Writes the model of a state as NAME.npz with its card into a workdir."""
    params = jax.tree.map(_whole, averaging.evaluated(state))
    if jax.process_index() == 0:
      model_card.save_model(
        folder.file(f'{name}.npz'),
        params,
        **self.card(),
      )
      with waiting.doing(f'writing {name}.npz'):
        folder.publish(f'{name}.json')
        folder.publish(f'{name}.npz')

  def peak_rate(self) -> float | None:
    """Returns images per second at the peak of the devices; None if unknown."""
    kind = self.mesh.devices.flat[0].device_kind
    dtype = self.settings.model.get('dtype') or 'float32'
    peak = chips.peak(kind, str(jax.numpy.dtype(dtype)))
    if peak is None:
      return None
    # Two operations for each multiply-add.
    return peak * self.mesh.size / (2 * self.step.multiply_adds())


def _whole(leaf):
  """Returns a parameter as one host array, also if processes share it."""
  if leaf.is_fully_addressable or leaf.is_fully_replicated:
    return jax.device_get(leaf)
  from jax.experimental import multihost_utils

  return multihost_utils.process_allgather(leaf, tiled=True)
