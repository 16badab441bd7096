"""The optimiser and the learning-rate schedule of a run."""

import flax.linen as nn
import optax

from vit_jax_repro import recipes
from vit_jax_repro.errors import InputError
from vit_jax_repro.output.messages import note
from vit_jax_repro.runs.settings import Settings
from vit_jax_repro.training import averaging, layer_decay, optim


def total_steps(settings: Settings, num_examples: int) -> int:
  """Returns the number of updates, by the BiT-HyperRule if none is set.

  Args:
    settings: the settings of the run.
    num_examples: number of examples in the training split.
  """
  if settings.total_steps is not None:
    return settings.total_steps
  return recipes.bit_schedule(num_examples)[2]


def create_schedule(
  settings: Settings, num_examples: int
) -> tuple[int, optim.Schedule]:
  """Returns (total steps, schedule), by the BiT-HyperRule if requested.

  Args:
    settings: the settings of the run.
    num_examples: number of examples in the training split.

  Raises:
    InputError: the settings contradict each other, see `optim.create_schedule`.
  """
  total = total_steps(settings, num_examples)
  warmup = settings.warmup_steps
  decay, boundaries = settings.decay_type, settings.decay_steps or None
  if decay == 'bit_hyperrule':
    rule_warmup, boundaries, _ = recipes.bit_schedule(num_examples)
    decay = 'steps'
    warmup = rule_warmup if warmup is None else warmup
    _check_rule(total, warmup, boundaries)
  assert warmup is not None  # `settings_checks` refuses it without the rule
  schedule = optim.create_schedule(
    base_lr=settings.base_lr,
    total_steps=total,
    warmup_steps=warmup,
    decay_type=decay,
    boundaries=boundaries,
  )
  return total, schedule


def _check_rule(total, warmup, boundaries):
  """Compares total_steps with the other steps of the BiT-HyperRule."""
  if warmup >= total:
    raise InputError(
      f"config.total_steps={total} must be above the BiT-HyperRule's warm-up "
      f'of {warmup} steps; set --config.warmup_steps={total // 10}, a tenth of '
      'the steps, or more steps'
    )
  beyond = [step for step in boundaries if step >= total]
  if beyond:
    note(
      f'config.total_steps={total}: {len(beyond)} of {len(boundaries)} drops '
      f'of the learning rate by the BiT-HyperRule, after steps '
      f'{", ".join(map(str, beyond))}, are never reached'
    )


def create_optimizer(
  settings: Settings,
  schedule: optim.Schedule,
  total_steps: int,
  model: nn.Module,
) -> optax.GradientTransformation:
  """Returns the optimiser; it averages parameters if `polyak_decay` is set.

  Args:
    settings: the settings of the run.
    schedule: step -> learning rate.
    total_steps: number of updates.
    model: the model, whose layers have rates of their own with `layer_decay`.

  Raises:
    InputError: an option belongs to another optimiser.
  """
  tx = optim.create_optimizer(
    settings.optim,
    schedule,
    accumulator_dtype=settings.optim_dtype or None,
    weight_decay=settings.weight_decay or None,
    decay=settings.weight_decay_on or None,
    grad_clip_norm=settings.grad_norm_clip or None,
  )
  if settings.layer_decay:
    tx = layer_decay.scaled_by_layer(tx, settings.layer_decay, model)
  decay = settings.polyak_decay
  if not decay:
    return tx
  initial = decay**total_steps
  if initial > 0.5:
    note(
      f'config.polyak_decay={decay}: after {total_steps} steps, {initial:.0%} '
      'of the averages are still the initial parameters'
    )
  return averaging.averaged(tx, decay)
