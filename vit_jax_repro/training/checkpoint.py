"""Checkpoints of the training state, by Orbax, written in the background."""

import contextlib
import os
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

KEPT = 2  # checkpoints that stay; older ones are deleted


class Checkpoints:
  """The checkpoints of one run, in one folder.

  A checkpoint appears under its step only when it is complete; a process that
  is killed while writing leaves the ones before intact. All processes must
  call every method together.
  """

  def __init__(self, folder: str | os.PathLike):
    # By default every device writes a slice of what all of them have: on one
    # machine this is no faster, and each slice is a program to compile.
    ocp.type_handlers.register_type_handler(
      jax.Array,
      ocp.type_handlers.ArrayHandler(
        use_replica_parallel=jax.process_count() > 1,
      ),
      override=True,
    )
    self._manager = ocp.CheckpointManager(
      pathlib.Path(folder).absolute(),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=KEPT, cleanup_tmp_directories=True
      ),
    )

  def latest_step(self) -> int | None:
    """The number of updates in the newest checkpoint, None without one."""
    return self._manager.latest_step()

  def save(self, state: Any, meta: dict) -> None:
    """Starts writing `state` (its `step` names it) and JSON-able `meta`.

    Returns when the arrays are copied; the state may then be donated. A step
    that is already there is left as it is.

    Raises:
      OSError: this checkpoint or the one before could not be written.
    """
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
    )
    with self._writing():
      if not self._manager.save(step, args=items):
        raise OSError(f'Orbax declined to save step {step}')

  def restore(self, state: Any) -> tuple[Any, dict]:
    """Reads the newest checkpoint.

    Args:
      state: arrays or shapes with shardings, as the result shall have them.

    Returns:
      The state, and the `meta` that was saved with it.

    Raises:
      ValueError: it cannot be read as such a state.
    """
    step = self.latest_step()
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      state,
    )
    try:
      read = self._manager.restore(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(shapes), meta=ocp.args.JsonRestore()
        ),
      )
    except Exception as error:  # Orbax raises bare Exceptions on bad data
      raise ValueError(
        f'cannot restore {self._manager.directory / str(step)}: '
        f'{_short(error)}; move that folder away to continue from the '
        'checkpoint before'
      ) from error
    return read['state'], read['meta']

  def wait(self) -> None:
    """Returns when everything that was saved is on disk."""
    with self._writing():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and stops the threads."""
    with self._writing():
      self._manager.close()

  @contextlib.contextmanager
  def _writing(self):
    """Turns what the writing threads raise (a full disk) into an OSError."""
    try:
      yield
    except Exception as error:
      raise OSError(
        f'cannot write a checkpoint in {self._manager.directory}: '
        f'{_short(error)}; the earlier ones are as they were'
      ) from error


def _short(error):
  """The start of what Orbax or TensorStore says, on one line."""
  line = ' '.join(str(error).split())
  return line if len(line) <= 160 else f'{line[:157]}...'
