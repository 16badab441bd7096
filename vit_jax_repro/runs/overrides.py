"""Changes of single keys of a configuration, given as texts.

A key is typed by its field in `settings.Settings` or in the model's class, so
also a key that is None, or that the file leaves out, takes a value.
"""

import ast
import collections
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax_repro import models
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages
from vit_jax_repro.runs import original_keys, settings
from vit_jax_repro.runs.settings_checks import kinds_of

_TRUE, _FALSE = ('true', 't', '1', 'yes'), ('false', 'f', '0', 'no')
_SIZE = 'Size'  # the type of a number of pixels, S or (H, W)
# Fields that are no settings: `jobs.train` sets them.
_NOT_SET = ('parent', 'name', 'num_classes')


def apply(config: Any, changes: Sequence[tuple[str, str]]) -> Any:
  """Sets keys of a ConfigDict; returns it.

  Args:
    config: of a run, complete, or of a study.
    changes: (key, text) in their order, such as ('pp.crop', '224'). A list may
      be given in several parts.

  Raises:
    InputError: a key is unknown or is a group, or the text has no value of its
      type.
  """
  texts = collections.defaultdict(list)
  for key, text in changes:
    texts[key].append(text)
  for key, given in texts.items():
    _change(config, key, given)
  return config


class _Key(typing.NamedTuple):
  """The place of a value: a section of the configuration, and its type."""

  section: Any
  name: str
  kind: Any


def _change(config, key, texts):
  if 'study' in config:
    found = _in_study(config, key)
  elif original_keys.has(config, key, texts[-1]):
    return
  else:
    found = _find(config, key, 'config.')
  value = parse(f'config.{key}', texts, found.kind)
  with config.unlocked(), config.ignore_type():
    found.section[found.name] = value


def _find(config, key, where):
  """Returns the key of a run's configuration."""
  keys = _keys(config)
  spelt = original_keys.spelling(key)
  for name in (spelt, *_regrouped(spelt)):
    if name in keys:
      return keys[name]
  raise InputError(_unknown(key, list(keys), where))


def _unknown(key, names, where):
  """Returns the message on a key that a run does not have."""
  if key in ('model.num_classes', 'num_classes'):
    return f'{where}{key}: the data set decides the classes; leave it out'
  inside = [name for name in names if name.startswith(f'{key}.')]
  if inside:
    return f'{where}{key} is a group; set one of {messages.listed(inside)}'
  # The keys of groups may be meant without the group.
  last = {name.rpartition('.')[2]: name for name in reversed(names)}
  end = key.rpartition('.')[2]
  if key in original_keys.OTHER_NAMES:
    near = [original_keys.OTHER_NAMES[key]]
  elif end in last:
    near = [last[end]]
  else:
    near = messages.nearest(key, {name: name for name in names} | last)
  hint = ' or '.join(f'{where}{name}' for name in near)
  hint = f'did you mean {hint}? ' if hint else ''
  return f'unknown key {where}{key}; {hint}main --help_config lists all keys'


def _keys(config):
  """Returns {key: _Key} of everything that can be set in a run."""
  found = {}
  for prefix, section, cls in (
    ('', config, settings.Settings),
    ('pp.', config.pp, settings.Preprocessing),
    ('mesh.', config.mesh, settings.Mesh),
  ):
    for name, hint in typing.get_type_hints(cls).items():
      if Mapping not in kinds_of(hint) and hint is not settings.Preprocessing:
        kind = _SIZE if hint is Any else hint
        found[prefix + name] = _Key(section, name, kind)
  return found | _model_keys(config.model)


def _model_keys(model):
  """Returns the keys of the model: every field of its class, where it is."""
  module = models.create(dict(model.to_dict(), num_classes=1))
  found = {
    'model.model': _Key(model, 'model', str),
    'model.model_name': _Key(model, 'model_name', str | None),
  }
  for name, declared in type(module).__annotations__.items():
    if name in _NOT_SET:
      continue
    hint = str if declared is Any else declared  # a dtype is declared as Any
    if name in models.CONSTANTS:
      hint = hint | None
    stem = name.removeprefix('stem_')
    if stem != name and model.get('resnet'):
      found[f'model.resnet.{stem}'] = _Key(model.resnet, stem, hint)
    elif name in model.get('transformer', {}):
      found[f'model.transformer.{name}'] = _Key(model.transformer, name, hint)
    else:
      found[f'model.{name}'] = _Key(model, name, hint)
  return found


def _regrouped(key):
  """Yields a model's key with its field in or out of the original's groups."""
  group, _, name = key.rpartition('.')
  if group == 'model':
    yield f'model.transformer.{name}'
    if name.startswith('stem_'):
      yield f'model.resnet.{name.removeprefix("stem_")}'
  elif group == 'model.transformer':
    yield f'model.{name}'
  elif group == 'model.resnet':
    yield f'model.stem_{name}'


def _in_study(config, key):
  """Returns a key of a study; a stage has the keys of a run."""
  where, section = 'config.', config
  names = key.split('.')
  if names[:2] == ['study', 'stages'] and len(names) > 3:
    stage = config.study.stages.get(names[2])
    if stage is not None:
      inside = '.'.join(names[3:])
      return _find(stage, inside, f'config.study.stages.{names[2]}.')
  for name in names[:-1]:
    section = section.get(name) if hasattr(section, 'get') else None
    where += f'{name}.'
  last = names[-1]
  if not hasattr(section, 'items') or last not in section:
    known = list(section) if hasattr(section, 'items') else ['study']
    raise InputError(
      f'unknown key config.{key} of a study; '
      f'{messages.did_you_mean(last, known)}keys are {sorted(known)}'
    )
  value = section[last]
  if hasattr(value, 'items'):
    raise InputError(
      f'config.{key} is a group; set {", ".join(f"{last}.{n}" for n in value)}'
    )
  kind = tuple if isinstance(value, list | tuple) else type(value)
  return _Key(section, last, str | None if value is None else kind)


def parse(key: str, texts: Sequence[str], kind: Any) -> Any:
  """Converts the text of a flag to a value.

  Args:
    key: the whole key, for messages.
    texts: the values given, of which the last counts; those of a list are
      joined.
    kind: the annotation of the key's field.

  Raises:
    InputError: the text has no value of this type; one line.
  """
  text = texts[-1]
  if kind is _SIZE:
    return None if text in ('', 'None') else _size(key, text)
  kinds = kinds_of(kind)
  if types.NoneType in kinds:
    if text == 'None' or (not text and str not in kinds):
      return None
    kind = next(each for each in _options(kind) if each is not types.NoneType)
  if kinds_of(kind)[0] in (tuple, list, Sequence):
    items = [item for text in texts for item in _items(key, text, kind)]
    return _counted(key, text, items, kind)
  read, words = _READERS.get(kind, (ast.literal_eval, 'a Python value'))
  try:
    if text == 'None':
      raise ValueError
    return read(text)
  except (SyntaxError, ValueError, OverflowError):
    unset = '; leave it out to keep its value' * (text == 'None')
    raise InputError(f'{key}={text} must be {words}{unset}') from None


def _options(kind):
  return typing.get_args(kind) if isinstance(kind, types.UnionType) else [kind]


def _switch(text):
  lower = text.lower()
  if lower not in (*_TRUE, *_FALSE):
    raise ValueError
  return lower in _TRUE


def _whole(text):
  try:
    return int(text)
  except ValueError:
    value = float(text)  # such as 1e4
    if not value.is_integer():
      raise
    return int(value)


_READERS: dict[Any, Any] = {  # {type: (function, words for it)}
  str: (str, 'a text'),
  int: (_whole, 'a whole number'),
  float: (float, 'a number'),
  bool: (_switch, 'True or False'),
}


def _size(key, text):
  """Returns S of 'S', or (H, W) of 'HxW'."""
  sides = text.lower().split('x')
  if len(sides) <= 2 and all(side.strip().isdecimal() for side in sides):
    found = [int(side) for side in sides]
    return found[0] if len(found) == 1 else tuple(found)
  meant = re.findall(r'\d+', text)
  if len(meant) != 2:
    meant = ['224', '384']
  square = f'--{key}={meant[0]}'
  both = f'--{key}={"x".join(meant)}'
  raise InputError(
    f'{key}={text} must be pixels, S or HEIGHTxWIDTH: {square} or {both}'
  )


def _items(key, text, kind):
  """Returns the items of '(2,3)', '[2, 3]', '2,3' or '2'."""
  try:
    found = ast.literal_eval(text) if text else ()
  except (SyntaxError, ValueError):
    found = None
  items = list(found) if isinstance(found, list | tuple) else [found]
  whole = all(type(item) is int for item in items)
  if found is None or (int in typing.get_args(kind) and not whole):
    words = 'whole numbers' if int in typing.get_args(kind) else 'values'
    raise InputError(f'{key}={text} must be {words}, such as --{key}=2,3')
  return items


def _counted(key, text, items, kind):
  """Returns the items as a tuple; refuses another number than the type's."""
  wanted = typing.get_args(kind)
  fixed = wanted and kinds_of(kind)[0] is tuple and Ellipsis not in wanted
  if fixed and len(items) != len(wanted):
    example = ','.join(map(str, (items or [16])[:1] * len(wanted)))
    raise InputError(
      f'{key}={text} must be {len(wanted)} whole numbers, such as '
      f'--{key}={example}'
    )
  return tuple(items)
