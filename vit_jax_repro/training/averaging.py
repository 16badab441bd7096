"""Polyak averaging: parameters averaged over the updates of a run.

The ViT paper evaluates averages of factor 0.9999 in the ImageNet columns of
its Table 2 (appendix B.1.1; Polyak & Juditsky, 1992).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from vit_jax_repro.errors import InputError


class Averaging(NamedTuple):
  """State of an optimiser that also averages."""

  inner: Any  # of the optimiser itself
  average: Any  # like the parameters, float32 or wider


def averaged(
  tx: optax.GradientTransformation, decay: float
) -> optax.GradientTransformation:
  """The same optimiser, which keeps an average beside; updates stay.

  After each update, average += (1 - decay) * (parameters - average); with
  decay * average + (1 - decay) * parameters, whose factors are rounded and do
  not add up to 1, what stays constant would shrink, by 2e-4 for 0.9999.

  The paper gives the factor alone. The average starts at the initial
  parameters and is not corrected for that, like TensorFlow's
  `ExponentialMovingAverage` without `num_updates`: after n updates they still
  have the share decay ** n, 14 % for 0.9999 and 20,000 updates. It is kept in
  float32 at least, as 1 - 0.9999 of a bfloat16 number would be lost.

  Args:
    tx: the optimiser; it must be given the parameters with each update.
    decay: the factor, above 0 and below 1.

  Raises:
    InputError: a factor that cannot be.
  """
  if not 0 < decay < 1:
    raise InputError(f'{decay=} must lie between 0 and 1, both excluded')

  def init(params):
    def copy(leaf):  # never the same buffer: both are donated
      return jnp.array(leaf, jnp.promote_types(leaf.dtype, jnp.float32))

    return Averaging(tx.init(params), jax.tree.map(copy, params))

  def update(updates, state, params):
    updates, inner = tx.update(updates, state.inner, params)

    def nearer(average, new):
      return average + (1 - decay) * (new.astype(average.dtype) - average)

    params = optax.apply_updates(params, updates)
    average = jax.tree.map(nearer, state.average, params)
    return updates, Averaging(inner, average)

  return optax.GradientTransformation(init, update)


def evaluated(state: Any) -> Any:
  """The parameters of a `TrainState` that are evaluated and published.

  Returns:
    The average where the optimiser keeps one, else the parameters.
  """
  if isinstance(state.opt_state, Averaging):
    return state.opt_state.average
  return state.params
