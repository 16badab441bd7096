"""Learning-rate schedules and optimisers of the papers, built from optax."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vit_jax_repro.errors import InputError

# Final rate of linear decay (vit_jax/utils.py, create_learning_rate_schedule).
LINEAR_END = 1e-5
MOMENTUM = 0.9
BETA1, BETA2, ADAM_EPS = 0.9, 0.999, 1e-8  # ViT paper, section 4.1; optax

Schedule = Callable[[Any], jax.Array]


def create_schedule(
  *,
  base_lr: float,
  total_steps: int,
  warmup_steps: int = 0,
  decay_type: str = 'cosine',
  boundaries: Sequence[int] | None = None,
) -> Schedule:
  """Returns the learning rate as a function of the step, counted from 0.

  The warm-up is linear from 0, so that the first update changes nothing if
  there is a warm-up. After it, the decay types are:

    cosine    from `base_lr` at the end of the warm-up to 0 at `total_steps`,
              as in vit_jax/utils.py;
    linear    from `base_lr` at the end of the warm-up to 1e-5 at `total_steps`,
              as in vit_jax/utils.py;
    steps     divided by 10 after each boundary. The step equal to the boundary
              still has the old rate (BiT-HyperRule, bit_hyperrule.py);
    constant  `base_lr`.

  Args:
    base_lr: the highest rate.
    total_steps: number of updates; later steps keep the last value.
    warmup_steps: number of warm-up updates, less than `total_steps`.
    decay_type: 'constant', 'cosine', 'linear' or 'steps'.
    boundaries: steps at which the rate drops; only for 'steps'.

  Returns:
    A function from a step (an int or an int array) to a float32 rate.

  Raises:
    InputError: `decay_type` is unknown, `warmup_steps` is not in
      [0, total_steps), or `boundaries` does not match `decay_type`.
  """
  if decay_type not in ('constant', 'cosine', 'linear', 'steps'):
    raise InputError(
      f'unknown {decay_type=}; choose from constant, cosine, linear, steps'
    )
  if not 0 <= warmup_steps < total_steps:
    raise InputError(
      f'{warmup_steps=} must be at least 0 and less than {total_steps=}'
    )
  if (decay_type == 'steps') != (boundaries is not None):
    raise InputError(
      f"{boundaries=} must be given with decay_type='steps' and only then, "
      f'not with {decay_type!r}'
    )

  drop_steps = () if boundaries is None else boundaries

  def schedule(step):
    progress = (step - warmup_steps) / float(total_steps - warmup_steps)
    progress = jnp.clip(progress, 0.0, 1.0)
    rate = base_lr
    if decay_type == 'linear':
      rate = LINEAR_END + (base_lr - LINEAR_END) * (1.0 - progress)
    elif decay_type == 'cosine':
      rate = base_lr * 0.5 * (1.0 + jnp.cos(math.pi * progress))
    elif decay_type == 'steps':
      drops = sum((step > boundary) * 1 for boundary in drop_steps)
      rate = base_lr / 10.0**drops
    if warmup_steps:
      rate = rate * jnp.minimum(1.0, step / warmup_steps)
    return jnp.asarray(rate, jnp.float32)

  return schedule


def create_optimizer(
  name: str,
  schedule: Schedule,
  *,
  momentum: float | None = None,
  accumulator_dtype: str | None = None,
  weight_decay: float | None = None,
  decay: str | None = None,
  grad_clip_norm: float | None = None,
) -> optax.GradientTransformation:
  """Returns SGD with momentum, or Adam with decoupled weight decay.

  Args:
    name: 'sgd' or 'adamw'.
    schedule: step -> rate, as from `create_schedule`.
    momentum: for SGD only; 0.9 by default (ViT Table 4, BiT section 3.3).
    accumulator_dtype: dtype of SGD's momentum ('float32' by default) or of
      Adam's first moment (the parameters' dtype by default). It is 'float32',
      or 'bfloat16' as in the original code and big_vision. In bfloat16 the
      stored sum is decayed by bfloat16's 0.9, which is 0.8984375, and the
      product is rounded, too. The update is this product plus the float32
      gradient; only the sum that is stored is rounded.
    weight_decay: coefficient, 0 by default. AdamW subtracts coefficient *
      learning rate * parameters. For SGD the decay is coupled: coefficient *
      parameters is added to the gradients after clipping and before the
      momentum, as in PyTorch's SGD. BiT pre-trains with 1e-4.
    decay: parameters that decay: 'all' (default) or 'kernels'.
    grad_clip_norm: gradients with a larger global norm are first scaled down
      to this norm (vit_jax: 1.0); None turns clipping off.

  Raises:
    InputError: a name or value is unknown, or AdamW is given a momentum.
  """
  if name not in ('sgd', 'adamw'):
    raise InputError(
      f"unknown optimizer {name!r}; choose from ['sgd', 'adamw']"
    )
  if momentum is not None and name == 'adamw':
    raise InputError(
      f"{momentum=} applies only to 'sgd'; leave it out for 'adamw'"
    )
  if accumulator_dtype not in (None, 'float32', 'bfloat16'):
    raise InputError(f"{accumulator_dtype=} must be 'float32' or 'bfloat16'")
  if decay not in (None, 'all', 'kernels'):
    raise InputError(f"{decay=} must be 'all' or 'kernels'")
  mask = kernels if decay == 'kernels' else None
  parts = []
  if grad_clip_norm is not None:
    parts.append(optax.clip_by_global_norm(grad_clip_norm))
  if name == 'sgd':
    if weight_decay:
      parts.append(optax.add_decayed_weights(weight_decay, mask))
    momentum = MOMENTUM if momentum is None else momentum
    dtype = accumulator_dtype or 'float32'
    parts.append(optax.sgd(schedule, momentum, accumulator_dtype=dtype))
  else:
    parts.append(_adamw(schedule, weight_decay or 0.0, mask, accumulator_dtype))
  return optax.chain(*parts) if len(parts) > 1 else parts[0]


def kernels(params: Any) -> Any:
  """Returns a tree of booleans, True at the leaves named `kernel`."""
  return jax.tree.map_with_path(
    lambda path, _: re.search(r'kernel', str(path[-1])) is not None, params
  )


def _adamw(schedule, weight_decay, mask, dtype):
  return optax.adamw(
    schedule,
    b1=BETA1,
    b2=BETA2,
    eps=ADAM_EPS,
    mu_dtype=dtype,
    weight_decay=weight_decay,
    mask=mask,
  )
