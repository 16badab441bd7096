"""Checks of a run's settings: each value alone, then all of them together.

The bounds and choices of a setting are part of its field, see
data/image_settings.py.
"""

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any

from vit_jax_repro.errors import InputError

LARGEST = 2**31 - 1

# {annotation: (type that a value must have, its name in messages)}
_TYPES = {
  str: (str, 'a text'),
  int: (numbers.Integral, 'a whole number'),
  float: (numbers.Real, 'a number'),
  bool: (bool, 'True or False'),
  Mapping: (Mapping, 'a group of settings'),
}


def check(settings: Any) -> None:
  """Refuses impossible values, and values that would have no effect.

  Args:
    settings: a `settings.Settings` instance.

  Raises:
    InputError: one line with the key, its value and what is allowed.
  """
  check_switches(settings, 'config')
  for field in dataclasses.fields(settings):
    _check_value(field.name, getattr(settings, field.name), field)
  _check_mesh(settings)
  _check_known(settings)
  _check_warmup(settings)
  _check_decay_steps(settings)
  _check_augmentation(settings)
  _check_needs(settings)
  _check_objective(settings)
  _check_validation(settings)
  _check_best(settings)
  _check_layer_decay(settings)


def check_switches(values: Any, where: str) -> None:
  """Refuses values other than True and False in fields annotated `bool`.

  Args:
    values: a dataclass of settings.
    where: the part before the name in a message, such as 'config'.

  Raises:
    InputError: one line with the key, its value and what is allowed.
  """
  for field in dataclasses.fields(values):
    value = getattr(values, field.name)
    if bool in kinds_of(field.type) and not isinstance(value, bool):
      raise InputError(f'{where}.{field.name}={value!r} must be True or False')


def kinds_of(annotation: Any) -> list[Any]:
  """Returns the types that a field's annotation allows, without arguments."""
  if isinstance(annotation, types.UnionType):
    annotations = typing.get_args(annotation)
  else:
    annotations = [annotation]
  return [typing.get_origin(kind) or kind for kind in annotations]


def check_types(values: Mapping[str, Any], cls: type, where: str) -> None:
  """Refuses values whose type is not that of their dataclass field.

  A field of floats also takes whole numbers. `check` covers the types that are
  neither plain nor mappings, such as lists.

  Args:
    values: {name of a field: value}.
    cls: the dataclass.
    where: the part before the name in a message, such as 'config'.

  Raises:
    InputError: one line with the key, its value and what it must be.
  """
  hints = typing.get_type_hints(cls)
  for name, value in values.items():
    kinds = kinds_of(hints[name])
    known = [_TYPES[kind] for kind in kinds if kind in _TYPES]
    if not known or (value is None and types.NoneType in kinds):
      continue
    switch = isinstance(value, bool) and bool not in kinds
    if switch or not isinstance(value, tuple(kind for kind, _ in known)):
      wanted = ' or '.join(words for _, words in known)
      raise InputError(f'{where}.{name}={value!r} must be {wanted}')


def _check_mesh(settings):
  keys = type(settings).__dataclass_fields__['mesh'].metadata['keys']
  axes = {axis.name: axis for axis in dataclasses.fields(keys)}
  for axis, size in settings.mesh.items():
    if axis not in axes:
      raise InputError(
        f'config.mesh has {axis!r}; its axes are {", ".join(axes)}'
      )
    _check_value(f'mesh.{axis}', size, axes[axis])


def _check_value(name, value, field):
  """Compares a value with the choices or the bounds of its field."""
  bounds, kinds = field.metadata, kinds_of(field.type)
  is_optional = types.NoneType in kinds
  if bounds['choices']:
    if not (is_optional and not value):
      _check_choice(name, value, bounds['choices'])
  elif bounds['least'] is None or (is_optional and value is None):
    return
  elif int in kinds:
    _check_whole(name, value, bounds)
  else:
    _check_number(name, value, bounds)


def _check_choice(name, value, choices):
  if value not in choices:
    raise InputError(
      f'config.{name}={value!r} is unknown; choose from {list(choices)}'
    )


def _check_whole(name, value, bounds):
  least = bounds['least']
  most = LARGEST if bounds['most'] is None else bounds['most']
  if not isinstance(value, int) or not least <= value <= most:
    raise InputError(
      f'config.{name}={value!r} must be a whole number of at least {least} and '
      f'at most {most}'
    )


def _check_number(name, value, bounds):
  if value is None:
    return
  least, below, most = (bounds[key] for key in ('least', 'below', 'most'))
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  if (
    is_number
    and least <= value < (math.inf if below is None else below)
    and (most is None or value <= most)
  ):
    return
  limit = '' if below is None else f' and below {below}'
  limit = limit if most is None else f' and at most {most}'
  raise InputError(
    f'config.{name}={value!r} must be a number of at least {least}{limit}'
  )


def _check_known(settings):
  """Refuses a missing setting for which the recipe has no default."""
  if not settings.dataset:
    raise InputError(
      "config.dataset='' must be 'digits', a TFDS name or a folder; set "
      '--config.dataset'
    )
  if settings.pp.crop is None:
    raise InputError(
      f'config.pp.crop is not known for {settings.dataset!r}; set it, in pixels'
    )
  rule = settings.decay_type == 'bit_hyperrule'
  for name in ('total_steps', 'warmup_steps', 'mixup_alpha'):
    if getattr(settings, name) is None and not rule:
      raise InputError(
        f'config.{name} is not known for {settings.dataset!r}; set it'
      )


def _check_warmup(settings):
  """Refuses a run that ends before its learning rate has risen."""
  total, warmup = settings.total_steps, settings.warmup_steps
  if total is None or warmup is None or 0 <= warmup < total:
    return
  if total < 1:
    raise InputError(f'config.total_steps={total} must be at least 1')
  raise InputError(
    f'config.warmup_steps={warmup} must be at least 0 and below '
    f'config.total_steps={total}; set --config.warmup_steps={total // 10}, a '
    'tenth of the steps, or more steps'
  )


def _check_augmentation(settings):
  """Refuses augmentation that would have no effect."""
  pp = settings.pp
  if not pp.randaugment_layers and not settings.augreg_strength:
    for name in ('randaugment_magnitude', 'randaugment_policy'):
      if not _is_default(pp, name):
        raise InputError(
          f'config.pp.{name}={getattr(pp, name)!r} needs '
          'config.pp.randaugment_layers above 0; leave it out'
        )
  for name in ('mixup_alpha', 'cutmix_alpha'):
    if settings.batch == 1 and getattr(settings, name):
      raise InputError(
        f'{_shown(settings, name)} would mix each image with itself: '
        'config.batch=1 must be at least 2'
      )


def _check_decay_steps(settings):
  steps, last = settings.decay_steps, settings.total_steps or LARGEST
  whole = isinstance(steps, list | tuple) and all(
    isinstance(step, int) and 0 < step < last for step in steps
  )
  if not whole or sorted(set(steps)) != list(steps):
    raise InputError(
      f'config.decay_steps={steps!r} must be whole numbers in rising order, '
      f'at least 1 and below total_steps={settings.total_steps}'
    )
  if settings.decay_type == 'steps' and not steps:
    raise InputError(
      "config.decay_steps is not set; decay_type='steps' needs the steps after "
      'which the learning rate drops to a tenth'
    )


def _check_needs(settings):
  for field in dataclasses.fields(settings):
    if field.metadata['needs'] is None:
      continue
    name, (other, wanted) = field.name, field.metadata['needs']
    found = getattr(settings, other)
    met = found and wanted in (None, found)
    if met or _is_default(settings, name):
      continue
    need = f'{other}={wanted!r}' if wanted else f'a {other}'
    raise InputError(
      f'{_shown(settings, name)} needs {need}; set that, or '
      f'leave config.{name} out'
    )


def _check_objective(settings):
  objective = settings.objective
  for field in dataclasses.fields(settings):
    name, unused_by = field.name, field.metadata['unused_by']
    if objective in unused_by and not _is_default(settings, name):
      raise InputError(
        f'{_shown(settings, name)} has no place in {objective=}; leave it out'
      )
  if objective == 'distillation' and not settings.teacher:
    raise InputError(
      f'config.teacher is not set; {objective=} needs the weights file of a '
      'teacher'
    )
  if not settings.distillation_tau:
    raise InputError(f'{_shown(settings, "distillation_tau")} must be above 0')


def _check_validation(settings):
  """Refuses a third split that is none."""
  pp = settings.pp
  for name in ('train', 'test'):
    if pp.validation and pp.validation == getattr(pp, name):
      raise InputError(
        f'config.pp.validation={pp.validation!r} is config.pp.{name}, too; '
        "name a part of its own, such as 'train[90%:]', and leave it out of "
        'the others'
      )


def _check_best(settings):
  """Refuses checkpoints without an evaluation where the best one is kept."""
  evaluations, checkpoints = settings.eval_every, settings.checkpoint_every
  if not settings.keep_best or not checkpoints:
    return
  if not evaluations or checkpoints % evaluations:
    raise InputError(
      'config.keep_best=True needs an evaluation at every checkpoint: set '
      f'eval_every={evaluations} to a divisor of checkpoint_every={checkpoints}'
    )


def _check_layer_decay(settings):
  """Refuses a factor of 0, which would train the head alone."""
  if settings.layer_decay == 0:
    raise InputError(
      f'{_shown(settings, "layer_decay")} must be above 0; leave it out for '
      'one learning rate, or set train=head to train the head alone'
    )


def _is_default(settings, name):
  """Returns whether a setting has its default; flags write None as '' or []."""
  value = getattr(settings, name)
  default = type(settings).__dataclass_fields__[name].default
  return value == default or (default in (None, ()) and not value)


def _shown(settings, name):
  return f'config.{name}={getattr(settings, name)!r}'
