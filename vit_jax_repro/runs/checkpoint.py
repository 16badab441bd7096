"""Checkpoints of the training state, by Orbax, written in the background.

Beside the state lies a description of every leaf with its checksum; what is
read is compared with it, so damage never goes unnoticed. docs/checkpoints.md
says what users see of this.
"""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from vit_jax_repro.errors import InputError
from vit_jax_repro.parallel import processes
from vit_jax_repro.runs import integrity, orbax_noise

DAMAGED = 'damaged'  # a folder beside that of the checkpoints
_LONGEST = 160  # characters of what is wrong with a checkpoint


class Checkpoints:
  """The checkpoints of one run, in one folder.

  A checkpoint appears under its step only when it is complete; a process that
  is killed while writing leaves the ones before intact. All processes must
  call every method together.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    *,
    keep: int = 2,
    keep_best: bool = False,
    note: Callable[[str], None] = lambda line: None,
  ):
    """Makes the folder if it is not there.

    Args:
      folder: checkpoints are folders in it, named by their step.
      keep: how many stay, the newest; older ones are deleted.
      keep_best: whether the one of the highest score stays, too; the later
        one of two that are as good.
      note: told in one line of damage, and of what could not be checked.
    """
    # By default every device writes a slice of what all of them have: on one
    # machine this is no faster, and each slice is a program to compile.
    ocp.type_handlers.register_type_handler(
      jax.Array,
      ocp.type_handlers.ArrayHandler(
        use_replica_parallel=jax.process_count() > 1,
      ),
      override=True,
    )
    self._folder = pathlib.Path(folder).absolute()
    self._note = note
    self._scores = {}
    policies = [ocp.checkpoint_managers.LatestN(keep)]
    if keep_best:
      policies.append(_Best(self._scores))
    orbax_noise.silence()
    self._manager = _Manager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(
          policies
        ),
        cleanup_tmp_directories=True,
      ),
    )
    for step in self._manager.all_steps():
      with contextlib.suppress(Exception):  # damaged: no score
        self._remember(
          step, integrity.read_description(self._folder / str(step))
        )

  def latest_step(self) -> int | None:
    """The number of updates in the newest checkpoint, None without one."""
    return self._manager.latest_step()

  def save(self, state: Any, meta: dict, score: float | None = None) -> None:
    """Starts writing `state` (its `step` names it) and JSON-able `meta`.

    Returns when the arrays are copied; the state may then be donated. A step
    that is already there is left as it is.

    Args:
      score: how good the state is, the more the better; None: not known.

    Raises:
      OSError: this checkpoint or the one before could not be written.
    """
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    description = integrity.describe(state, meta, score)
    self._remember(step, description)
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(description)
    )
    with self._writing():
      if not self._manager.save(step, args=items):
        raise OSError(f'Orbax declined to save step {step}')

  def restore(self, state: Any) -> tuple[Any, dict]:
    """Reads the newest checkpoint that is as it was saved.

    A damaged one is named, the one before is read, and then the damaged one
    is moved to DAMAGED, out of the way of a later save of its step.

    Args:
      state: arrays or shapes with shardings, as the result shall have them.

    Returns:
      The state, and the `meta` that was saved with it.

    Raises:
      InputError: every checkpoint is damaged, or one holds another kind of
        state. Nothing is moved then.
      OSError: a damaged one cannot be moved.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    state, description = self._first_whole(steps, state)
    return state, description['meta']

  def best_score(self) -> float:
    """The highest score of a checkpoint; -inf where none has one."""
    steps = self._manager.all_steps()
    return max((self._scores.get(x, -np.inf) for x in steps), default=-np.inf)

  def restore_best(self, state: Any) -> tuple[Any, float]:
    """Reads the checkpoint of the highest score, with its score.

    Damaged ones are treated as by `restore`; arguments and errors are the
    same, and there must be a checkpoint with a score.
    """
    steps = set(self._scores) & set(self._manager.all_steps())
    order = sorted(steps, key=_Best(self._scores).rank, reverse=True)
    state, description = self._first_whole(order, state)
    return state, description['score']

  def wait(self) -> None:
    """Returns when everything that was saved is on disk."""
    with self._writing():
      self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and stops the threads."""
    with self._writing():
      self._manager.close()

  def _first_whole(self, steps: Iterable[int], state):
    """The state and description of the first that is as it was saved."""
    self.wait()
    faults = {}
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      state,
    )
    for step in steps:
      try:
        read = self._read(step, shapes)
      except integrity.DamagedError as fault:
        faults[step] = str(fault)
        continue
      self._move_aside(faults, step)
      return read
    found = '; '.join(f'step {step}: {why}' for step, why in faults.items())
    raise InputError(
      f'no checkpoint in {self._folder} can be used ({found}); '
      'put back a copy of one, or move that folder away to begin anew'
    )

  def _read(self, step, shapes):
    """The state and description of a step.

    Each process reads by itself: the barriers in the manager's own reading
    would keep the others waiting for one that fails.
    """
    folder = self._folder / str(step)
    read = description = fault = None
    try:
      description = integrity.read_description(folder)
      integrity.require_kind(description, shapes, folder)
      read = ocp.StandardCheckpointHandler().restore(
        folder / 'state', args=ocp.args.StandardRestore(shapes)
      )
    except (integrity.OtherStateError, jax.errors.JaxRuntimeError):
      raise  # no fault of the checkpoint, such as too little memory
    except Exception as error:  # Orbax raises bare Exceptions on bad data
      fault = _fault(error, folder, shapes)
    fault = processes.first_text(fault)
    if fault:
      raise integrity.DamagedError(fault)
    read = jax.tree.map(_with_keys, read, shapes)
    integrity.require_same(description, read)
    if description['leaves'] is None:
      self._note(f'{folder} is from before there were checksums: not checked')
    return read, description

  def _move_aside(self, faults, used):
    """Names damaged checkpoints, and gets them out of the way."""
    if not faults:
      return
    folder = self._folder.parent / DAMAGED
    if folder.exists() and not folder.is_dir():
      raise OSError(
        f'{folder} is no folder, and a damaged checkpoint has to be moved '
        'there; move that file away'
      )
    targets = {step: _free(folder / str(step)) for step in faults}
    for step, target in targets.items():
      self._scores.pop(step, None)
      self._note(
        f'checkpoint {self._folder / str(step)} is damaged ({faults[step]}); '
        f'using that of step {used} and moving it to {target}'
      )
    processes.wait_for_all('all have looked at what is damaged')
    if jax.process_index() == 0:
      folder.mkdir(exist_ok=True)
      for step, target in targets.items():
        (self._folder / str(step)).rename(target)
    processes.wait_for_all('what is damaged is away')
    self._manager.reload()

  def _remember(self, step, description):
    if description['score'] is not None:
      self._scores[step] = description['score']

  @contextlib.contextmanager
  def _writing(self):
    """Turns what the writing threads raise (a full disk) into an OSError."""
    try:
      yield
    except Exception as error:
      raise OSError(
        f'cannot write a checkpoint in {self._manager.directory}: '
        f'{_short(error, self._folder)}; the earlier ones are as they were'
      ) from error


class _Manager(ocp.CheckpointManager):
  def reached_preemption(self, step):
    """Never: who asks moves JAX's count of steps, which the loop keeps."""
    del step
    return False


class _Best(ocp.checkpoint_managers.PreservationPolicy):
  """The checkpoint of the highest score stays."""

  def __init__(self, scores):
    self._scores = scores  # {step: score}, seen as it changes

  def rank(self, step):
    return self._scores.get(step, -np.inf), step

  def should_preserve(self, checkpoints, *, context):
    del context
    scored = [x.step for x in checkpoints if x.step in self._scores]
    best = max(scored, key=self.rank, default=None)
    return [x.step == best for x in checkpoints]


def _with_keys(leaf, shape):
  """Typed keys, which Orbax writes and reads as what they consist of."""
  if jax.dtypes.issubdtype(shape.dtype, jax.dtypes.prng_key):
    return jax.random.wrap_key_data(leaf)
  return leaf


def _free(path):
  """A path that nothing lies at: 'damaged/6', else 'damaged/6.1', ..."""
  found, number = path, 0
  while found.exists():
    number += 1
    found = path.with_name(f'{path.name}.{number}')
  return found


def _fault(error, folder, shapes):
  """What is wrong with a checkpoint, the leaf first if the error tells it."""
  text = str(error).replace(str(folder), '')
  told = [x for x in integrity.leaf_kinds(shapes) if _stored(x) in text]
  if told:
    return f'{max(told, key=len)} cannot be read'
  return _short(error, folder)


def _stored(path):
  """The name of a leaf in Orbax's files."""
  return f'{path.replace("/", ".")}/'


def _short(error, folder):
  """The start of what Orbax or TensorStore says, on one line."""
  line = ' '.join(str(error).replace(f'{folder}/', '').split())
  line = line or type(error).__name__
  return line if len(line) <= _LONGEST else f'{line[: _LONGEST - 3]}...'
