"""The settings that a run leaves to the weights file that it starts from.

These are how images are read, and the constants of the model that no array
shows. Their keys are None in a configuration that does not decide them.
"""

from collections.abc import Mapping
from typing import Any

from vit_jax_repro import models
from vit_jax_repro.output.messages import note
from vit_jax_repro.runs.settings import DEFAULT_PREPROCESSING
from vit_jax_repro.weights import model_card


def decided_by(
  card: model_card.ModelCard | None, config: Mapping[str, Any]
) -> dict[str, Any]:
  """Gives a value to each key that None leaves to the weights file.

  The file decides how images are read and the constants of the model. A note
  has what it decided, and where a key that has a value differs from the file.

  Args:
    card: of the file; None for a run from fresh parameters.
    config: plain mapping of settings.

  Returns:
    `config` without such keys that are None.
  """
  if card is None:
    return settled(config)
  architecture = _ungrouped(card.architecture)
  found_in_file = {
    f'model.{name}': architecture[name]
    for name in constants(config['model'])
    if architecture.get(name) is not None
  }
  if card.preprocessing is not None:
    found_in_file['preprocessing'] = card.preprocessing
  if card.orientation is not None:
    found_in_file['pp.orientation'] = card.orientation
  found = settled(config, found_in_file)
  now, default = _flat(found), _flat(settled(config))
  taken = [
    f'{key}={value}'
    for key, value in found_in_file.items()
    if now[key] == value != default[key]
  ]
  other = [
    f'config.{key}={now[key]} where the file says {value}'
    for key, value in found_in_file.items()
    if now[key] != value
  ]
  if taken:
    note(
      f'{", ".join(taken)}, as the weights file says; --config.KEY=VALUE '
      'decides otherwise'
    )
  if other:
    note(f'the run uses {", ".join(other)}')
  return found


def _flat(config):
  model = _ungrouped(config['model'])
  return {
    'preprocessing': config['preprocessing'],
    'pp.orientation': config['pp'].get('orientation'),
    **{f'model.{name}': value for name, value in model.items()},
  }


def _ungrouped(model):
  return {**model, **model.get('transformer', {})}


def settled(
  config: Mapping[str, Any], found_in_file: Mapping[str, Any] | None = None
) -> dict[str, Any]:
  """Gives a value to each key that None leaves to the weights file.

  Args:
    config: plain mapping of settings, see `settings.to_plain`.
    found_in_file: {'preprocessing': 'deit', 'model.gelu': 'erf', ...}. A key
      that is missing here gets its default.
  """
  found_in_file = found_in_file or {}
  if config.get('preprocessing') in (None, ''):
    found = found_in_file.get('preprocessing', DEFAULT_PREPROCESSING)
    config = dict(config, preprocessing=found)
  # Without a value it depends on the kind of data, see runs/input.py.
  turned = found_in_file.get('pp.orientation')
  if turned is not None and not config['pp'].get('orientation'):
    config = dict(config, pp=dict(config['pp'], orientation=turned))
  if not isinstance(config.get('model'), Mapping):
    return dict(config)
  model = dict(config['model'])
  for name, value in constants(model).items():
    if _ungrouped(model).get(name) is None:
      model[name] = found_in_file.get(f'model.{name}', value)
  return dict(config, model=model)


def constants(model: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the model's `models.CONSTANTS` with their values or defaults."""
  module = models.create(dict(model, num_classes=1))
  return {
    name: getattr(module, name)
    for name in models.CONSTANTS
    if hasattr(module, name)
  }
