"""Faults of LayerScale, registers and pooling, planted in a plain PyTorch ViT.

The references differ in what their heads get, so that the operations of their
blocks are compiled once.
"""

import types

import numpy as np
import pytest
import reference

from vit_jax_repro import models, weights
from vit_jax_repro.comparison import (
  activations,
  causes,
  conclusions,
  diagnosis,
  torch_facts,
  torch_layers,
  torch_models,
)
from vit_jax_repro.weights.adapt import parameter_shapes

SIZE = (16, 24)
VIT = dict(
  model='vit',
  num_classes=10,
  patch_size=(4, 4),
  hidden_size=48,
  num_layers=1,
  num_heads=3,
  mlp_dim=96,
  gelu='erf',
  num_registers=2,
  layer_scale_init=1.0,
)
KINDS = {
  'token': {},
  'gap': dict(classifier='gap', class_token=True),
  'fc_norm': dict(classifier='gap', class_token=True, fc_norm=True),
  'token_and_gap': dict(classifier='token_and_gap'),
}
BLOCK = 'Transformer/encoderblock_0'

# Kind of the reference, settings of the port, topic and port's value of the
# cause, and the last activation that agrees and the first that differs.
PLANTED = [
  (
    'token',
    {'gains': 'none'},
    ('LayerScale', 'left out'),
    (f'{BLOCK}/MultiHeadDotProductAttention_0', f'{BLOCK}/LayerNorm_1'),
  ),
  (
    'token_and_gap',
    {'gains': 'attention'},
    ('LayerScale', 'left out after the MLP'),
    (f'{BLOCK}/MlpBlock_0', BLOCK),
  ),
  (
    'gap',
    {'gains': 'mlp'},
    ('LayerScale', 'left out after attention'),
    (f'{BLOCK}/MultiHeadDotProductAttention_0', f'{BLOCK}/LayerNorm_1'),
  ),
  (
    'token',
    {'gains': 'exchanged'},
    ('LayerScale', "the factors of attention and the MLP's exchanged"),
    (f'{BLOCK}/MultiHeadDotProductAttention_0', f'{BLOCK}/LayerScale_0'),
  ),
  (
    'token',
    {'registers': 'none'},
    ('registers', 'left out'),
    ('embedding', 'pre_logits'),
  ),
  (
    'token_and_gap',
    {'registers': 'first'},
    ('registers', 'before the class token'),
    ('embedding', 'Transformer/posembed_input'),
  ),
  (
    'gap',
    {'registers': 'last'},
    ('registers', 'after the patches'),
    ('embedding', 'Transformer/posembed_input'),
  ),
  (
    'token',
    {'places': 'in order'},
    ('position embeddings', 'given to the registers too, in the order'),
    ('embedding', 'Transformer/posembed_input'),
  ),
  (
    'token',
    {'places': 'as the token'},
    ('position embeddings', "the class token's for the registers too"),
    ('embedding', 'Transformer/posembed_input'),
  ),
  (
    'token',
    {'pool': 'register'},
    ('input of the head', 'the first register'),
    ('Transformer/encoder_norm', 'pre_logits'),
  ),
  (
    'token',
    {'pool': 'registers too'},
    ('input of the head', 'the mean over registers and patches'),
    ('Transformer/encoder_norm', 'pre_logits'),
  ),
  (
    'gap',
    {'pool': 'registers too'},
    ('input of the head', 'registers counted as patches in the mean'),
    ('Transformer/encoder_norm', 'pre_logits'),
  ),
  (
    'gap',
    {'pool': 'all'},
    ('input of the head', 'all tokens in the mean, the class token too'),
    ('Transformer/encoder_norm', 'pre_logits'),
  ),
  (
    'gap',
    {'pool': 'token'},
    ('input of the head', 'the class token'),
    ('Transformer/encoder_norm', 'pre_logits'),
  ),
  (
    'gap',
    {'fc_norm': True},
    ('last LayerNorm', 'after the mean'),
    (BLOCK, 'pre_logits'),
  ),
  (
    'fc_norm',
    {'fc_norm': False},
    ('last LayerNorm', 'before the mean'),
    (BLOCK, 'pre_logits'),
  ),
  (
    'fc_norm',
    {'pool': 'registers too'},
    ('input of the head', 'registers counted as patches in the mean'),
    (BLOCK, 'fc_norm'),
  ),
  (
    'token_and_gap',
    {'pool': 'gap and token'},
    ('input of the head', 'the mean first, then the class token'),
    ('Transformer/encoder_norm', 'pre_logits'),
  ),
  (
    'token_and_gap',
    {'pool': 'token and registers too'},
    ('input of the head', 'registers counted as patches in the mean'),
    ('Transformer/encoder_norm', 'pre_logits'),
  ),
  (
    'token_and_gap',
    {'pool': 'token and all'},
    ('input of the head', 'all tokens in the mean, the class token too'),
    ('Transformer/encoder_norm', 'pre_logits'),
  ),
  (
    'token_and_gap',
    {'pool': 'token and nothing'},
    ('input of the head', 'the class token alone'),
    ('Transformer/encoder_norm', 'pre_logits'),
  ),
]


@pytest.fixture(scope='module')
def settings():
  """Returns {kind: model, parameters, images, examiner}."""
  images = activations.random_images(SIZE)
  found = {}
  for kind, fields in KINDS.items():
    model = models.create(VIT, **fields)
    params = weights.trees.nest(
      {
        name: reference.parameter(7, name, leaf.shape)
        for name, leaf in parameter_shapes(model, SIZE).items()
      }
    )
    examiner = diagnosis.Examiner(model, params, images)
    found[kind] = types.SimpleNamespace(
      model=model, params=params, images=images, examiner=examiner
    )
  return found


def examined(setting, **planted):
  """Returns the diagnosis of a port, and the observation of it."""
  import plain_registers
  import torch

  fields = {'pool': setting.model.classifier, 'fc_norm': setting.model.fc_norm}
  module = plain_registers.vit(
    setting.params, setting.model.num_heads, **(fields | planted)
  )
  examiner = setting.examiner
  shapes = {name: a.shape for name, a in examiner.reference.items()}
  observed = torch_models.observe(
    torch_models.Port('plain', module.eval()),
    setting.images,
    examiner.reference,
    form=torch_layers.Form.of(setting.model, shapes),
  )
  blocks = torch_layers.block_paths(observed.places)
  constants = torch_facts.constants(torch, observed.calls, blocks)
  known = causes.known(setting.model, setting.params, constants=constants)
  read_off = causes.read_off(known, constants)
  return examiner.diagnose(observed.outputs, known, read_off), observed


@pytest.mark.parametrize('kind', KINDS)
def test_diagnose_compares_factors_and_norms_of_a_plain_port(settings, kind):
  setting = settings[kind]
  found, observed = examined(setting)
  assert found.agrees and not found.named and not found.not_compared
  assert [layer.name for layer in found.layers] == [*setting.examiner.reference]
  places = {name: str(where) for name, where in observed.places.items()}
  assert places[f'{BLOCK}/LayerScale_0'] == 'tower.0.gain_a'
  assert places[f'{BLOCK}/LayerScale_1'] == 'tower.0.gain_b'
  norm = 'fc_norm' if kind == 'fc_norm' else 'Transformer/encoder_norm'
  assert places[norm] == 'ln_end'


@pytest.mark.parametrize(
  ('kind', 'planted', 'cause', 'where'),
  PLANTED,
  ids=[f'{case[0]}-{case[1]}' for case in PLANTED],
)
def test_diagnose_names_a_planted_cause(settings, kind, planted, cause, where):
  found, _ = examined(settings[kind], **planted)
  assert not found.agrees and found.explained
  assert [named.topic for named in found.named] == [cause[0]]
  assert found.named[0].port.startswith(cause[1])
  gap = conclusions.gap(found.layers, found.order)
  assert (gap.after, gap.at.name) == where
  assert not found.alternatives


@pytest.mark.parametrize('kind', ['token', 'gap'])
def test_diagnose_agrees_with_registers_at_a_place_that_does_not_matter(
  settings, kind
):
  """The order of tokens after positions were added changes no logits."""
  setting = settings['token' if kind == 'token' else 'gap']
  planted = {'registers': 'last' if kind == 'token' else 'first'}
  found, _ = examined(setting, **planted)
  assert found.agrees and not found.named
  assert np.all([layer.within for layer in found.layers])
