"""Faults planted in timm's EfficientNet, and the causes that are named."""

import functools

import efficientnets
import pytest

from vit_jax_repro import models
from vit_jax_repro.comparison import (
  activations,
  causes,
  diagnosis,
  gradients,
  torch_architecture,
  torch_facts,
  torch_gradients,
  torch_layers,
  torch_models,
)
from vit_jax_repro.errors import InputError
from vit_jax_repro.weights import trees

torch = pytest.importorskip('torch')

FIELDS = efficientnets.tiny()


@functools.cache
def examiner():
  params = efficientnets.params_of(FIELDS)
  images = activations.random_images((32, 33))
  return params, images, diagnosis.Examiner(
    models.create(FIELDS), params, images
  )  # fmt: skip


def examined(around=lambda images: images, **planted):
  params, images, reference = examiner()
  module = efficientnets.in_timm(FIELDS, params, **planted)
  module.register_forward_pre_hook(lambda _, images: (around(*images),))
  port = torch_models.Port('port', module)
  outputs = torch_models.run(port, images, reference.reference)
  return reference.diagnose(
    outputs, causes.known(models.create(FIELDS), params)
  )


def test_faithful_port_agrees_at_every_unit():
  found = examined()
  assert found.agrees and not found.named
  assert [layer.name for layer in found.layers] == [
    'stem',
    'block1/unit01',
    'block2/unit01',
    'block2/unit02',
    'top',
    'pre_logits',
    'logits',
  ]


@pytest.mark.parametrize(
  ('planted', 'topic', 'port'),
  [
    ({'pad_type': ''}, 'padding of the convolutions', '(k - 1) / 2'),
    (
      {'norm_layer': functools.partial(torch.nn.BatchNorm2d, eps=1e-5)},
      'batch norm epsilon',
      '1e-05',
    ),
    ({'act_layer': torch.nn.ReLU}, 'activation', 'relu'),
  ],
)
def test_diagnose_names_a_cause_planted_in_efficientnet(planted, topic, port):
  found = examined(**planted)
  assert not found.agrees and found.explained
  assert [cause.topic for cause in found.named] == [topic]
  assert found.named[0].port.startswith(port)
  assert not found.alternatives


def test_diagnose_names_images_that_are_scaled_otherwise():
  mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
  std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
  found = examined(lambda images: 2 * (images * std + mean) - 1)
  assert [str(cause) for cause in found.named] == [
    "scale of the images: in [-1, 1], not with ImageNet's mean and deviation"
  ]


def test_epsilon_of_the_port_is_read_off_its_modules():
  params, images, reference = examiner()
  norm = functools.partial(torch.nn.BatchNorm2d, eps=2e-3)
  module = efficientnets.in_timm(FIELDS, params, norm_layer=norm)
  port = torch_models.Port('port', module)
  observed = torch_models.observe(port, images, ())
  constants = torch_facts.constants(torch, observed.calls, ())
  assert constants == {'batch_norm_eps': 2e-3}
  known = causes.known(models.create(FIELDS), params, constants=constants)
  read_off = causes.read_off(known, constants)
  outputs = torch_models.run(port, images, reference.reference)
  found = reference.diagnose(outputs, known, read_off)
  assert [str(cause) for cause in found.named] == [
    'batch norm epsilon: 0.002, not 0.001'
  ]


def test_gradients_of_a_port_have_no_statistics():
  """Frozen statistics are buffers in PyTorch and get no gradient there."""
  params, images, _ = examiner()
  model = models.create(FIELDS)
  variant = activations.Variant(model, params, images)
  outputs = activations.run_variant(variant)
  shapes = {name: array.shape for name, array in outputs.items()}
  port = torch_models.Port('port', efficientnets.in_timm(FIELDS, params))
  observed = torch_models.observe(
    port, images, shapes, form=torch_layers.Form.of(model, shapes)
  )
  by_name, by_parameter = torch_gradients.of_port(
    port, images, observed.places, dtype='float32'
  )
  found = gradients.compare(
    variant,
    by_name,
    torch_gradients.canonical(port, by_parameter, 'timm', None),
    [name for name, value in by_parameter.items() if value is None],
    shapes,
    'float32',
  )
  assert found.agrees
  flat = trees.flatten(params)
  assert {layer.name for layer in found.parameters} == {
    name for name in flat if name.rpartition('/')[2] not in ('mean', 'var')
  }


def test_check_names_another_squeeze_ratio():
  other = efficientnets.tiny(squeeze_ratio=0.5)
  theirs = efficientnets.params_of(other)
  module = efficientnets.in_timm(other, theirs)
  with pytest.raises(InputError, match=r'0.5 of the channels in squeeze.*0.25'):
    torch_architecture.check(torch, 'port', module, theirs, examiner()[0])
