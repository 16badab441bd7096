"""What the values of a run's settings may be, alone and together."""

import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any

from vit_jax_repro import recipes
from vit_jax_repro.errors import InputError

LARGEST = 2**31 - 1

_WHOLE = {  # the least of whole numbers
  0: ('eval_every', 'progress_every', 'checkpoint_every', 'prefetch', 'seed'),
  1: (
    'batch',
    'batch_eval',
    'accum_steps',
    'shuffle_buffer',
    'repeated_augmentation',
    'keep_checkpoints',
  ),
}
_SWITCHES = ('keep_best',)
_NOT_NEGATIVE = {  # and what they must be below
  'base_lr': None,
  'weight_decay': None,
  'grad_norm_clip': None,
  'memory_limit_gb': None,
  'mixup_alpha': None,
  'cutmix_alpha': None,
  'shrink': None,
  'perturb': None,
  'distillation_tau': None,
  'label_smoothing': 1,
  'polyak_decay': 1,
}
_PARTS = ('random_erasing', 'distillation_alpha')  # from 0 to 1
_CHOICES = {  # None: may be left out
  'head': ('reset', 'keep'),
  'decay_type': ('constant', 'cosine', 'linear', 'steps', 'bit_hyperrule'),
  'optim': ('sgd', 'adamw'),
  'optim_dtype': (None, 'float32', 'bfloat16'),
  'grad_reduce_dtype': ('float32', 'bfloat16'),
  'weight_decay_on': (None, 'all', 'kernels'),
  'objective': ('classification', 'distillation', 'masked_patches'),
  'loss': ('softmax', 'sigmoid'),
  'distillation': ('hard', 'soft'),
  'transfer_dtype': ('float32', 'uint8'),
  'augreg_strength': (None, *recipes.AUGREG_STRENGTHS),
}
_TYPES = {  # of annotations: what a value must be, and in words
  str: (str, 'a text'),
  int: (numbers.Integral, 'a whole number'),
  float: (numbers.Real, 'a number'),
  bool: (bool, 'True or False'),
  Mapping: (Mapping, 'a group of settings'),
}
_AXES = ('data', 'fsdp', 'model')  # of the mesh, see parallel.mesh
# Keys that do nothing unless another has this value; None: any but nothing.
_NEEDS = {
  'head': ('pretrained_dir', None),
  'shrink': ('pretrained_dir', None),
  'perturb': ('pretrained_dir', None),
  'decay_steps': ('decay_type', 'steps'),
  'teacher': ('objective', 'distillation'),
  'distillation': ('objective', 'distillation'),
  'distillation_alpha': ('objective', 'distillation'),
  'distillation_tau': ('distillation', 'soft'),
}
# Keys that an objective has no use for: the loss is its own, and labels.
_NOT_OF = {
  'classification': (),
  'distillation': ('loss',),
  'masked_patches': (
    'loss',
    'mixup_alpha',
    'cutmix_alpha',
    'label_smoothing',
    'random_erasing',
  ),
}


def check(settings: Any) -> None:
  """Refuses values that cannot be, and those that would have no effect.

  Args:
    settings: a `settings.Settings`.

  Raises:
    InputError: one line with the key, its value and what is allowed.
  """
  for least, names in _WHOLE.items():
    for name in names:
      _check_whole(name, getattr(settings, name), least)
  for name, below in _NOT_NEGATIVE.items():
    _check_not_negative(name, getattr(settings, name), below=below)
  for name in _PARTS:
    _check_not_negative(name, getattr(settings, name), most=1)
  for name in _SWITCHES:
    _check_switch(name, getattr(settings, name))
  for name, choices in _CHOICES.items():
    _check_choice(name, getattr(settings, name), choices)
  _check_mesh(settings.mesh)
  _check_known(settings)
  _check_decay_steps(settings)
  _check_needs(settings)
  _check_objective(settings)
  _check_best(settings)


def check_types(values: Mapping[str, Any], cls: type, where: str) -> None:
  """Refuses values of another type than the field of a dataclass has.

  Whole numbers are numbers; what is neither a plain type nor a mapping, such
  as a list, is left to `check`.

  Args:
    values: of fields, by name.
    cls: the dataclass.
    where: what stands before the name in a message, such as 'config'.

  Raises:
    InputError: one line with the key, its value and what it must be.
  """
  hints = typing.get_type_hints(cls)
  for name, value in values.items():
    hint = hints[name]
    union = isinstance(hint, types.UnionType)
    kinds = [
      typing.get_origin(kind) or kind
      for kind in (typing.get_args(hint) if union else [hint])
    ]
    known = [_TYPES[kind] for kind in kinds if kind in _TYPES]
    if not known or (value is None and types.NoneType in kinds):
      continue
    switch = isinstance(value, bool) and bool not in kinds
    if switch or not isinstance(value, tuple(kind for kind, _ in known)):
      wanted = ' or '.join(words for _, words in known)
      raise InputError(f'{where}.{name}={value!r} must be {wanted}')


def _check_mesh(mesh):
  for axis, size in mesh.items():
    if axis not in _AXES:
      raise InputError(
        f'config.mesh has {axis!r}; its axes are {", ".join(_AXES)}'
      )
    if not (axis == 'data' and size is None):
      _check_whole(f'mesh.{axis}', size, 1)


def _check_whole(name, value, least):
  if not isinstance(value, int) or not least <= value <= LARGEST:
    raise InputError(
      f'config.{name}={value!r} must be a whole number of at least {least} and '
      f'at most {LARGEST}'
    )


def _check_not_negative(name, value, *, below=None, most=None):
  if value is None:
    return
  number = isinstance(value, int | float) and not isinstance(value, bool)
  large = number and (
    value >= (float('inf') if below is None else below)
    or (most is not None and value > most)
  )
  if number and value >= 0 and not large:
    return
  limit = '' if below is None else f' and below {below}'
  limit = limit if most is None else f' and at most {most}'
  raise InputError(
    f'config.{name}={value!r} must be a number of at least 0{limit}'
  )


def _check_switch(name, value):
  if not isinstance(value, bool):
    raise InputError(f'config.{name}={value!r} must be True or False')


def _check_choice(name, value, choices):
  if value not in choices and (value or None not in choices):
    raise InputError(
      f'config.{name}={value!r} is unknown; choose from '
      f'{[choice for choice in choices if choice]}'
    )


def _check_known(settings):
  """What a recipe leaves open has been said."""
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
  for name, (other, wanted) in _NEEDS.items():
    found = getattr(settings, other)
    met = found and wanted in (None, found)
    if met or _is_default(settings, name):
      continue
    need = f'{other}={wanted!r}' if wanted else f'a {other}'
    raise InputError(f'{_shown(settings, name)} needs {need}; leave it out')


def _check_objective(settings):
  objective = settings.objective
  for name in _NOT_OF[objective]:
    if not _is_default(settings, name):
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


def _check_best(settings):
  """What is to be compared is measured."""
  evaluations, checkpoints = settings.eval_every, settings.checkpoint_every
  if not settings.keep_best or not checkpoints:
    return
  if not evaluations or checkpoints % evaluations:
    raise InputError(
      'config.keep_best=True needs an evaluation at every checkpoint: set '
      f'eval_every={evaluations} to what divides checkpoint_every={checkpoints}'
    )


def _is_default(settings, name):
  """Whether nothing is set; flags say '' or an empty list for nothing."""
  value = getattr(settings, name)
  default = type(settings).__dataclass_fields__[name].default
  return value == default or (default in (None, ()) and not value)


def _shown(settings, name):
  return f'config.{name}={getattr(settings, name)!r}'
