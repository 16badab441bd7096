"""Checkpoints of the training state, by Orbax, written in the background."""

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
    """
    step = int(state.step)
    if step not in self._manager.all_steps():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
        ),
      )

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
      reason = str(error).strip().partition('\n')[0]
      raise ValueError(
        f'cannot restore step {step} of {self._manager.directory}: {reason}; '
        'delete that folder to continue from the checkpoint before'
      ) from error
    return read['state'], read['meta']

  def wait(self) -> None:
    """Returns when everything that was saved is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and stops the threads."""
    self._manager.close()
