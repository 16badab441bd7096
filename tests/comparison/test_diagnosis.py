"""The diagnosis names each known cause that was planted in a port."""

import numpy as np
import pytest
import reference

from vit_jax_repro import models, weights
from vit_jax_repro.comparison import (
  activations,
  causes,
  diagnosis,
  torch_layers,
  torch_models,
)
from vit_jax_repro.models.patches import patch_grid
from vit_jax_repro.models.positions import RESIZINGS
from vit_jax_repro.weights import position_rules

# A LayerNorm of this case has inputs with variances of 1e-4, so that epsilons
# matter.
VIT = 'vit_token_small_variance'


def examined(
  model, params, images, module, *, resized=None, examiner=None, **options
):
  """Returns the diagnosis of a torch module, without what it reads off it."""
  examiner = examiner or diagnosis.Examiner(model, params, images, **options)
  port = torch_models.Port('planted', module)
  shapes = {name: a.shape for name, a in examiner.reference.items()}
  form = torch_layers.Form.of(model, shapes)
  outputs = torch_models.run(
    port, images, examiner.reference, form=form, **options
  )
  known = causes.known(model, params, resized)
  return examiner.diagnose(outputs, known)


@pytest.fixture(scope='module')
def vit(tmp_path_factory):
  """Returns (model, params, images) of the ViT case."""
  import torch_ports

  path = tmp_path_factory.mktemp('weights') / 'vit.npz'
  params = torch_ports.save(path, VIT)
  model = models.create(reference.config(VIT))
  return model, params, activations.random_images((32, 32))


@pytest.fixture(scope='module')
def bit():
  """Returns (model, params, images) of a BiT."""
  import torch_ports

  return *torch_ports.small_bit(), activations.random_images((32, 32))


@pytest.fixture(scope='module')
def vit_with(vit):
  """Returns a function from what is planted in the ViT to the diagnosis."""
  examiner = diagnosis.Examiner(*vit)
  return lambda **planted: examined(
    *vit, vit_port(vit[1], **planted), examiner=examiner
  )


@pytest.fixture(scope='module')
def bit_with(bit):
  """Returns a function from what is planted in BiT to the diagnosis."""
  examiner = diagnosis.Examiner(*bit)
  return lambda **planted: examined(
    *bit, bit_port(bit[1], **planted), examiner=examiner
  )


def vit_port(params, **planted):
  import torch_ports

  by_heads = planted.pop('by_heads', False)
  module = torch_ports.vit(params, VIT, **planted)
  return torch_ports.split_by_heads(module) if by_heads else module


def bit_port(params, **planted):
  import torch_ports

  return torch_ports.bit(params, **planted)


@pytest.mark.parametrize('dtype', activations.DTYPES)
def test_faithful_vit_agrees(vit, dtype):
  found = examined(*vit, vit_port(vit[1]), dtype=dtype)
  assert found.agrees and found.explained and not found.named
  blocks = [f'Transformer/encoderblock_{i}' for i in (0, 1)]
  ends = [e for e in activations.BLOCK_ENDS if 'LayerScale' not in e]
  assert [layer.name for layer in found.layers] == [
    'embedding',
    'Transformer/posembed_input',
    *(block + end for block in blocks for end in ends),
    'Transformer/encoder_norm',
    'pre_logits',
    'logits',
  ]
  assert found.layers[-1].relative < (1e-6 if dtype == 'float32' else 1e-12)


@pytest.mark.parametrize(
  ('planted', 'topic', 'port'),
  [
    ({'act': 'gelu'}, 'GELU form', 'erf'),
    ({'eps': 1e-12}, 'LayerNorm epsilon', '1e-12'),
    ({'eps': 1e-5}, 'LayerNorm epsilon', '1e-05'),
    ({'order': 'kqv'}, 'q/k/v order', 'key, query, value'),
    ({'order': 'vqk'}, 'q/k/v order', 'value, query, key'),
    ({'by_heads': True}, 'q/k/v order', 'the fused projection split'),
  ],
)
def test_diagnose_names_a_cause_planted_in_a_vit(
  vit_with, planted, topic, port
):
  found = vit_with(**planted)
  assert not found.agrees and found.explained
  assert len(found.named) == 1 and not found.alternatives
  assert found.named[0].topic == topic
  assert found.named[0].port.startswith(port)
  first = next(layer for layer in found.layers if not layer.within)
  assert first.name.startswith('Transformer/encoderblock_0/')


def test_faithful_bit_agrees(bit_with):
  assert bit_with().agrees


@pytest.mark.parametrize(
  ('planted', 'topic', 'port'),
  [
    ({'conv_eps': 1e-8}, 'weight standardisation', 'w / sqrt(var + 1e-08)'),
    ({'norm_eps': 1e-6}, 'GroupNorm epsilon', '1e-06'),
    ({'pool': 'symmetric'}, 'pool padding', 'minus infinity, one pixel'),
  ],
)
def test_diagnose_names_a_cause_planted_in_bit(bit_with, planted, topic, port):
  found = bit_with(**planted)
  assert not found.agrees and found.explained
  assert [cause.topic for cause in found.named] == [topic]
  assert found.named[0].port.startswith(port)


def test_diagnose_names_causes_planted_in_a_distilled_deit():
  import torch_ports
  import transformers

  case = 'deit_distilled_tiny'
  params = torch_ports.deit_params(case)
  model = models.create(reference.config(case))
  fields = torch_ports.vit_config(case, eps=1e-3).to_dict()
  del fields['model_type']
  module = transformers.DeiTForImageClassificationWithTeacher(
    transformers.DeiTConfig(**fields)
  )
  module = torch_ports.fill(module, params)
  images = activations.random_images(
    tuple(reference.config(case)['image_size'])
  )
  found = examined(model, params, images, module)
  assert found.explained and not found.agrees
  assert {cause.topic: cause.port for cause in found.named} == {
    'GELU form': 'tanh',
    'LayerNorm epsilon': '0.001',
  }


@pytest.mark.parametrize(
  'planted',
  [
    {'act': 'gelu', 'eps': 1e-12},  # transformers' defaults
    {'act': 'gelu', 'order': 'kqv'},
    {'act': 'gelu', 'order': 'vkq', 'eps': 1e-5},
  ],
)
def test_diagnose_names_several_causes(vit_with, planted):
  found = vit_with(**planted)
  assert found.explained and not found.agrees
  topics = {'act': 'GELU form', 'eps': 'LayerNorm epsilon'}
  topics['order'] = 'q/k/v order'
  assert {c.topic for c in found.named} == {topics[key] for key in planted}


def test_diagnose_names_several_causes_in_bit(bit_with):
  found = bit_with(conv_eps=1e-8, norm_eps=1e-6, pool='symmetric')
  assert found.explained and len(found.named) == 3


def test_indistinguishable_has_causes_below_the_noise():
  import torch_ports

  # With activations of common size, rounding hides LayerNorm's epsilon.
  case = 'vit_token'
  model = models.create(reference.config(case))
  params = weights.trees.nest(weights.trees.flatten(reference.canonical(case)))
  images = reference.images(case)[:1]
  module = torch_ports.vit(params, case, eps=1e-12)
  found = examined(model, params, images, module)
  assert found.agrees
  hidden = [str(cause) for cause in found.indistinguishable]
  assert 'LayerNorm epsilon: 1e-12, not 1e-06' in hidden
  assert not any('GELU' in cause for cause in hidden)
  # float64 shows it.
  found = examined(model, params, images, module, dtype='float64')
  assert [cause.port for cause in found.named] == ['1e-12']
  assert not found.indistinguishable


def test_diagnose_names_a_missing_pre_logits(vit):
  import torch_ports

  model, params, images = vit
  generator = np.random.default_rng(0)
  kernel = generator.standard_normal((48, 48)) / 7
  params = params | {
    'pre_logits': {
      'kernel': kernel.astype(np.float32),
      'bias': np.zeros(48, np.float32),
    }
  }
  model = model.clone(representation_size=48)
  module = torch_ports.vit(
    {k: v for k, v in params.items() if k != 'pre_logits'}, VIT
  )
  found = examined(model, params, images, module)
  assert [cause.topic for cause in found.named] == ['pre_logits']
  assert found.explained


@pytest.mark.parametrize('rule', [r for r in RESIZINGS if r != 'linear'])
def test_diagnose_names_the_rule_of_resized_positions(vit, rule):
  import torch_ports

  model, params, _ = vit
  flat = weights.trees.flatten(params)
  embeddings = flat['Transformer/posembed_input/pos_embedding']
  grid = patch_grid(model, (16, 16))
  resized = causes.ResizedPositions(embeddings, (4, 4), grid, 1)
  flat['Transformer/posembed_input/pos_embedding'] = position_rules.resize(
    embeddings, grid, source_grid=(4, 4), num_tokens=1, rule=rule
  )
  module = torch_ports.vit(weights.trees.nest(flat), VIT, image_size=16)
  adapted = weights.adapt(params, model, image_size=(16, 16), head='keep')
  images = activations.random_images((16, 16))
  found = examined(model, adapted, images, module, resized=resized)
  assert [cause.port for cause in found.named] == [RESIZINGS[rule]]
  assert found.explained
  first = next(layer for layer in found.layers if not layer.within)
  assert first.name == 'Transformer/posembed_input'


def test_diagnose_names_nothing_for_an_unknown_cause(vit):
  module = vit_port(vit[1])
  module.vit.layernorm.weight.data *= 1.01
  found = examined(*vit, module)
  assert not found.agrees and not found.explained and not found.named
  first = next(layer for layer in found.layers if not layer.within)
  assert first.name == 'Transformer/encoder_norm'
