"""A finished run whose state another run takes over, to train longer.

The new run reads the last checkpoint of the finished one and saves it as its
own first checkpoint, so it needs the finished run's workdir only once.
"""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from flax import traverse_util

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import buckets, run_files, waiting
from vit_jax_repro.output.messages import note
from vit_jax_repro.runs import (
  card_settings,
  checkpoint,
  identity,
  rescue,
  workdir,
)
from vit_jax_repro.runs.settings import Settings
from vit_jax_repro.training import optim
from vit_jax_repro.weights import integrity

# Settings that may differ from those of the finished run.
CHANGEABLE = (*workdir.FREE, *workdir.SCHEDULE)
# The keys of the manifest's data that describe the finished run.
_FOLDER, _STEP = 'continued_from', 'continued_step'
_FINGERPRINT = 'continued_fingerprint'
_NAME = 'config.continue_from'


class Origin:
  """The finished run that a new run continues; nothing is written to it.

  Attributes:
    step: number of its updates.
    data: the description of its data, from its manifest.
    moved: places of data and weights that differ, see identity.moved.
    config: the configuration of the new run. Keys that are None have the values
      of the finished run.
  """

  def __init__(self, settings: Settings, config: Mapping[str, Any]):
    """Reads the files of the workdir that `settings.continue_from` names.

    Args:
      settings: the settings of the new run.
      config: its configuration, as a plain mapping.

    Raises:
      InputError: the folder holds no finished run, or one with other settings.
      BucketError: the bucket does not exist, refuses, or does not answer.
    """
    assert settings.continue_from
    self._text = settings.continue_from
    self._in_bucket = buckets.is_url(self._text)
    if self._in_bucket:
      self.folder = buckets.clean_run(self._text)
      buckets.require(self.folder, writable=False)
    else:
      self.folder = os.path.abspath(os.path.expanduser(self._text))
    if not self._in_bucket and not os.path.isdir(self.folder):
      raise InputError(
        f'{_NAME}={self._text!r} is no folder on this machine; name the '
        'workdir of a finished run'
      )
    begun = self._read('config.json')
    if not begun:
      raise InputError(
        f'{_NAME}={self._text!r} holds no run; name the workdir of a finished '
        'run'
      )
    path = f'{self.folder}/config.json'
    identity.check(begun, path, 'name the workdir of another run')
    self.data = self._read('manifest.json').get('data', {})
    self.step = self._last_step()
    self.config = card_settings.settled(
      config, traverse_util.flatten_dict(begun, sep='.')
    )
    self.moved = identity.moved(begun, self.config, CHANGEABLE)
    free = (*CHANGEABLE, *self.moved)
    changed = identity.differences(begun, self.config, free)
    if changed:
      raise InputError(
        f'{_NAME}={self._text!r} holds a run with other settings: '
        f'{"; ".join(changed)}; give those of that run, only the schedule may '
        'change'
      )

  def check_length(self, total_steps: int) -> None:
    """Refuses a new run whose last update is not after that of this one."""
    if total_steps <= self.step:
      raise InputError(
        f'config.total_steps={total_steps} must be above the {self.step} '
        f'updates of {_NAME}={self._text!r}, which count as well'
      )

  def check_data(self, data: Mapping[str, Any]) -> None:
    """Refuses a description of other data than those of the finished run."""
    identity.require_same(
      self.data,
      data,
      self.moved,
      f'{_NAME}={self._text!r} holds a run',
      'give the data of that run, or start from its model by '
      f'config.pretrained_dir={self._text}',
    )

  def record(self) -> dict[str, Any]:
    """Returns the description of the finished run for the manifest."""
    found = {_FOLDER: self.folder, _STEP: self.step}
    with contextlib.suppress(FileNotFoundError):  # `restore` names the damage
      # It has the checksums of the state.
      path = os.path.join(self._checkpoint(), integrity.FILE)
      content = (
        buckets.read(path)
        if self._in_bucket
        else pathlib.Path(path).read_bytes()
      )
      found[_FINGERPRINT] = hashlib.sha256(content).hexdigest()
    return found

  def restore(self, shapes: Any) -> tuple[Any, dict]:
    """Reads the last checkpoint; all processes must call this together.

    Args:
      shapes: shapes of the state with the shardings for the result.

    Returns:
      The state, and the checkpoint's description.

    Raises:
      InputError: the checkpoint is damaged or holds another kind of state.
    """
    path = self._checkpoint()

    def read():
      place = buckets.path(path) if self._in_bucket else pathlib.Path(path)
      return checkpoint.read_state(place, shapes, note)

    try:
      with waiting.doing(f'reading {path}'):
        return buckets.patiently(path, read) if self._in_bucket else read()
    except integrity.DamagedError as fault:
      raise InputError(
        f'checkpoint {path} is damaged ({fault}); put back a copy of it, or '
        f'start from the model by config.pretrained_dir={self._text}'
      ) from None

  def note_schedule(
    self, schedule: optim.Schedule, total_steps: int, decay_type: str
  ) -> None:
    """Notes which learning rates follow on that of the last update.

    Args:
      schedule: the schedule of the new run.
      total_steps: number of its last update.
      decay_type: its kind of decay.
    """
    first, last = (float(schedule(x)) for x in (self.step, total_steps - 1))
    line = (
      f'the schedule is computed for {total_steps} updates in all '
      f'(decay_type={decay_type!r}): update {self.step + 1} has the learning '
      f'rate {first:.3g}, update {total_steps} has {last:.3g}'
    )
    before = self._last_rate()
    if before is not None:
      line += f'; the last of {self._text} was {before:.3g}'
      if first > before:
        line += ', and --config.base_lr makes the rise smaller'
    note(line)

  def _last_step(self):
    """Returns the number of updates; refuses a run that has not finished.

    A run that stopped at a NaN counts up to its last good state.
    """
    stopped = self._read(rescue.STOPPED)
    step = self._read('result.json').get('step', stopped.get('last_good_step'))
    if step is None:
      raise InputError(
        f'{_NAME}={self._text!r} holds a run that has not finished; repeat its '
        'command first'
      )
    if not self._is_saved(step):
      raise InputError(
        f'{_NAME}={self._text!r} has no checkpoint of its last update, '
        f'{self._checkpoint(step)}; put it back, or start from the model by '
        f'config.pretrained_dir={self._text}'
      )
    return step

  def _last_rate(self):
    """Returns the learning rate of the last update; None if unknown."""
    try:
      lines, _ = run_files.metrics(os.path.join(self.folder, 'metrics.jsonl'))
    except FileNotFoundError:
      return None
    last = lines[-1] if lines else {}
    return last.get('lr') if last.get('step') == self.step else None

  def _checkpoint(self, step=None):
    step = self.step if step is None else step
    return os.path.join(self.folder, 'checkpoints', str(step))

  def _is_saved(self, step):
    path = self._checkpoint(step)
    return buckets.names(path) if self._in_bucket else os.path.isdir(path)

  def _read(self, name):
    try:
      path = os.path.join(self.folder, name)
      return run_files.read(path, f'check {_NAME}')
    except FileNotFoundError:
      return {}


def first_step(data: Mapping[str, Any]) -> int:
  """Returns the number of updates with which a run in a workdir began.

  Args:
    data: the description of the data in the run's manifest; {} for a new run.
  """
  return data.get(_STEP, 0)
