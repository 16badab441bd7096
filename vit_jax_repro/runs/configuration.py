"""Configurations for the command line: a recipe with every key spelt out."""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from vit_jax_repro import models
from vit_jax_repro.errors import InputError
from vit_jax_repro.runs import card_settings, original_keys, settings


def create(
  recipe: dict[str, Any], model: str | dict[str, Any], **fields: Any
) -> Any:
  """Returns a locked ConfigDict with every key of `settings.Settings`.

  Args:
    recipe: settings, as in `recipes`; missing keys get their defaults.
    model: a name, or a mapping of fields for `models.create`.
    **fields: fields that replace those of the model.

  Returns:
    An ml_collections.ConfigDict. A key whose value is None accepts values of
    its type. `config.model` is the model's mapping of fields.
  """
  import ml_collections

  if isinstance(model, str):
    name = models.canonical_name(model)
    model = dict(models.image_fields(name), model_name=name)
  model = with_defaults(model | fields)
  pp = _filled(settings.Preprocessing, recipe['pp'])
  values = _filled(settings.Settings, dict(recipe, model=model, pp=pp))
  config = ml_collections.ConfigDict(values)
  for section, cls in (
    (config, settings.Settings),
    (config.pp, settings.Preprocessing),
  ):
    _add_placeholders(section, cls)
  config.mesh = ml_collections.ConfigDict(dict(config.mesh))
  _placeholder(config.mesh, 'data', int)
  constants = card_settings.constants(model)
  for name in list(config.model):
    _placeholder(config.model, name, type(constants.get(name, 0)))
  return config.lock()


def completed(config: Mapping[str, Any]) -> Any:
  """Returns the locked ConfigDict of a run whose file may leave out keys.

  Args:
    config: a ConfigDict or a dict, of ours or of the original code.

  Raises:
    InputError: it has no mappings `model` and `pp`, or the model is impossible.
  """
  import ml_collections

  named = {field.name for field in dataclasses.fields(settings.Settings)}
  if isinstance(config, ml_collections.ConfigDict):
    if named == set(config):
      return config.lock()
    config = config.to_dict()
  recipe = original_keys.translated(config)
  for key in ('model', 'pp'):
    if not isinstance(recipe.get(key), Mapping):
      raise InputError(
        f'the configuration has {key}={recipe.get(key)!r}; it must be a '
        'mapping, such as that of configs/vit.py'
      )
  for key, cls in (('pp', settings.Preprocessing), ('mesh', settings.Mesh)):
    recipe[key] = _filled(cls, dict(recipe.get(key) or {}))
  return create(recipe, recipe['model'])


def with_defaults(model: Mapping[str, Any]) -> dict[str, Any]:
  """Adds a model's missing fields with their defaults for flags to set.

  The fields of `models.CONSTANTS` become None, see `card_settings`.
  """
  module: Any = models.create(dict(model, num_classes=1))
  named = set(model) | set(model.get('transformer', {}))
  model = {k: v for k, v in model.items() if k != 'num_classes'}
  for field in dataclasses.fields(module):
    if field.name in named | _NOT_SET or field.name.startswith('stem_'):
      continue
    value = getattr(module, field.name)
    if field.name in models.CONSTANTS:
      value = None
    is_dtype = field.name in ('dtype', 'param_dtype')
    model[field.name] = 'float32' if is_dtype else value
  return model


_NOT_SET = {'num_classes', 'parent', 'name'}


def _filled(cls, given):
  values = {}
  for field in dataclasses.fields(cls):
    if field.default is not dataclasses.MISSING:
      values[field.name] = field.default
    elif field.default_factory is not dataclasses.MISSING:
      values[field.name] = field.default_factory()
  return values | given


def _add_placeholders(section, cls):
  hints = typing.get_type_hints(cls)
  for name in list(section):
    types = [t for t in typing.get_args(hints[name]) if t is not type(None)]
    _placeholder(section, name, types[0] if types else int)


def _placeholder(section, name, kind):
  from ml_collections import config_dict

  if section[name] is None:
    section[name] = config_dict.placeholder(kind)
