"""The remedy in the message when a library cannot hold a model."""

import re

import pytest
import tiny_models

from vit_jax_repro import models, ports, weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.ports import writing

SCALED = {'layer_scale_init': 1.0, 'gelu': 'erf'}
DINOV2 = {'classifier': 'token_and_gap', 'corruptible': True, **SCALED}
MODELS = {
  'ViT': {},
  'narrow pre_logits': {'representation_size': 5},
  'pre_logits': {'representation_size': 16},
  'mean': {'classifier': 'gap'},
  'mean beside a class token': {'classifier': 'gap', 'class_token': True},
  'mean, LayerScale': {'classifier': 'gap', **SCALED},
  'mean, registers': {'classifier': 'gap', 'num_registers': 2},
  'mean, mask': {'classifier': 'gap', 'corruptible': True},
  'mean of a DINOv2': {**DINOV2, 'classifier': 'gap', 'class_token': True},
  'fc_norm': {'classifier': 'gap', 'fc_norm': True},
  'class token and mean': {'classifier': 'token_and_gap'},
  'sincos2d': {'classifier': 'gap', 'position_embedding': 'sincos2d'},
  'DeiT III': {'class_token_after_positions': True, **SCALED},
  'LayerScale': SCALED,
  'DINOv2': DINOV2,
  'DINOv2 with registers': {**DINOV2, 'num_registers': 2},
  'distilled, LayerScale': {'distilled': True, **SCALED},
}


def refusal(spec, params, library, drop=()):
  """Returns the message of a refusal, or None if the library has the model."""
  try:
    params = weights.trees.nest(
      ports.without(weights.trees.flatten(params), drop)
    )
    writing.check_pooling(models.create(spec), params, library)
    ports.to_state_dict(params, library)
  except InputError as error:
    return str(error)
  return None


@pytest.mark.parametrize('name', MODELS)
def test_every_remedy_leads_to_a_file(name):
  spec = tiny_models.spec(3, **MODELS[name], num_layers=1)
  params = tiny_models.params_of(spec)
  for library in ports.LIBRARIES:
    message = refusal(spec, params, library)
    if message is None:
      continue
    drops = re.findall(r'--drop=([a-z_]+(?:,[a-z_]+)*)', message)
    others = re.findall(r'--to=([a-z_0-9 ]+)', message)
    others = [other for found in others for other in found.split(' or ')]
    assert drops or others or 'no library here' in message, message
    for drop in drops:
      again = refusal(spec, params, library, drop.split(','))
      assert again is None, (library, message, again)
    for other in others:
      assert refusal(spec, params, other) is None, (library, message, other)


def message_for(name, library):
  spec = tiny_models.spec(3, **MODELS[name], num_layers=1)
  return refusal(spec, tiny_models.params_of(spec), library)


def test_a_refusal_names_what_the_library_lacks_at_once():
  assert 'a class token, and this model has none' in message_for(
    'mean', 'dinov2'
  )
  assert 'only with LayerScale, and this one has none' in message_for(
    'ViT', 'dinov2'
  )
  message = message_for('DINOv2', 'torchvision')
  assert message.startswith('models of torchvision have no LayerScale')
  assert '--drop' not in message
  assert message_for('DINOv2', 'timm').endswith(
    'use --drop=head,mask, or --to=transformers or transformers_v4 or dinov2'
  )
