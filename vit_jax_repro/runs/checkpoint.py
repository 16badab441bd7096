"""Checkpoints of the training state, by Orbax, written in the background.

Each checkpoint also has a description of every leaf with its checksum. A
restored state is compared with it, so damage never goes unnoticed.
docs/checkpoints.md describes the checkpoints from a user's view.
"""

import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import orbax_errors
from vit_jax_repro.parallel import processes
from vit_jax_repro.weights import integrity

DAMAGED = 'damaged'  # a folder next to the folder of the checkpoints
_LONGEST = 160  # characters of a description of damage
_POLL_SECONDS = 0.01  # between two looks whether a save has ended


@dataclasses.dataclass(frozen=True)
class Storage:
  """What differs between a folder on this machine and one in a bucket.

  Attributes:
    call: calls a function of Orbax that may wait for the storage.
    move: moves a folder to a path that does not exist.
  """

  call: Callable[[Callable[[], Any]], Any] = lambda function: function()
  move: Callable[[Any, Any], Any] = lambda source, target: source.rename(target)


class Checkpoints:
  """The checkpoints of one run, in one folder.

  A checkpoint gets its final name only when it is complete, so a process that
  is killed while it writes leaves the older ones intact. All processes must
  call every method together.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    *,
    keep: int = 2,
    keep_best: bool = False,
    note: Callable[[str], None] = lambda line: None,
    storage: Storage | None = None,
  ):
    """Creates the folder if it does not exist.

    Args:
      folder: folder of the checkpoints; each is a folder named by its step. In
        a bucket it is an epath.Path.
      keep: number of newest checkpoints that are kept; older ones are deleted.
      keep_best: whether the checkpoint with the highest score is kept, too. Of
        two with the same score it is the later one.
      note: called with one line on damage, or on a checkpoint that cannot be
        checked.
      storage: how a folder in a bucket is written.
    """
    orbax_errors.silence_orbax()
    # By default each device writes a slice of a replicated array. This is no
    # faster on one machine, and each slice is a program to compile.
    ocp.type_handlers.register_type_handler(
      jax.Array,
      ocp.type_handlers.ArrayHandler(
        use_replica_parallel=jax.process_count() > 1,
      ),
      override=True,
    )
    self._storage = storage or Storage()
    if storage is None:
      folder = pathlib.Path(folder).absolute()
    self._folder: Any = folder
    self._abandoned = False
    self._note = note
    self._scores = {}  # {step: score}
    policies = [ocp.checkpoint_managers.LatestN(keep)]
    if keep_best:
      policies.append(_Best(self._scores))
    options = ocp.CheckpointManagerOptions(
      preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(
        policies
      ),
      cleanup_tmp_directories=True,
    )
    self._manager = self._storage.call(
      lambda: _Manager(self._folder, options=options)
    )
    for step in self._manager.all_steps():
      with contextlib.suppress(Exception):  # damaged: no score
        self._remember(
          step, integrity.read_description(self._folder / str(step))
        )

  def latest_step(self) -> int | None:
    """Returns the step of the newest checkpoint; None if there is none."""
    return self._manager.latest_step()

  def save(self, state: Any, meta: dict, score: float | None = None) -> None:
    """Starts to write a checkpoint, named by the state's step.

    The method returns when the arrays are copied; then the state may be
    donated. An existing checkpoint of the same step is not changed.

    Args:
      state: the training state.
      meta: JSON-able values to save with it.
      score: quality of the state, higher is better; None if unknown.

    Raises:
      OSError: this checkpoint or the previous one could not be written.
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
      if not self._call(lambda: self._manager.save(step, args=items)):
        raise OSError(f'Orbax declined to save step {step}')

  def restore(self, state: Any) -> tuple[Any, dict]:
    """Restores the newest undamaged checkpoint.

    If a checkpoint is damaged, a note names it, and the previous one is
    restored. Then the damaged one is moved to the folder DAMAGED, so that its
    step can be saved again.

    Args:
      state: arrays or shapes with the shardings for the result.

    Returns:
      The state, and the `meta` that was saved with it.

    Raises:
      InputError: every checkpoint is damaged, or one holds another kind of
        state; no checkpoint is moved.
      OSError: a damaged checkpoint cannot be moved.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    state, description = self._first_whole(steps, state)
    return state, description['meta']

  def restore_until(self, step: int, state: Any) -> Any | None:
    """Restores the newest undamaged checkpoint of at most a step.

    Damaged ones are treated as by `restore`, and the errors are the same.

    Args:
      step: the last step that counts.
      state: see `restore`.

    Returns:
      The state; None if there is no such checkpoint.
    """
    steps = [x for x in self._manager.all_steps() if x <= step]
    if not steps:
      return None
    return self._first_whole(sorted(steps, reverse=True), state)[0]

  def discard_after(self, step: int, why: str) -> None:
    """Moves the checkpoints after a step to the folder DAMAGED.

    Args:
      step: the last step that stays.
      why: the reason, for the notes.
    """
    self.wait()
    later = sorted(x for x in self._manager.all_steps() if x > step)
    self._move_aside(dict.fromkeys(later, f'is of no use ({why})'), step)

  def best_score(self) -> float:
    """Returns the highest score of a checkpoint; -inf if none has a score."""
    steps = self._manager.all_steps()
    return max((self._scores.get(x, -np.inf) for x in steps), default=-np.inf)

  def restore_best(self, state: Any) -> tuple[Any, float]:
    """Restores the checkpoint with the highest score.

    There must be a checkpoint with a score. Damaged ones are treated as by
    `restore`, and the argument and the errors are the same.

    Returns:
      The state and its score.
    """
    steps = set(self._scores) & set(self._manager.all_steps())
    order = sorted(steps, key=_Best(self._scores).rank, reverse=True)
    state, description = self._first_whole(order, state)
    return state, description['score']

  def wait(self) -> None:
    """Waits until every saved checkpoint is on disk."""
    with self._writing():
      self._call(self._manager.wait_until_finished)

  def close(self) -> None:
    """Waits like `wait`, and stops Orbax's threads."""
    if self._abandoned:
      return
    with self._writing():
      self._call(self._manager.close)

  def _call(self, function):
    """Calls a function of the manager, unless the manager is given up.

    It is given up if its storage gives no answer, or if this process could not
    write its part of a checkpoint. In the second case Orbax raises nothing for
    20 minutes: each of several processes waits for the others.
    """

    def after_save():
      while not processes.is_alone() and self._manager.is_saving_in_progress():
        if self._manager.failure is not None:
          self._abandoned = True
          raise self._manager.failure
        time.sleep(_POLL_SECONDS)
      return function()

    try:
      return self._storage.call(after_save)
    except TimeoutError:
      self._abandoned = True
      raise

  def _first_whole(self, steps: Iterable[int], state):
    """Returns the state and description of the first undamaged checkpoint."""
    self.wait()
    faults = {}
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
      state,
    )
    for step in steps:
      try:
        # Without the manager, whose barriers would make the other processes
        # wait for one that fails.
        read = read_state(self._folder / str(step), shapes, self._note)
      except integrity.DamagedError as fault:
        faults[step] = str(fault)
        continue
      damaged = {x: f'is damaged ({why})' for x, why in faults.items()}
      self._move_aside(damaged, step)
      return read
    found = '; '.join(f'step {step}: {why}' for step, why in faults.items())
    raise InputError(
      f'no checkpoint in {self._folder} can be used ({found}); '
      'put back a copy of one, or move that folder away to start from scratch'
    )

  def _move_aside(self, faults, used):
    """Reports unusable checkpoints and moves them out of the way.

    faults: {step: reason, after the name of the checkpoint in the note}.
    used: step of the checkpoint that is used in their place.
    """
    if not faults:
      return
    folder = self._folder.parent / DAMAGED
    if folder.exists() and not folder.is_dir():
      raise OSError(
        f'{folder} is no folder, and an unusable checkpoint must be moved '
        'there; move that file away'
      )
    targets = {step: _free(folder / str(step)) for step in faults}
    for step, target in targets.items():
      self._scores.pop(step, None)
      self._note(
        f'checkpoint {self._folder / str(step)} {faults[step]}; '
        f'using that of step {used} and moving it to {target}'
      )
    processes.wait_for_all('all have looked at what is damaged')
    if jax.process_index() == 0:
      folder.mkdir(exist_ok=True)
      for step, target in targets.items():
        self._storage.move(self._folder / str(step), target)
    processes.wait_for_all('what is damaged is away')
    self._manager.reload()

  def _remember(self, step, description):
    if description['score'] is not None:
      self._scores[step] = description['score']

  @contextlib.contextmanager
  def _writing(self):
    """Turns errors of the writing threads, as on a full disk, into OSErrors."""
    try:
      yield
    except TimeoutError:
      raise  # it names the storage that does not answer
    except Exception as error:
      raise OSError(
        f'cannot write a checkpoint in {self._manager.directory}: '
        f'{_short(error, self._folder)}; the earlier ones are as they were'
      ) from error


def read_state(
  folder: pathlib.Path, shapes: Any, note: Callable[[str], None]
) -> tuple[Any, dict]:
  """Returns the state of one checkpoint and its description, compared.

  Nothing is written. All processes must call this together.

  Args:
    folder: folder of the checkpoint.
    shapes: shapes with the shardings for the result.
    note: called with one line if the checkpoint has no checksums.

  Raises:
    integrity.DamagedError: the checkpoint is damaged.
    integrity.OtherStateError: it holds another kind of state.
  """
  read = description = fault = None
  try:
    description = integrity.read_description(folder)
    integrity.require_kind(description, shapes, folder)
    read = ocp.StandardCheckpointHandler().restore(
      folder / 'state', args=ocp.args.StandardRestore(shapes)
    )
  except (integrity.OtherStateError, jax.errors.JaxRuntimeError):
    raise  # the checkpoint is not damaged; memory may be too small
  except Exception as error:  # Orbax raises bare Exceptions on bad data
    fault = _fault(error, folder, shapes)
  fault = processes.first_text(fault)
  if fault:
    raise integrity.DamagedError(fault)
  assert description is not None
  read = jax.tree.map(_with_keys, read, shapes)
  integrity.require_same(description, read)
  if description['leaves'] is None:
    note(f'{folder} is old and has no checksums: it is not checked')
  return read, description


class _Manager(ocp.CheckpointManager):
  """A manager that leaves JAX's counter of sync points to the loop.

  Attributes:
    failure: the error of writing this process's part of the last checkpoint.
  """

  failure: BaseException | None = None

  def _wait_for_checkpointers(self):
    # Orbax calls this in the thread that ends a save, and then waits there for
    # the other processes before anything is raised.
    try:
      super()._wait_for_checkpointers()
    except BaseException as error:
      self.failure = error
      raise

  def reached_preemption(self, step):
    """Returns False, because JAX's check would advance the counter."""
    del step
    return False


class _Best(ocp.checkpoint_managers.PreservationPolicy):
  """A policy that preserves the checkpoint with the highest score."""

  def __init__(self, scores):
    self._scores = scores  # {step: score}, shared with `Checkpoints`

  def rank(self, step):
    return self._scores.get(step, -np.inf), step

  def should_preserve(self, checkpoints, *, context):
    del context
    scored = [x.step for x in checkpoints if x.step in self._scores]
    best = max(scored, key=self.rank, default=None)
    return [x.step == best for x in checkpoints]


def _with_keys(leaf, shape):
  """Returns a typed key from the integers that Orbax stores for it."""
  if jax.dtypes.issubdtype(shape.dtype, jax.dtypes.prng_key):
    return jax.random.wrap_key_data(leaf)
  return leaf


def _free(path):
  """Returns an unused path: 'damaged/6', 'damaged/6.1', ..."""
  found, number = path, 0
  while found.exists():
    number += 1
    found = path.with_name(f'{path.name}.{number}')
  return found


def _fault(error, folder, shapes):
  """Returns a description of damage that names the leaf if it is known."""
  text = str(error).replace(str(folder), '')
  leaves = [x for x in integrity.leaf_kinds(shapes) if _stored(x) in text]
  if leaves:
    return f'{max(leaves, key=len)} cannot be read'
  return _short(error, folder)


def _stored(path):
  """Returns the name of a leaf in Orbax's files."""
  return f'{path.replace("/", ".")}/'


def _short(error, folder):
  """Returns the start of an error of Orbax or TensorStore, on one line."""
  line = ' '.join(str(error).replace(f'{folder}/', '').split())
  line = line or type(error).__name__
  return line if len(line) <= _LONGEST else f'{line[: _LONGEST - 3]}...'
