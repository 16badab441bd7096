"""Faults planted in a plain PyTorch ViT: the right cause, or the right place.

All cases share one reference, so its operations are compiled once.
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
  differences,
  torch_facts,
  torch_layers,
  torch_models,
)
from vit_jax_repro.weights.adapt import parameter_shapes

SIZE = (16, 24)
NAMES = {
  'images': None,
  'embedding': 'embedding',
  'positions': 'Transformer/posembed_input',
  'last norm': 'Transformer/encoder_norm',
  'head': 'pre_logits',
  'logits': 'logits',
}
NAMES |= {
  f'{short} {i}': f'Transformer/encoderblock_{i}{part}'
  for i in (0, 1)
  for short, part in {
    'norm a': '/LayerNorm_0',
    'attention': '/MultiHeadDotProductAttention_0',
    'norm b': '/LayerNorm_1',
    'mlp': '/MlpBlock_0',
    'block': '',
  }.items()
}

# Settings of the port; topic and port's value of each cause, the main ones
# first; the last activation that agrees, and the first that differs.
KNOWN = [
  (
    {'scale': 'width'},
    {'scale of the softmax': 'D**-0.5'},
    ('norm a 0', 'attention 0'),
  ),
  ({'norms': 'post'}, {'LayerNorms': 'after'}, ('positions', 'norm a 0')),
  (
    {'columns': True},
    {'order of the patches': 'column by column'},
    ('embedding', 'positions'),
  ),
  ({'final_norm': False}, {'last LayerNorm': 'left out'}, ('block 1', 'head')),
  ({'token': 'last'}, {'class token': 'last'}, ('embedding', 'positions')),
  (
    {'positions': 'patches'},
    {'position embeddings': 'none for the class token'},
    ('embedding', 'positions'),
  ),
  (
    {'transposed': True},
    {'height and width': 'exchanged in the image'},
    ('images', 'positions'),
  ),
  ({'bgr': True}, {'channel order': 'blue'}, ('images', 'embedding')),
  ({'head_bias': False}, {'head': 'without bias'}, ('head', 'logits')),
  ({'heads': 6}, {'number of heads': '6'}, ('norm a 0', 'attention 0')),
  ({'act': 'relu'}, {'activation': 'ReLU'}, ('norm b 0', 'mlp 0')),
  (
    {'pool': 'mean'},
    {'input of the head': 'the mean over all tokens'},
    ('last norm', 'head'),
  ),
  ({'act': 'erf'}, {'GELU form': 'erf'}, ('norm b 0', 'mlp 0')),
  ({'eps': 1e-12}, {'LayerNorm epsilon': '1e-12'}, None),
  # Further known causes.
  ({'act': 'silu'}, {'activation': 'SiLU'}, ('norm b 0', 'mlp 0')),
  (
    {'normalizes': True},
    {'scale of the images': 'scaled from [0, 1]'},
    ('images', 'embedding'),
  ),
  (
    {'pool': 'patch 1'},
    {'input of the head': 'the first patch'},
    ('last norm', 'head'),
  ),
  # Two faults at once, and three.
  (
    {'scale': 'width', 'act': 'erf'},
    {'scale of the softmax': 'D**-0.5', 'GELU form': 'erf'},
    ('norm a 0', 'attention 0'),
  ),
  (
    # The defaults of a layer of PyTorch itself.
    {'norms': 'post', 'act': 'relu', 'eps': 1e-5},
    {
      'LayerNorms': 'after',
      'activation': 'ReLU',
      'LayerNorm epsilon': '1e-05',
    },
    ('positions', 'norm a 0'),
  ),
  (
    {'norms': 'post', 'heads': 6},
    {'LayerNorms': 'after', 'number of heads': '6'},
    ('positions', 'norm a 0'),
  ),
  (
    {'norms': 'post', 'final_norm': False},
    {'LayerNorms': 'after', 'last LayerNorm': 'left out'},
    ('positions', 'norm a 0'),
  ),
  (
    {'columns': True, 'heads': 6},
    {'order of the patches': 'column by column', 'number of heads': '6'},
    ('embedding', 'positions'),
  ),
  (
    {'bgr': True, 'act': 'relu', 'head_bias': False},
    {'channel order': 'blue', 'activation': 'ReLU', 'head': 'without bias'},
    ('images', 'embedding'),
  ),
]
# Faults that are not among the causes.
UNKNOWN = [
  ({'no_residual': 1}, ('attention 1', 'norm b 1')),
  ({'twice': 0}, ('block 0', 'norm a 1')),
  ({'skipped': 1}, ('block 0', 'last norm')),
  ({'no_affine': 1}, ('block 0', 'norm a 1')),
  ({'no_qkv_bias': True}, ('norm a 0', 'attention 0')),
  ({'sigmoid': True}, ('norm a 0', 'attention 0')),
  ({'rolled': True}, ('head', 'logits')),
  ({'no_positions': True}, ('embedding', 'positions')),
  ({'clamped': 0.5}, ('attention 0', 'norm b 0')),
  ({'pool': 'patch 2'}, ('last norm', 'head')),
  # Blocks whose outputs are not the reference's, though nothing is wrong there.
  ({'adds_outside': True, 'no_residual': 1}, ('attention 1', 'norm b 1')),
  ({'adds_outside': True, 'rolled': True}, ('head', 'logits')),
  # A known one together with an unknown one.
  ({'heads': 6, 'sigmoid': True}, ('norm a 0', 'attention 0')),
]


@pytest.fixture(scope='module')
def setting():
  """Returns the reference of all cases: model, parameters, examiner."""
  model = models.create(
    dict(
      model='vit',
      num_classes=10,
      patch_size=(4, 4),
      hidden_size=48,
      num_layers=2,
      num_heads=3,
      mlp_dim=96,
    )
  )
  params = weights.trees.nest(
    {
      name: reference.parameter(7, name, leaf.shape)
      for name, leaf in parameter_shapes(model, SIZE).items()
    }
  )
  images = activations.random_images(SIZE)
  examiner = diagnosis.Examiner(model, params, images)
  return types.SimpleNamespace(
    model=model, params=params, images=images, examiner=examiner
  )


def observe(setting, module):
  activations_ = setting.examiner.reference
  shapes = {name: a.shape for name, a in activations_.items()}
  return torch_models.observe(
    torch_models.Port('plain', module.eval()),
    setting.images,
    activations_,
    form=torch_layers.Form.of(setting.model, shapes),
  )


def examined(setting, module):
  """Returns the diagnosis of a port, and the observation of it."""
  import torch

  examiner, observed = setting.examiner, observe(setting, module)
  blocks = torch_layers.block_paths(observed.places)
  constants = torch_facts.constants(torch, observed.calls, blocks)
  known = causes.known(setting.model, setting.params, constants=constants)
  read_off = causes.read_off(known, constants)
  return examiner.diagnose(observed.outputs, known, read_off), observed


def port(setting, **planted):
  import plain_vit

  return plain_vit.vit(setting.params, setting.model.num_heads, **planted)


def place(found):
  gap = conclusions.gap(found.layers, found.order)
  return gap.after, gap.at.name


def test_diagnose_compares_the_parts_of_a_plain_port(setting):
  found, observed = examined(setting, port(setting))
  assert found.agrees and not found.named and not found.not_compared
  assert [layer.name for layer in found.layers] == [*setting.examiner.reference]
  places = {name: str(where) for name, where in observed.places.items()}
  assert places == {
    'embedding': 'to_patches',
    NAMES['positions']: 'input of tower.0',
    **{
      NAMES[f'{name} {i}']: f'tower.{i}{path}'
      for i in (0, 1)
      for name, path in {
        'norm a': '.ln_a',
        'attention': '.mix.to_out',
        'norm b': '.ln_b',
        'mlp': '.ffn.down',
        'block': '',
      }.items()
    },
    NAMES['last norm']: 'ln_end',
    'pre_logits': 'input of classify',
  }


@pytest.mark.parametrize(
  ('planted', 'named', 'where'), KNOWN, ids=[str(case[0]) for case in KNOWN]
)
def test_diagnose_names_a_planted_cause(setting, planted, named, where):
  found, _ = examined(setting, port(setting, **planted))
  assert not found.agrees and found.explained and not found.alternatives
  assert {c.topic for c in found.named} == named.keys()
  for cause in found.named:
    assert cause.port.startswith(named[cause.topic])
  if where is not None:
    assert place(found) == tuple(NAMES[name] for name in where)


@pytest.mark.parametrize(
  ('planted', 'where'), UNKNOWN, ids=[str(case[0]) for case in UNKNOWN]
)
def test_diagnose_never_names_a_wrong_cause(setting, planted, where):
  found, _ = examined(setting, port(setting, **planted))
  assert not found.agrees and not found.explained
  assert not found.named and not found.alternatives
  assert place(found) == tuple(NAMES[name] for name in where)


@pytest.mark.parametrize('planted', [{'pool': 'patch 1'}, {'columns': True}])
def test_diagnose_lists_causes_that_logits_do_not_distinguish(setting, planted):
  """With nothing but logits, two causes may have the same effect."""
  outputs = observe(setting, port(setting, **planted)).outputs
  known = [
    cause
    for cause in causes.known(setting.model, setting.params)
    if cause.topic
    in ('input of the head', 'class token', 'order of the patches')
    or 'grid' in cause.port
  ]
  found = setting.examiner.diagnose({'logits': outputs['logits']}, known)
  assert found.explained
  others = [cause for causes_ in found.alternatives for cause in causes_]
  assert [f'{c.topic}: {c.port}' for c in (*found.named, *others)] == {
    'pool': [
      'input of the head: the first patch',
      'class token: last, with its own position; the head reads the first '
      'patch',
    ],
    'columns': [
      'order of the patches: column by column',
      'height and width: exchanged in the grid of positions',
    ],
  }[next(iter(planted))]


@pytest.mark.parametrize(
  ('array', 'where'),
  [
    ('tower.1.mix.to_out.weight', ('norm a 1', 'attention 1')),
    ('tower.0.ffn.up.weight', ('norm b 0', 'mlp 0')),
    ('ln_end.weight', ('block 1', 'last norm')),
    ('places', ('embedding', 'positions')),
  ],
)
def test_diagnose_locates_weights_that_are_slightly_off(setting, array, where):
  module = port(setting)
  module.get_parameter(array).data *= 1.001
  found, _ = examined(setting, module)
  assert not found.agrees and not found.named
  assert place(found) == tuple(NAMES[name] for name in where)


def test_diagnose_states_a_cause_of_a_part_and_what_remains(setting):
  """A great gain is stated as a part: the rest must not be hidden."""
  module = port(setting, normalizes=True)
  module.classify.bias.data *= 1.0005
  found, _ = examined(setting, module)
  assert not found.explained and not found.alternatives
  assert [cause.topic for cause in found.named] == ['scale of the images']
  before, after = map(differences.worst, (found.layers, found.remaining))
  assert before > diagnosis.GREAT_GAIN * after > 0
  left = differences.first_outside(found.remaining)
  assert left is not None and left.name == 'logits'


def test_diagnose_leaves_out_a_cause_that_is_not_needed(setting):
  """A constant that is read off is no cause if all agrees without it."""
  module = port(setting, head_bias=False)
  for part in module.modules():
    if hasattr(part, 'eps'):
      part.eps = 1.0000001e-6
  found, _ = examined(setting, module)
  assert found.explained
  assert [cause.topic for cause in found.named] == ['head']


def test_observe_finds_a_random_port(setting):
  assert observe(setting, port(setting)).spread == 0
  found = observe(setting, port(setting, dropout=0.1))
  assert found.spread > setting.examiner.tolerances['logits']


def test_diagnose_agrees_with_a_port_that_divides_blocks_otherwise(setting):
  """Blocks that return what is added are no fault: later layers agree."""
  found, _ = examined(setting, port(setting, adds_outside=True))
  assert found.agrees
  left_out = {NAMES['block 0'], NAMES['block 1']}
  assert dict(found.not_compared).keys() == left_out


@pytest.mark.parametrize('name', ['block 0', 'positions'])
def test_diagnose_does_not_excuse_a_factor_that_a_norm_hides(setting, name):
  """A LayerNorm that agrees does not prove that its input does."""
  outputs = dict(setting.examiner.reference)
  names = [*outputs]
  later = names[names.index(NAMES[name]) :]
  for other in (n for n in later if not n.endswith('/LayerNorm_0')):
    outputs[other] = 2 * outputs[other]
  found = setting.examiner.diagnose(outputs, ())
  assert not found.agrees
  assert conclusions.gap(found.layers, found.order).at.name == NAMES[name]


def test_diagnose_takes_equal_logits_of_a_head_of_zeros_for_no_proof(setting):
  """Logits that depend on nothing must not excuse other layers."""
  params = weights.trees.flatten(setting.params)
  params['head/kernel'] = np.zeros_like(params['head/kernel'])
  examiner = diagnosis.Examiner(
    setting.model, weights.trees.nest(params), setting.images
  )
  outputs = {
    name: a if name == 'logits' else np.roll(a, 1, axis=-1)
    for name, a in examiner.reference.items()
  }
  found = examiner.diagnose(outputs, ())
  assert not found.agrees
  assert conclusions.gap(found.layers, found.order).at.name == 'embedding'


@pytest.mark.parametrize('number', [4, 0])
def test_observe_runs_a_port_that_draws_random_numbers_more_often(
  setting, number
):
  """A block that is dropped at random may be kept in the first passes."""
  import torch

  passes = []

  def rarely(module, args, logits):
    passes.append(torch.rand(1))
    return logits + 1 if len(passes) == number else logits

  module = port(setting)
  module.register_forward_hook(rarely)
  found = observe(setting, module)
  assert found.draws and len(passes) == 10
  assert found.spread == pytest.approx(1 if number else 0, abs=1e-5)
  assert not observe(setting, port(setting)).draws


def test_unlike_part_of_a_block_that_agrees_is_left_out(setting):
  """A part that was recognised wrongly must not make a port differ."""
  reference_ = setting.examiner.reference
  name = NAMES['attention 1']
  wrong = {**reference_, name: np.roll(reference_[name], 1, axis=-1)}
  found = setting.examiner.diagnose(wrong, ())
  assert found.agrees and dict(found.not_compared).keys() == {name}
  # A small difference is one, although the block agrees.
  wrong[name] = reference_[name] * np.float32(1.001)
  assert not setting.examiner.diagnose(wrong, ()).agrees
