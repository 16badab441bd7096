"""The last good state of a run that stops at a NaN.

While a run trains, its state is replaced by each update, and a NaN is found
some updates later. Then the last good state is made again: from the newest
checkpoint before it, or from the start, the same batches are trained on. So no
second copy of the state is kept.

A loss is computed before its update. The last good state is therefore the one
from which the last finite loss was computed.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any

import jax

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import waiting
from vit_jax_repro.output.messages import note
from vit_jax_repro.runs import checkpoint, loop, workdir

STOPPED = 'stopped.json'
MODEL = 'last_good'  # without .npz


class Rescue:
  """Makes the last good state of a run again and saves it."""

  def __init__(
    self,
    folder: workdir.Workdir,
    checkpoints: checkpoint.Checkpoints,
    *,
    shapes: Any,
    first_step: int,
    start: Callable[[], Any],
    batches: Callable[[int], Iterator[dict]],
    step: Callable[[Any, dict], tuple[Any, dict]],
    save: Callable[[Any], None],
    save_model: Callable[[str, Any], None],
  ):
    """Takes the parts of a run.

    Args:
      folder: the workdir of the run.
      checkpoints: its checkpoints.
      shapes: shapes of its state, with shardings.
      first_step: number of updates of the state that it started from.
      start: returns that state.
      batches: returns the batches after an update, on the devices.
      step: the update; it donates the state.
      save: saves a checkpoint of a state.
      save_model: (name, state); saves the model of a state as NAME.npz.
    """
    self._folder, self._checkpoints = folder, checkpoints
    self._shapes, self._first_step = shapes, first_step
    self._start, self._batches, self._step = start, batches, step
    self._save, self._save_model = save, save_model

  def run(self, error: loop.NotFiniteError) -> InputError:
    """Saves the last good state before an update that is not finite.

    The state and the batches of the loop must be freed before, because memory
    may not hold two states. All processes must call this together.

    Args:
      error: names the update.

    Returns:
      The error that ends the run, on one line. It names what is saved.
    """
    try:
      state, last = self._last_good(error)
      if state is None:
        self._write(error, None)
        end = 'no loss of this run was finite, so no state is saved'
      else:
        end = self._saved(error, state, last)
    except (OSError, InputError) as fault:
      end = f'its last good state cannot be made again: {fault}'
    return InputError(f'{error}; {end}')

  def _last_good(self, error):
    """Returns the last good state and its step; None without one."""
    state, last = None, error.last_finite - 1
    while state is None and last >= self._first_step:
      state, last = self._replayed(last)
    return state, last

  def _saved(self, error, state, last):
    """Saves a state; returns what the user should know, as a clause."""
    self._checkpoints.discard_after(
      last, f'{error.reason} at step {error.step}'
    )
    self._save(state)
    self._checkpoints.wait()
    self._save_model(MODEL, state)
    path = self._folder.path(f'{MODEL}.npz')
    checkpoint_path = self._folder.path(os.path.join('checkpoints', str(last)))
    saved = (
      f'step {last + 1} had the last finite loss, and the state before it is '
      f'saved: checkpoint {checkpoint_path} and model {path}'
    )
    if error.in_evaluation or self._fails_again(state, last, error.step):
      self._write(error, last)
      return saved
    return (
      f'{saved}; the same updates gave finite losses when they were repeated, '
      'because this machine does not compute the same twice, and the same '
      'command continues from that checkpoint'
    )

  def _replayed(self, last):
    """Returns the state after the update `last`, and `last`.

    A machine that does not compute the same twice may fail earlier. Then it
    returns None and the number of the last good state by this replay.
    """
    with waiting.doing('reading the checkpoint'):
      state = self._checkpoints.restore_until(last, self._shapes)
    if state is None:
      state = self._start()
    first = int(state.step)
    if first < last:
      note(
        f'repeating the updates {first + 1} to {last}, which leads to the last '
        'good state'
      )
    try:
      return self._updated(state, first, last), last
    except loop.NotFiniteError as error:
      return None, error.last_finite - 1

  def _updated(self, state, first, last):
    """Returns a state after the updates first + 1 ... last."""
    batches = self._batches(first)
    with waiting.doing('repeating updates'):
      for number in range(first + 1, last + 1):
        waiting.now_doing(f'repeating update {number} of {first + 1} to {last}')
        state, metrics = self._step(state, next(batches))
        loop.check_finite(number, jax.device_get(metrics))
    return state

  def _fails_again(self, state, last, step):
    """Returns whether the updates from `last` to `step` fail again."""
    try:
      self._updated(state, last, step)
    except loop.NotFiniteError:
      return True
    return False

  def _write(self, error, last):
    self._folder.write_json(
      STOPPED,
      {'step': error.step, 'reason': error.reason, 'last_good_step': last},
    )


def refuse_repetition(folder: workdir.Workdir) -> None:
  """Refuses to repeat a run that stopped at a NaN and would do so again.

  Raises:
    InputError: the run stopped; one line names what to change.
  """
  stopped = folder.read_json(STOPPED)
  if not stopped:
    return
  last = stopped.get('last_good_step')
  again = 'train with a lower base_lr and a new workdir'
  if last is not None:
    again = (
      f'continue from its last good state, of step {last}, with a lower '
      f'base_lr: --config.base_lr=RATE --config.continue_from={folder.folder} '
      '--workdir=NEW'
    )
  raise InputError(
    f'the run in {folder.folder} stopped at step {stopped.get("step")} '
    f'({stopped.get("reason")}) and would stop there again; {again} (or delete '
    f'{folder.path(STOPPED)} to repeat it unchanged)'
  )
