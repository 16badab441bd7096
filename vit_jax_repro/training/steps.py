"""One update: gradients, accumulated over parts of a batch, and the optimiser.

Pure functions; static arguments are keyword-only and bound where the step is
compiled.
"""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from vit_jax_repro.errors import InputError
from vit_jax_repro.training.dividing import divide_work
from vit_jax_repro.training.objectives import Objective

# Streams of a step's key.
_OBJECTIVE, _AUGMENT = 0, 1


@flax.struct.dataclass
class TrainState:
  """All that changes in training; a tree of arrays."""

  step: jax.Array  # int32, updates made
  params: Any
  opt_state: Any
  rng: jax.Array  # a typed key, the same all along


def create_state(
  params: Any, tx: optax.GradientTransformation, *, seed: int = 0
) -> TrainState:
  """The state before the first update."""
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=tx.init(params),
    rng=jax.random.key(seed),
  )


def train_step(
  state: TrainState,
  batch: dict,
  *,
  objective: Objective,
  tx: optax.GradientTransformation,
  accum_steps: int = 1,
  augment: Callable[[dict, jax.Array], dict] | None = None,
  mesh: jax.sharding.Mesh | None = None,
  grad_reduce_dtype: str = 'float32',
) -> tuple[TrainState, dict]:
  """Makes one update.

  Args:
    state: may be donated.
    batch: leaves [B, ...]; image and label, see `objectives`.
    objective: (params, batch, key) -> (mean loss, metrics).
    tx: the optimiser that made `state.opt_state`.
    accum_steps: parts of the batch that gradients are computed for one after
      the other, to save memory; loss and gradients are their means, as in
      vit_jax/utils.py (whose one dropout key for all parts is not copied).
    augment: (batch, key) -> batch, on the whole batch.
    mesh: of `mesh.create_mesh`, over which the batch is divided and the state
      lies as `mesh.parameter_sharding` says; None: all is on one device.
    grad_reduce_dtype: what gradients are summed over devices in, at least; see
      `dividing.divide_work`. They are summed for each of `accum_steps`.

  Returns:
    The new state, and metrics: float32 scalars `loss` (of this batch before
    the update), `grad_norm` (before clipping), and those of the objective.

  Raises:
    InputError: accum_steps does not divide the batch.
  """
  if mesh is not None:
    objective = divide_work(
      objective, mesh, grad_reduce_dtype=grad_reduce_dtype
    )
  key = jax.random.fold_in(state.rng, state.step)
  if augment is not None:
    batch = augment(batch, jax.random.fold_in(key, _AUGMENT))
  (loss, metrics), grads = _accumulate(
    jax.value_and_grad(objective, has_aux=True),
    state.params,
    batch,
    jax.random.fold_in(key, _OBJECTIVE),
    accum_steps,
  )
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  metrics = dict(metrics, loss=loss, grad_norm=optax.tree.norm(grads))
  state = state.replace(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    opt_state=opt_state,
  )
  return state, metrics


def _accumulate(function, params, batch, key, accum_steps):
  """Means of function(params, part, key) over the parts of a batch."""
  batch_size = jax.tree.leaves(batch)[0].shape[0]
  if accum_steps < 1 or batch_size % accum_steps:
    raise InputError(
      f'{accum_steps=} must be at least 1 and divide the batch of {batch_size}'
    )
  if accum_steps == 1:
    return function(params, batch, key)
  # Every accum_steps-th row, not a block of rows: a batch that is divided
  # over devices in blocks then stays where it is.
  parts = jax.tree.map(
    lambda x: x.reshape(-1, accum_steps, *x.shape[1:]).swapaxes(0, 1), batch
  )

  def add(total, part):
    index, part = part
    result = function(params, part, jax.random.fold_in(key, index))
    return jax.tree.map(jnp.add, total, result), None

  first = jax.tree.map(lambda x: x[0], parts)
  shapes = jax.eval_shape(function, params, first, key)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  total, _ = jax.lax.scan(add, zeros, (jnp.arange(accum_steps), parts))
  return jax.tree.map(lambda x: x / accum_steps, total)
