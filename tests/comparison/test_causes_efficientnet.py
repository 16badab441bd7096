"""Faults planted in timm's EfficientNet, and the causes that are named."""

import functools

import efficientnets
import pytest

from vit_jax_repro import models
from vit_jax_repro.comparison import (
  activations,
  causes,
  diagnosis,
  torch_architecture,
  torch_models,
)
from vit_jax_repro.errors import InputError

torch = pytest.importorskip('torch')

FIELDS = efficientnets.tiny()


@functools.cache
def examiner():
  params = efficientnets.params_of(FIELDS)
  images = activations.random_images((32, 33))
  return params, images, diagnosis.Examiner(
    models.create(FIELDS), params, images
  )  # fmt: skip


def examined(**planted):
  params, images, reference = examiner()
  module = efficientnets.in_timm(FIELDS, params, **planted)
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


def test_check_names_another_squeeze_ratio():
  other = efficientnets.tiny(squeeze_ratio=0.5)
  theirs = efficientnets.params_of(other)
  module = efficientnets.in_timm(other, theirs)
  with pytest.raises(InputError, match=r'0.5 of the channels in squeeze.*0.25'):
    torch_architecture.check(torch, 'port', module, theirs, examiner()[0])
