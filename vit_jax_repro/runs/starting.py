"""Where a run starts: fresh parameters, weights of a file, or a checkpoint."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax

from vit_jax_repro.data import split_records
from vit_jax_repro.output import waiting
from vit_jax_repro.output.messages import note
from vit_jax_repro.parallel import host_memory, mesh
from vit_jax_repro.runs import (
  banner,
  card_settings,
  checkpoint,
  continuing,
  identity,
  memory_check,
  pretrained,
)
from vit_jax_repro.runs import settings as settings_lib
from vit_jax_repro.runs.parts import Parts
from vit_jax_repro.runs.workdir import Workdir
from vit_jax_repro.training import steps


class Start:
  """The start of a run in a workdir.

  Attributes:
    settings: the settings of the run. Those that the configuration leaves open
      are as the files of the start have them.
    fresh: whether the workdir has no checkpoints.
    step: number of updates of the state that the run began with in it.
  """

  def __init__(self, settings: settings_lib.Settings, folder: Workdir):
    """Reads the files that the run starts from.

    Args:
      settings: the settings of the run.
      folder: its workdir, whose configuration is completed.
    """
    self._folder = folder
    self.fresh = not folder.has('checkpoints')
    begun = folder.begun()
    self._origin = None
    # A run with a checkpoint of its own does not need the finished run.
    if settings.continue_from and not folder.saved_steps():
      self._origin = continuing.Origin(settings, folder.config)
      folder.config = self._origin.config
      begun = begun or self._origin.data
    self._source = None
    if self.fresh and self._origin is None:
      self._source = pretrained.load(settings)
    folder.config = card_settings.decided_by(
      None if self._source is None else self._source.card, folder.config
    )
    self.settings = read_as_begun(
      settings_lib.from_config(folder.config), begun
    )
    self.step = continuing.first_step(begun)
    if self._origin is not None:
      self.step = self._origin.step
    self._params = None

  def records(self) -> list[str]:
    """Returns the folders whose division of the data set is kept."""
    records = [self._folder.local]
    if self._origin is not None:
      records.append(self._origin.folder)
    if self._source is not None and self._source.card_file is not None:
      records.append(split_records.folder_of(self._source.card_file))
    return records

  def check_schedule(self, parts: Parts) -> None:
    """Checks and describes what follows on the updates of a finished run."""
    if self._origin is not None:
      self._origin.check_length(parts.total_steps)
      self._origin.note_schedule(
        parts.schedule, parts.total_steps, self.settings.decay_type
      )

  def prepare(self, parts: Parts) -> None:
    """Makes the initial parameters, and checks that an update fits."""
    fresh = self._origin is None
    memory_check.require_estimate(parts.step, fresh=fresh)
    parts.step.begin()
    if fresh:
      with waiting.doing('making the initial parameters'):
        self._params = self._initial_params(parts)
    _check_memory(parts, fresh=fresh, held=mesh.bytes_of(self._params))

  def data(self, parts: Parts) -> dict[str, Any]:
    """Returns the manifest's description of the data and the weights."""
    data = parts.data()
    moved = self._folder.moved if self._origin is None else self._origin.moved
    # A continued run does not read the file.
    if not self.settings.continue_from or identity.WEIGHTS & moved.keys():
      digest = pretrained.fingerprint(self.settings)
      if digest:
        data['pretrained_fingerprint'] = digest
    if self._origin is None and 'continue_from' in moved:
      data |= continuing.Origin(self.settings, self._folder.config).record()
    return data

  def checked(self, data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the description with that of the run that is continued.

    Args:
      data: result of `data`.

    Raises:
      InputError: the run that is continued has other data.
    """
    if self._origin is None:
      return dict(data)
    self._origin.check_data(data)
    return self._origin.data | data | self._origin.record()

  def state(
    self, parts: Parts, checkpoints: checkpoint.Checkpoints
  ) -> tuple[Any, int]:
    """Returns the initial state on the mesh and its number of updates."""
    newest = checkpoints.latest_step()
    if newest is not None:
      self._params = None
      if newest < parts.total_steps:
        memory_check.require_estimate(parts.step, fresh=False)
        _check_memory(parts, fresh=False)
      with waiting.doing('reading the checkpoint'):
        state, position = checkpoints.restore(parts.shapes)
      _note_processes(position)
      return state, int(state.step)
    if self._origin is None:
      return self._new_state(parts), 0
    state, description = self._origin.restore(parts.shapes)
    _note_processes(description['meta'])
    # From now on the run does not need the other workdir.
    with waiting.doing('saving a checkpoint'):
      checkpoints.save(state, parts.meta(), description['score'])
    return state, self.step

  def first_state(self, parts: Parts) -> Any:
    """Returns the state that the run began with in this workdir."""
    if not self.settings.continue_from:
      return self._new_state(parts)
    origin = continuing.Origin(self.settings, self._folder.config)
    return origin.restore(parts.shapes)[0]

  def _new_state(self, parts):
    """Returns the state before the first update of all."""
    params = self._params
    self._params = None  # frees the host's memory
    if params is None:
      params = self._initial_params(parts)
    # Creates the state in its shards: one device might not hold all of it.
    create = jax.jit(
      functools.partial(
        steps.create_state,
        tx=parts.tx,
        seed=self.settings.seed,
        trained=parts.step.trained,
      ),
      out_shardings=parts.shardings,
      donate_argnums=0,
    )
    with waiting.doing('making the state of the optimiser'):
      state = create(mesh.put(params, parts.shardings.params))
    del params
    host_memory.trim()
    return state

  def _initial_params(self, parts):
    # A run that was killed before its first checkpoint has not read the file.
    source = self._source or pretrained.load(self.settings)
    self._source = None  # frees the host's memory
    return pretrained.parameters(
      self.settings,
      parts.model,
      parts.image_size,
      parts.task.class_names,
      source,
    )


def read_as_begun(
  settings: settings_lib.Settings, begun: Mapping[str, Any]
) -> settings_lib.Settings:
  """Returns settings with the orientation that a run began with.

  Args:
    settings: the settings of the run.
    begun: the manifest's description of the data; {} for a new run. Runs from
      before `pp.orientation` took images as they are stored.
  """
  if not begun or settings.pp.orientation:
    return settings
  orientation = begun.get('orientation', 'none')
  pp = dataclasses.replace(settings.pp, orientation=orientation)
  return dataclasses.replace(settings, pp=pp)


def _check_memory(parts, *, fresh, held=0):
  """Checks that an update fits, and describes the memory of a CPU's run."""
  peak = memory_check.require(parts.step, fresh=fresh, held=held)
  if peak is not None:
    parts.line('memory', banner.memory(peak))


def _note_processes(position):
  """Notes that the run began in another number of processes."""
  if position['processes'] != jax.process_count():
    note(
      f'the run began in {position["processes"]} processes and continues '
      f'in {jax.process_count()}: its examples come in another order'
    )
