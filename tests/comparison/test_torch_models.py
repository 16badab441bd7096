"""Execution of ports: activations, logits, and errors of one line."""

import numpy as np
import pytest

from vit_jax_repro.comparison import torch_models, torch_sources
from vit_jax_repro.comparison.torch_layers import Form

PORT_FILE = """
import torch

class Net(torch.nn.Module):
  def __init__(self):
    super().__init__()
    self.patches = torch.nn.Conv2d(3, 8, 4, 4)
    self.body = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(3))
    self.out = torch.nn.Linear(8, 5)

  def forward(self, x):
    x = self.patches(x).flatten(2).transpose(1, 2)
    for layer in self.body:
      x = layer(x).relu_()
    return self.out(x.mean(1))

def make():
  torch.manual_seed(0)
  return Net()

def make_with_layers():
  return make(), {'layers': {'pre_logits': 'body.2', 'x': 'nowhere'}}

class Answering(torch.nn.Module):
  def __init__(self, answer):
    super().__init__()
    self.net, self.answer = make(), answer

  def forward(self, x):
    return self.answer(self.net(x))

def make_answering(answer):
  return lambda: Answering(answer)

make_mapping = make_answering(lambda x: {'logits': x, 'loss': None})
make_tuple = make_answering(lambda x: (x, 'state'))
make_nested = make_answering(lambda x: ({'logits': x},))
make_silent = make_answering(lambda x: {'features': x})
make_bfloat16 = make_answering(lambda x: x.bfloat16())

def raising(error):
  def fail(x):
    raise error
  return fail

make_asserting = make_answering(raising(AssertionError()))
make_key_error = make_answering(raising(KeyError('x')))
make_exiting = make_answering(raising(SystemExit(0)))
make_attribute_error = make_answering(raising(AttributeError('no shape')))

def read_badly(path):
  raise RuntimeError('no decoder\\nfor this')

def make_reading(preprocess):
  return lambda: (make(), {'preprocess': preprocess})

make_bad_reader = make_reading(read_badly)
make_text_reader = make_reading(lambda path: 'pixels')
make_grad_reader = make_reading(
  lambda path: torch.ones(3, 8, 8, dtype=torch.bfloat16, requires_grad=True)
)

def make_named():
  return make(), {'layers': {'Transformer/encoder_norm': 'out'}}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
  (tmp_path / 'my_ports.py').write_text(PORT_FILE)
  monkeypatch.syspath_prepend(tmp_path)
  return tmp_path


def make(name, **options):
  return torch_sources.make(name, (8, 8), **options)


def test_run_recognises_parts_of_a_module_with_unknown_names(folder):
  port = make('module:my_ports.make')
  images = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
  found = torch_models.run(
    port,
    images.astype(np.float32),
    ('embedding', *(f'Transformer/encoderblock_{i}' for i in range(3))),
    form=Form(num_layers=3, hidden_size=8, patch_size=(4, 4)),
  )
  assert found['embedding'].shape == (2, 8, 2, 2)
  assert found['Transformer/encoderblock_2'].shape == (2, 4, 8)
  assert found['logits'].shape == (2, 5)
  # The next ReLU works in place, but the output of the layer is kept.
  assert found['Transformer/encoderblock_2'].min() < 0


def test_run_computes_in_float64(folder):
  port = make('module:my_ports.make')
  images = np.zeros((1, 8, 8, 3), np.float32)
  found = torch_models.run(port, images, (), dtype='float64')
  assert found['logits'].dtype == np.float64


def test_run_uses_the_layers_named_by_the_port(folder):
  port = make('module:my_ports.make_named')
  found = torch_models.run(port, np.zeros((1, 8, 8, 3), np.float32), ())
  assert found['Transformer/encoder_norm'].shape == (1, 5)


def test_run_rejects_missing_layers(folder):
  port = make('module:my_ports.make_with_layers')
  with pytest.raises(ValueError, match='has no modules nowhere'):
    torch_models.run(port, np.zeros((1, 8, 8, 3), np.float32), ())


def test_run_names_the_image_size_if_the_port_fails(folder):
  port = make('module:my_ports.make')
  with pytest.raises(ValueError, match=r'fails on images of \(2, 2\)'):
    torch_models.run(port, np.zeros((1, 2, 2, 3), np.float32), ())


IMAGES = np.zeros((1, 8, 8, 3), np.float32)


@pytest.mark.parametrize('name', ['mapping', 'tuple', 'nested', 'bfloat16'])
def test_run_finds_logits_in_the_output(folder, name):
  expected = torch_models.run(make('module:my_ports.make'), IMAGES, ())
  found = torch_models.run(make(f'module:my_ports.make_{name}'), IMAGES, ())
  np.testing.assert_allclose(found['logits'], expected['logits'], atol=1e-2)
  assert found['logits'].dtype == np.float32


def test_run_accepts_a_model_without_logits(folder):
  assert not torch_models.run(make('module:my_ports.make_silent'), IMAGES, ())


@pytest.mark.parametrize(
  ('name', 'text'),
  [
    ('asserting', r'\(AssertionError, at .*my_ports.py:\d+\); see --image'),
    ('key_error', r"\(KeyError: 'x', at .*my_ports.py:\d+\); see --image"),
    ('attribute_error', r'\(AttributeError: no shape, at .*my_ports.py:\d+\)'),
  ],
)
def test_run_turns_exceptions_into_one_line(folder, name, text):
  with pytest.raises(ValueError, match=text) as error:
    torch_models.run(make(f'module:my_ports.make_{name}'), IMAGES, ())
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('name', 'text'),
  [
    ('bad', r'fails on a.jpg \(RuntimeError: no decoder for this, at .*:\d+\)'),
    ('text', 'fails on a.jpg .*; it must take a path and return'),
  ],
)
def test_preprocessed_turns_exceptions_into_one_line(folder, name, text):
  port = make(f'module:my_ports.make_{name}_reader')
  with pytest.raises(ValueError, match=text) as error:
    torch_models.preprocessed(port, 'a.jpg')
  assert '\n' not in str(error.value)


def test_preprocessed_accepts_any_tensor(folder):
  port = make('module:my_ports.make_grad_reader')
  image = torch_models.preprocessed(port, 'a.jpg')
  assert image.dtype == np.float32 and image.shape == (3, 8, 8)
