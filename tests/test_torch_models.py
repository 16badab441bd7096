import numpy as np
import pytest

from vit_jax_repro.comparison import torch_models

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

def make_named():
  return make(), {'layers': {'Transformer/encoder_norm': 'out'}}

def make_wrongly():
  return make(), {'layer': {}}

def make_nothing():
  return None
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
  (tmp_path / 'my_ports.py').write_text(PORT_FILE)
  monkeypatch.syspath_prepend(tmp_path)
  return tmp_path


def make(name, **options):
  return torch_models.make(name, (8, 8), **options)


def test_a_module_of_unknown_names_is_recognised_by_its_parts(folder):
  port = make('module:my_ports.make')
  images = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
  found = torch_models.run(
    port,
    images.astype(np.float32),
    ('embedding', *(f'Transformer/encoderblock_{i}' for i in range(3))),
    num_layers=3,
    patch_size=(4, 4),
  )
  assert found['embedding'].shape == (2, 8, 2, 2)
  assert found['Transformer/encoderblock_2'].shape == (2, 4, 8)
  assert found['logits'].shape == (2, 5)
  # The ReLU behind works in place; what is compared is the layer's output.
  assert found['Transformer/encoderblock_2'].min() < 0


def test_float64_is_computed_in_float64(folder):
  port = make('module:my_ports.make')
  images = np.zeros((1, 8, 8, 3), np.float32)
  found = torch_models.run(port, images, (), dtype='float64')
  assert found['logits'].dtype == np.float64


@pytest.mark.parametrize(
  ('name', 'text'),
  [
    ('onnx:model', "port 'onnx:model' must be transformers:ID, timm:NAME"),
    ('timm:', "port 'timm:' must be"),
    ('module:my_ports.absent', "no function 'my_ports.absent'"),
    ('module:absent_ports.make', "no function 'absent_ports.make'"),
    ('module:make', "no function 'make'"),
    ('module:my_ports.make_nothing', 'returned NoneType; it must return'),
    ('module:my_ports.make_wrongly', r"returned a mapping with \['layer'\]"),
  ],
)
def test_a_wrong_port_is_one_line(folder, name, text):
  with pytest.raises(ValueError, match=text) as error:
    make(name)
  assert '\n' not in str(error.value)


def test_a_folder_that_transformers_cannot_load(tmp_path):
  with pytest.raises(ValueError, match='transformers cannot load') as error:
    make(f'transformers:{tmp_path}')
  assert '\n' not in str(error.value)


def test_layers_that_the_port_names(folder):
  port = make('module:my_ports.make_named')
  found = torch_models.run(port, np.zeros((1, 8, 8, 3), np.float32), ())
  assert found['Transformer/encoder_norm'].shape == (1, 5)


def test_layers_that_are_not_there(folder):
  port = make('module:my_ports.make_with_layers')
  with pytest.raises(ValueError, match='has no modules nowhere'):
    torch_models.run(port, np.zeros((1, 8, 8, 3), np.float32), ())


def test_images_that_the_port_refuses(folder):
  port = make('module:my_ports.make')
  with pytest.raises(ValueError, match=r'fails on images of \(2, 2\)'):
    torch_models.run(port, np.zeros((1, 2, 2, 3), np.float32), ())


def test_the_weights_of_a_function_are_its_own(folder):
  with pytest.raises(ValueError, match='leave out --port_weights'):
    make('module:my_ports.make', own_weights=False)
