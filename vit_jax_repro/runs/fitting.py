"""Which settings make an update fit into the memory of a device."""

from typing import Any

# Part of the activations that recomputing leaves: the inputs of the blocks,
# and all of one block at a time. Measured for ViT-B/16 0.11, for L/16 0.07 (see
# docs/performance.md); a proposal has to fit, so these are on the safe side.
_INPUTS = 0.08
_UNITS_LEFT = 0.5  # of a ResNet, whose first units are the largest
_SPARE = 0.9  # of the limit, that an estimate may take


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
) -> dict[str, Any] | None:
  """Estimates the smallest change of settings with which an update fits.

  Args:
    needed: bytes that the update takes as it is; None: nobody knows.
    limit: bytes that it may take.
    model: of the run.
    arguments: bytes of the state and a batch on one device.
    gradients: bytes of all gradients on one device.
    rows: images of an update on one device.
    accum_steps: parts that these are computed in.
    fresh: whether their number may change.

  Returns:
    Changes by key of the configuration, or None where no such change helps.
  """
  can_recompute = hasattr(model, 'remat') and not model.remat
  changes = {'model.remat': True} if can_recompute else {}
  if needed is None:
    return _without_figures(changes, rows, accum_steps, fresh)
  fixed = arguments + gradients
  activations = max(0, needed - fixed)
  if can_recompute:
    left = _INPUTS + 1 / getattr(model, 'num_layers', 2)
    if not hasattr(model, 'num_layers'):
      left = _UNITS_LEFT
    activations *= left
    if fixed + activations <= _SPARE * limit:
      return changes
  if not fresh:
    # The estimate is careful: recomputing is worth its one compilation.
    return changes or None
  for parts in _divisors(rows, accum_steps):
    # Sums of gradients lie beside the gradients of one part.
    part = activations * accum_steps / parts + gradients
    if fixed + part <= _SPARE * limit:
      return changes | {'accum_steps': parts}
  return None


def _without_figures(changes, rows, accum_steps, fresh):
  """Proposes the least memory, as nothing says how much is too much."""
  parts = _divisors(rows, accum_steps)
  if fresh and parts:
    return changes | {'accum_steps': parts[-1]}
  return changes or None


def _divisors(rows, accum_steps):
  """Lists the larger numbers of parts that a batch can be computed in."""
  return [
    n
    for n in range(accum_steps + 1, rows + 1)
    if rows % n == 0 and n % accum_steps == 0
  ]
