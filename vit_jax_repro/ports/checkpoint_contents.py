"""Finds the weights in the contents of a training checkpoint.

Trainers save the weights under a key of their own, add a prefix to the names
where the model is an attribute of a larger one, and save averaged weights (EMA)
next to the others. A model is found by the names that only a model has.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

from vit_jax_repro import ports
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages
from vit_jax_repro.output.messages import note
from vit_jax_repro.ports import torch_pickles, unsupported

# Parts of keys and prefixes of averaged weights: timm's state_dict_ema,
# facebookresearch's model_ema, ema_model, swa_model.
_EMA = re.compile(r'(^|[._])(ema|swa|average|averaged|averages)($|[._])')
_AVERAGED = 'n_averaged'  # of torch.optim.swa_utils.AveragedModel
_LIGHTNING = 'averaging_state'  # of its averages, which are in `state_dict`
_DEEPEST = 4  # levels of keys


@dataclasses.dataclass(frozen=True)
class _Found:
  """A model in a checkpoint: the keys of its dict and the prefix of its names.

  Attributes:
    keys: of the dicts around the names, such as ('state_dict',).
    prefix: of all names of the model, such as 'model.'; may be ''.
    tensors: the dict, with the names of other objects too.
    is_average: whether these are averaged weights.
  """

  keys: tuple[str, ...]
  prefix: str
  tensors: Mapping[str, Any]
  is_average: bool

  @property
  def name(self) -> str:
    """Returns the keys and the prefix, for messages."""
    parts = [*self.keys, self.prefix.rstrip('.')]
    return '.'.join(part for part in parts if part) or 'the file'


def weights_of(
  contents: Any, path: str | os.PathLike, *, ema: bool = False
) -> dict[str, Any]:
  """Returns the names and tensors of the model in a checkpoint.

  Notes name what is left out, and averaged weights that are there too.

  Args:
    contents: of the file; a dict of tensors, or a dict that has such dicts.
    path: of the file, for messages.
    ema: whether to return the averaged weights.

  Raises:
    InputError: there is no model, or there are several; or with `ema` none of
      averaged weights.
  """
  if not isinstance(contents, Mapping) or not contents:
    raise InputError(
      f'{path} holds no state dict but a {type(contents).__name__}; save '
      'model.state_dict()'
    )
  found = list(_models(contents))
  if _LIGHTNING in contents:
    found = [
      dataclasses.replace(each, is_average=each.keys == ('state_dict',))
      for each in found
    ]
  averages = [each for each in found if each.is_average]
  others = [each for each in found if not each.is_average]
  if ema:
    if not averages:
      raise InputError(
        f'{path} has no averaged weights (EMA); it has {_parts(contents)}; '
        'leave --ema out'
      )
    return _tensors(_only(averages, path), path)
  if not found:
    return _unknown(contents, path)
  if not others:
    note(f'{path}: these are averaged weights (EMA); it has no others')
    return _tensors(_only(averages, path), path)
  chosen = _only(others, path)
  if averages:
    where = ', '.join(each.name for each in averages)
    note(f'{path} has averaged weights (EMA) too, in {where}; --ema takes them')
  return _tensors(chosen, path)


def _models(contents, keys=(), seen=None):
  """Yields each `_Found` in a dict and the dicts in it, each dict once."""
  seen = set() if seen is None else seen
  if id(contents) in seen:
    return
  seen.add(id(contents))
  tensors = {
    name: value
    for name, value in contents.items()
    if isinstance(name, str) and _is_tensor(value)
  }
  prefixes = ports.prefixes(tensors)
  is_average = _AVERAGED in tensors and any(
    prefix.startswith('module.') for prefix in prefixes
  )
  for prefix in prefixes:
    place = '.'.join((*keys, prefix))
    yield _Found(
      keys,
      prefix,
      tensors,
      is_average or _EMA.search(place) is not None,
    )
  if len(keys) < _DEEPEST:
    for name, value in contents.items():
      if isinstance(name, str) and isinstance(value, Mapping):
        yield from _models(value, (*keys, name), seen)


def _is_tensor(value):
  return hasattr(value, 'dtype')  # a nested tensor has no `shape`


def _is_counter(name, tensor):
  """Returns whether a tensor is one whole number, such as a metric's count."""
  dtype = str(tensor.dtype).removeprefix('torch.')
  return (
    tensor.ndim == 0
    and dtype.startswith(('int', 'uint', 'bool'))
    and not unsupported.is_quantised(name)
  )


def _only(found, path):
  """Returns the one model that was found, or that of a usual key."""
  if len(found) > 1:
    for wrapper in torch_pickles.WRAPPERS:
      usual = [each for each in found if each.keys[:1] == (wrapper,)]
      if len(usual) == 1:
        return usual[0]
    names = ['.'.join((*e.keys, n)) for e in found for n in e.tensors]
    try:
      unsupported.check_one_model(names)
    except InputError as error:
      raise InputError(f'{path}: {error}') from None
    raise InputError(
      f'{path} holds several models: '
      f'{messages.listed(each.name for each in found)}; save the state dict of '
      f'one of them in a file of its own{_alone(path, found)}'
    )
  return found[0]


def _alone(path, found):
  """Returns the line of Python that saves one of several models alone.

  Of a student and its teacher (DINO) it is the teacher, which is evaluated.
  """
  one = next((each for each in found if 'student' not in each.name), found[0])
  if not all(hasattr(t, 'detach') for t in one.tensors.values()):
    return ''  # arrays of a safetensors file
  keys = ''.join(f'[{key!r}]' for key in one.keys)
  name = os.path.basename(path)
  part = f'torch.load({name!r}, weights_only=False){keys}'
  if sum(each.keys == one.keys for each in found) > 1:
    part = (
      f'{{n: t for n, t in {part}.items() if n.startswith({one.prefix!r})}}'
    )
  return f", where you trust it: torch.save({part}, 'weights.pth')"


def _tensors(found, path):
  """Returns the tensors of a model without their prefix."""
  start = len(found.prefix)
  own = {
    name: tensor
    for name, tensor in found.tensors.items()
    if name.startswith(found.prefix) and not _is_counter(name, tensor)
  }
  others = [
    name
    for name in found.tensors.keys() - own.keys() - {_AVERAGED}
    if not name.endswith(ports.COUNTER)
  ]
  if others:
    note(
      f'{path}: left out are {messages.listed(others)}, which are not of the '
      f'model in {found.name}'
    )
  return {name[start:]: tensor for name, tensor in own.items()}


def _unknown(contents, path):
  """Returns the dict under the usual keys, whose names tell no model."""
  for wrapper in torch_pickles.WRAPPERS:
    if isinstance(contents.get(wrapper), Mapping):
      contents = contents[wrapper]
  if 'param_groups' in contents or (
    'optimizer' in contents and not any(map(_is_tensor, contents.values()))
  ):
    raise InputError(
      f'{path} holds the state of an optimizer and no weights (it has '
      f'{_parts(contents)}); give the file of the model'
    )
  if not contents:
    raise InputError(
      f'{path} holds no state dict but a dict; save model.state_dict()'
    )
  return dict(contents)


def _parts(contents):
  return messages.listed(map(str, contents))
