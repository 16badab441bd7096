"""Estimates of an update's memory, and settings that make it fit.

The estimates come from shapes and take less than a second. The compiler's
figures come from `analysis.memory`.
"""

from collections.abc import Callable
from typing import Any

import jax

from vit_jax_repro.parallel import mesh
from vit_jax_repro.training import selection

# Part of the activations that stays in memory with recomputing: the inputs of
# all blocks, and everything of one block at a time. Measured 0.11 for ViT-B/16
# and 0.07 for L/16 (see docs/performance.md). These constants estimate too much
# rather than too little, because a proposal has to fit.
_INPUTS = 0.08
_UNITS_LEFT = 0.5  # the same part for a ResNet, whose first units are largest
# Parts of the limit that an estimate may use: of activations divided into more
# parts, and of recomputed ones, where small models keep more than estimated.
_SPARE, _SPARE_RECOMPUTED = 0.9, 0.6
# XLA keeps at least this part of what the backward pass reads, because it
# fuses some layers. Measured on a CPU: 0.65 for Mixer-B/16, 0.73 for BiT
# R50x1, 0.85 for ViT-B/16, 1.0 for the hybrid R+Ti/16.
LEAST_KEPT = 0.6


def saved_activations(
  objective: Callable[[Any], Callable[..., Any]],
  params: Any,
  batch: Any,
  teacher: Any = None,
  trained: frozenset[str] | None = None,
) -> int:
  """Returns the bytes of activations that the backward pass reads.

  Nothing is compiled or computed. XLA keeps `LEAST_KEPT` of them or more.

  Args:
    objective: teacher -> (params, batch, key) -> (loss, metrics).
    params: shapes of the parameters.
    batch: shapes of a batch, or of the part of it that is computed at once.
    teacher: shapes of a teacher's parameters; None without one.
    trained: paths of the trained parameters; None for all.
  """

  def backward(params, batch, key, teacher):
    def loss(learned):
      whole = selection.merged(params, learned)
      return objective(teacher)(whole, batch, key)[0]

    return jax.vjp(loss, selection.part(params, trained))[1]

  key = jax.eval_shape(lambda: jax.random.key(0))
  saved = mesh.bytes_of(jax.eval_shape(backward, params, batch, key, teacher))
  # The backward pass reads the parameters, too; all of them if all are trained.
  return max(0, saved - mesh.bytes_of(params))


def proposal(
  needed: int | None,
  limit: int,
  *,
  model: Any,
  arguments: int,
  gradients: int,
  rows: int,
  accum_steps: int,
  fresh: bool,
  platform: str = '',
) -> dict[str, Any] | None:
  """Estimates the smallest change of settings with which an update fits.

  Args:
    needed: bytes that the update takes with its present settings; None if
      unknown.
    limit: bytes that it may take.
    model: the model of the run.
    arguments: bytes of the state and a batch on one device.
    gradients: bytes of all gradients on one device.
    rows: images of an update on one device.
    accum_steps: number of parts in which these images are computed.
    fresh: whether that number may change.
    platform: 'cpu', 'gpu' or 'tpu'. A CPU's compiler merges what is recomputed
      with what it repeats, except in the loop of a scanned model.

  Returns:
    {key of the configuration: new value}, {} if the update fits as it is, or
    None if no such change helps.
  """
  can_recompute = hasattr(model, 'remat') and not model.remat
  if platform == 'cpu' and not getattr(model, 'scan', False):
    can_recompute = False
  changes = {'model.remat': True} if can_recompute else {}
  if needed is None:
    return _without_figures(changes, rows, accum_steps, fresh)
  fixed = arguments + gradients
  activations, most = max(0, needed - fixed), _SPARE * limit
  if fixed + activations <= most:
    return {}
  if can_recompute:
    most = _SPARE_RECOMPUTED * limit
    left = _INPUTS + 1 / getattr(model, 'num_layers', 2)
    if not hasattr(model, 'num_layers'):
      left = _UNITS_LEFT
    activations *= left
    if fixed + activations <= most:
      return changes
  if not fresh:
    # The estimate is high, so recomputing may fit: it is worth a compilation.
    return changes or None
  for parts in _divisors(rows, accum_steps):
    # Memory holds the sum of the gradients and those of one part.
    part = activations * accum_steps / parts + gradients
    if fixed + part <= most:
      return changes | {'accum_steps': parts}
  return None


def _without_figures(changes, rows, accum_steps, fresh):
  """Proposes the settings of least memory, because the excess is unknown."""
  parts = _divisors(rows, accum_steps)
  if fresh and parts:
    return changes | {'accum_steps': parts[-1]}
  return changes or None


def _divisors(rows, accum_steps):
  """Lists the larger numbers of parts into which a batch can be divided."""
  return [
    n
    for n in range(accum_steps + 1, rows + 1)
    if rows % n == 0 and n % accum_steps == 0
  ]
