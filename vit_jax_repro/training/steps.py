"""The train step: gradients, accumulated over parts of a batch, and an update.

All functions are pure. Static arguments are keyword-only, to be bound where
the step is compiled.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from vit_jax_repro.errors import InputError
from vit_jax_repro.models import convolving
from vit_jax_repro.training import selection
from vit_jax_repro.training.dividing import divide_work
from vit_jax_repro.training.objectives import Objective

# Streams of a step's key.
_OBJECTIVE, _AUGMENT = 0, 1


class TrainState(struct.PyTreeNode):
  """Everything that changes during training, as a tree of arrays."""

  step: jax.Array  # int32, number of updates so far
  params: Any
  opt_state: Any
  rng: jax.Array  # a typed key, constant over the run


def create_state(
  params: Any,
  tx: optax.GradientTransformation,
  *,
  seed: int = 0,
  trained: frozenset[str] | None = None,
) -> TrainState:
  """Returns the state before the first update.

  Args:
    params: all parameters of the model.
    tx: the optimiser. Its state is that of the trained parameters.
    seed: of the run.
    trained: paths of the trained parameters, from `selection.select`; None for
      all.
  """
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=tx.init(selection.part(params, trained)),
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
  trained: frozenset[str] | None = None,
) -> tuple[TrainState, dict]:
  """Returns the state after one update, and the metrics of the batch.

  Args:
    state: may be donated.
    batch: leaves [B, ...]; image and label, see `objectives`.
    objective: (params, batch, key) -> (mean loss, metrics).
    tx: the optimiser that initialised `state.opt_state`.
    accum_steps: number of parts of the batch, whose gradients are computed one
      after the other to save memory. Loss and gradients are the means over the
      parts, as in vit_jax/utils.py. Unlike there, each part has its own
      dropout key.
    augment: (batch, key) -> batch, applied to the whole batch.
    mesh: a mesh from `mesh.create_mesh`. The batch is sharded over it, and the
      state as by `mesh.parameter_sharding`. None if all is on one device, of
      JAX's default backend.
    grad_reduce_dtype: narrowest dtype in which gradients are summed over
      devices; see `dividing.divide_work`. They are summed for each part.
    trained: paths of the parameters to train, as for `create_state`. The others
      keep their values and have no gradients.

  Returns:
    The new state, and float32 scalar metrics: `loss` (of this batch, before
    the update), `grad_norm` (of the trained parameters, before clipping) and
    the objective's metrics.

  Raises:
    InputError: `accum_steps` is below 1 or does not divide the batch.
  """
  if mesh is not None:
    objective = divide_work(
      objective, mesh, grad_reduce_dtype=grad_reduce_dtype
    )
  key = jax.random.fold_in(state.rng, state.step)
  if augment is not None:
    batch = augment(batch, jax.random.fold_in(key, _AUGMENT))

  def objective_of_part(learned, batch, key):
    return objective(selection.merged(state.params, learned), batch, key)

  learned = selection.part(state.params, trained)
  (loss, metrics), grads = _accumulate(
    jax.value_and_grad(objective_of_part, has_aux=True),
    learned,
    batch,
    jax.random.fold_in(key, _OBJECTIVE),
    accum_steps,
    jax.default_backend() if mesh is None else mesh.devices.flat[0].platform,
  )
  updates, opt_state = tx.update(grads, state.opt_state, learned)
  metrics = dict(metrics, loss=loss, grad_norm=optax.tree.norm(grads))
  state = state.replace(
    step=state.step + 1,
    params=selection.merged(
      state.params, optax.apply_updates(learned, updates)
    ),
    opt_state=opt_state,
  )
  return state, metrics


def _accumulate(function, params, batch, key, accum_steps, platform):
  """Returns the means of function(params, part, key) over parts of a batch."""
  batch_size = jax.tree.leaves(batch)[0].shape[0]
  if accum_steps < 1 or batch_size % accum_steps:
    raise InputError(
      f'{accum_steps=} must be at least 1 and divide the batch of {batch_size}'
    )
  if accum_steps == 1:
    return function(params, batch, key)
  # A part has every accum_steps-th row, not a block of rows, so that a batch
  # sharded in blocks of rows needs no transfer between devices.
  parts = jax.tree.map(
    lambda x: x.reshape(-1, accum_steps, *x.shape[1:]).swapaxes(0, 1), batch
  )

  def add(total, part):
    index, part = part
    result = function(params, part, jax.random.fold_in(key, index))
    return jax.tree.map(jnp.add, total, result), None

  first = jax.tree.map(lambda x: x[0], parts)
  is_on_cpu = platform == 'cpu'
  with convolving.in_loop_on_cpu() if is_on_cpu else contextlib.nullcontext():
    shapes = jax.eval_shape(function, params, first, key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, (jnp.arange(accum_steps), parts))
  return jax.tree.map(lambda x: x / accum_steps, total)
