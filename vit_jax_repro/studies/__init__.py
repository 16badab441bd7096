"""Studies: comparisons of training runs that test the claims of papers."""

from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.studies import full_plans, plans
from vit_jax_repro.studies.claims import STUDIES
from vit_jax_repro.studies.running import run

__all__ = ['NAMES', 'SIZES', 'config', 'run']

NAMES = tuple(STUDIES)
SIZES = ('digits', 'short', 'full')


def config(name: str, size: str = 'digits') -> Any:
  """Returns the configuration of a study, for `run`.

  Args:
    name: one of `NAMES`.
    size: 'digits' takes minutes on two CPU cores, 'short' a minute or less;
      'full' has the papers' models and recipes on ImageNet.

  Returns:
    A locked ml_collections.ConfigDict with one key, `study`.

  Raises:
    InputError: the name or the size is unknown.
  """
  import ml_collections

  for value, allowed, what in ((name, NAMES, 'study'), (size, SIZES, 'size')):
    if value not in allowed:
      raise InputError(f'unknown {what} {value!r}; choose from {list(allowed)}')
  plan: dict[str, Any] = (
    getattr(full_plans, name)()
    if size == 'full'
    else getattr(plans, name)(size)
  )
  order = {what: tuple(plan[what]) for what in ('stages', 'sides')}
  study = dict(name=name, size=size, order=order, **plan)
  return ml_collections.ConfigDict(dict(study=study)).lock()
