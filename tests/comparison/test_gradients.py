"""Gradients of a loss: the reference's, and a port's against them."""

import types

import jax
import numpy as np
import optax
import pytest
import tiny_models

from vit_jax_repro import models
from vit_jax_repro.comparison import (
  activations,
  differences,
  gradients,
  torch_gradients,
  torch_layers,
  torch_models,
)
from vit_jax_repro.weights import trees

SIZE = (8, 8)


@pytest.fixture(scope='module')
def setting():
  """Returns a tiny model with its activations and gradients."""
  spec = tiny_models.spec(3)
  model, params = models.create(spec), tiny_models.params_of(spec)
  images = activations.random_images(SIZE)
  variant = activations.Variant(model, params, images)
  outputs = activations.run_variant(variant)
  shapes = {name: array.shape for name, array in outputs.items()}
  return types.SimpleNamespace(
    model=model, params=params, images=images, variant=variant, shapes=shapes,
    ours=gradients.of_reference(variant, shapes, 'float32'), outputs=outputs,
  )  # fmt: skip


def compared(setting, module, library=None, dtype='float32'):
  """Returns the comparison of a port's gradients."""
  port = torch_models.Port('port', module.eval())
  form = torch_layers.Form.of(setting.model, setting.shapes)
  observed = torch_models.observe(
    port, setting.images, setting.shapes, form=form, dtype=dtype
  )
  by_name, by_parameter = torch_gradients.of_port(
    port, setting.images, observed.places, dtype=dtype
  )
  return gradients.compare(
    setting.variant,
    by_name,
    torch_gradients.canonical(port, by_parameter, library, 2),
    [name for name, value in by_parameter.items() if value is None],
    setting.shapes,
    dtype,
  )


def plain(setting, **planted):
  import plain_vit

  return plain_vit.vit(setting.params, setting.model.num_heads, **planted)


def test_of_reference_gives_the_gradients_of_the_loss(setting):
  by_name, by_parameter = setting.ours
  wanted = np.arange(3) % 3

  def loss(params):
    logits = setting.model.apply({'params': params}, setting.images)
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, wanted
    ).mean()

  with jax.default_matmul_precision('highest'):
    expected = trees.flatten(jax.jit(jax.grad(loss))(setting.params))
  assert by_parameter.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(by_parameter[name], value, atol=1e-6)
  # By the logits: the probabilities minus the labels, over the images.
  logits = setting.outputs['logits'].astype(np.float64)
  probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  np.testing.assert_allclose(
    by_name['logits'], (probabilities - np.eye(3)[wanted]) / 3, atol=1e-6
  )
  # By an activation: the bias of a layer is added to it.
  for name, bias in (
    ('embedding', 'embedding/bias'),
    ('Transformer/encoder_norm', 'Transformer/encoder_norm/bias'),
    (
      'Transformer/encoderblock_0/MlpBlock_0',
      'Transformer/encoderblock_0/MlpBlock_0/Dense_1/bias',
    ),
  ):
    total = by_name[name].sum(axis=tuple(range(by_name[name].ndim - 1)))
    np.testing.assert_allclose(total, expected[bias], atol=1e-6)
  positions = by_name['Transformer/posembed_input'].sum(0)
  name = 'Transformer/posembed_input/pos_embedding'
  np.testing.assert_allclose(positions, expected[name][0], atol=1e-6)
  assert list(by_name)[:2] == ['logits', 'pre_logits']
  assert list(by_name)[-1] == 'embedding'
  assert by_name.keys() == setting.shapes.keys()


@pytest.mark.parametrize('dtype', activations.DTYPES)
def test_gradients_of_a_faithful_port_agree(setting, dtype):
  found = compared(setting, plain(setting), dtype=dtype)
  assert found.agrees and not found.parameters
  assert len(found.layers) == len(setting.shapes)


def test_gradients_show_where_a_port_cuts_them_off(setting):
  """Outputs agree, but the port would not train its patches."""
  found = compared(setting, plain(setting, frozen=True))
  first = differences.first_outside(found.layers)
  assert not found.agrees and first is not None
  assert first.name == 'embedding'
  assert set(found.without) == {'to_patches.weight', 'to_patches.bias'}


def test_gradients_show_a_parameter_that_is_not_trained(setting):
  module = plain(setting)
  module.places.requires_grad_(False)
  found = compared(setting, module)
  assert differences.first_outside(found.layers) is None
  assert found.without == ('places',) and not found.agrees


def test_gradients_by_parameters_of_known_names(setting):
  """The conversion of names is linear, so it converts gradients exactly."""
  import torch
  import torch_ports
  import transformers

  config = transformers.ViTConfig(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    hidden_act='gelu_pytorch_tanh',
    layer_norm_eps=1e-6,
    image_size=8,
    patch_size=4,
    num_labels=3,
  )
  module = transformers.ViTForImageClassification(config)
  torch_ports.fill(module, setting.params)
  found = compared(setting, module, 'transformers')
  assert found.agrees
  assert len(found.parameters) == len(trees.flatten(setting.params))

  class Halved(torch.autograd.Function):  # a wrong backward pass
    @staticmethod
    def forward(ctx, x):
      del ctx
      return x.clone()

    @staticmethod
    def backward(ctx, *gradients):
      del ctx
      return gradients[0] / 2

  layer = module.vit.layers[1].mlp.fc1
  layer.register_forward_hook(lambda m, x, y: Halved.apply(y))
  found = compared(setting, module, 'transformers')
  first = differences.first_outside(found.layers)
  assert first is not None
  assert first.name == 'Transformer/encoderblock_1/LayerNorm_1'
  assert {layer.name for layer in found.parameters if not layer.within} > {
    'Transformer/encoderblock_1/MlpBlock_0/Dense_0/kernel',
    'Transformer/encoderblock_1/MlpBlock_0/Dense_0/bias',
  }
  assert found.parameters[0].excess == max(
    layer.excess for layer in found.parameters
  )


def test_gradients_need_parameters_that_require_them(setting):
  module = plain(setting).requires_grad_(False)
  with pytest.raises(ValueError, match='leave out --gradients') as error:
    compared(setting, module)
  assert '\n' not in str(error.value)
