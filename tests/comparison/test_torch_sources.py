"""Creation of ports from the value of --port."""

import json
import sys
import time

import pytest

from vit_jax_repro.comparison import torch_sources

PORT_FILE = """
import torch

def make():
  return torch.nn.Linear(1, 1)

def make_wrongly():
  return make(), {'layer': {}}

def make_nothing():
  return None

def make_failing():
  raise KeyError('weights')

def make_from(path):
  return make()

def make_pair():
  return make(), ['body.1']

def make_triple():
  return make(), {}, {}

def make_numbered():
  return make(), {'layers': {'logits': 3}}

def make_reader():
  return make(), {'preprocess': 'timm'}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
  (tmp_path / 'other_ports.py').write_text(PORT_FILE)
  (tmp_path / 'bad_syntax.py').write_text('x = 1\ndef make(:\n')
  (tmp_path / 'bad_import.py').write_text('import no_such_thing\n')
  monkeypatch.syspath_prepend(tmp_path)
  return tmp_path


def make(name, **options):
  return torch_sources.make(name, (8, 8), **options)


@pytest.mark.parametrize(
  ('name', 'text'),
  [
    ('onnx:model', "port 'onnx:model' must be transformers:ID, timm:NAME"),
    ('timm:', "port 'timm:' must be"),
    ('module:other_ports.absent', "no function 'other_ports.absent'"),
    ('module:other_ports.mak', "'other_ports.mak'; did you mean 'make'"),
    ('module:absent_ports.make', "'absent_ports.make' cannot be imported"),
    ('module:make', r"'make' cannot be imported \(ValueError: Empty"),
    ('module:bad_syntax.make', r'SyntaxError: .*bad_syntax.py:2\)'),
    ('module:bad_import.make', r'no_such_thing.*bad_import.py:1\)'),
    ('module:other_ports.make_nothing', 'returned NoneType; it must return'),
    ('module:other_ports.make_triple', 'returned tuple; it must return'),
    ('module:other_ports.make_wrongly', r"a mapping with \['layer'\]"),
    ('module:other_ports.make_pair', 'whose second is list; it must be'),
    ('module:other_ports.make_numbered', '`layers` of another kind'),
    ('module:other_ports.make_reader', 'that cannot be called'),
    (
      'module:other_ports.make_failing',
      r"make_failing fails \(KeyError: 'weights', at .*other_ports.py:14\)",
    ),
    ('module:other_ports.make_from', r'TypeError: .*without arguments'),
  ],
)
def test_make_rejects_a_wrong_port_in_one_line(folder, name, text):
  with pytest.raises(ValueError, match=text) as error:
    make(name)
  assert '\n' not in str(error.value)


def test_make_keeps_the_weights_of_a_function(folder):
  for name in ('module:other_ports.make', f'{folder}/other_ports.py:make'):
    with pytest.raises(ValueError, match='leave out --port_weights'):
      make(name, own_weights=False)


def test_make_reads_a_function_of_a_file(tmp_path, monkeypatch):
  """The file may be outside of sys.path, and import a file next to it."""
  monkeypatch.setattr(sys, 'path', [*sys.path])
  folder = tmp_path / 'my ports'
  folder.mkdir()
  (folder / 'file_port_part.py').write_text('WIDTH = 3\n')
  (folder / 'file_port.py').write_text(
    'import dataclasses\nimport torch\nfrom file_port_part import WIDTH\n'
    '@dataclasses.dataclass\nclass Width:\n  n: "int" = WIDTH\n'
    'def make():\n  return torch.nn.Linear(Width().n, 1)\n'
  )
  port = make(f'{folder}/file_port.py:make')
  assert port.module.in_features == 3 and not port.module.training
  assert port.name == f'{folder}/file_port.py:make'
  assert 'before, all 1 modules were in training mode' in port.modes


@pytest.mark.parametrize(
  ('name', 'text'),
  [
    ('absent.py:make', r"there is no file '.*absent.py'; give PATH/FILE.py"),
    ('other_ports.py:absent', r"no function '.*other_ports.py:absent'; "),
    ('bad_syntax.py:make', r'SyntaxError: .*bad_syntax.py:2\)'),
    ('bad_import.py:make', r'bad_import.py cannot be imported \(Mod.*no_such'),
    ('other_ports.py:make_failing', r"KeyError: 'weights', at .*ports.py:14"),
    ('other_ports.py:make_nothing', 'returned NoneType; it must return'),
    ('other_ports.py', "port '.*' must be transformers:ID"),
  ],
)
def test_make_rejects_a_wrong_file_in_one_line(folder, name, text):
  with pytest.raises(ValueError, match=text) as error:
    make(f'{folder}/{name}')
  assert '\n' not in str(error.value)


def test_check_rejects_a_missing_file_before_anything_is_loaded(tmp_path):
  """A slip in a path shows after PyTorch and the weights are loaded."""
  with pytest.raises(ValueError, match=r"there is no file '.*absent.py'"):
    torch_sources.check(f'{tmp_path}/absent.py:make')


def test_make_rejects_an_invalid_transformers_folder(tmp_path):
  with pytest.raises(ValueError, match='transformers cannot load') as error:
    make(f'transformers:{tmp_path}')
  assert '\n' not in str(error.value)
  with pytest.raises(ValueError, match='there is no such folder'):
    make(f'transformers:{tmp_path}/typo')


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """Returns a folder written by save_pretrained."""
  import transformers

  folder = tmp_path_factory.mktemp('saved')
  config = transformers.ViTConfig(
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=8,
    image_size=[8, 16],
    patch_size=4,
  )
  transformers.ViTForImageClassification(config).save_pretrained(folder)
  return folder


@pytest.mark.parametrize(
  ('size', 'resized'), [((8, 16), False), ((8, 8), True), ((16, 8), True)]
)
def test_make_compares_both_sides_of_the_image_size(saved, size, resized):
  port = torch_sources.make(f'transformers:{saved}', size)
  assert bool(port.keywords) == resized


@pytest.mark.parametrize('damage', ['truncated', 'other shapes'])
def test_make_rejects_a_damaged_folder_in_one_line(saved, damage, tmp_path):
  weights = (saved / 'model.safetensors').read_bytes()
  config = json.loads((saved / 'config.json').read_text())
  if damage == 'truncated':
    weights = weights[: len(weights) // 2]
  else:
    config['intermediate_size'] = 12
  (tmp_path / 'model.safetensors').write_bytes(weights)
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(ValueError, match='transformers cannot load') as error:
    make(f'transformers:{tmp_path}')
  assert '\n' not in str(error.value)


def test_make_knows_at_once_that_the_hub_is_unreachable(monkeypatch, capsys):
  """Fault: half a minute of retries, and no word of the missing network."""
  for name in ('HTTP_PROXY', 'http_proxy'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('HF_ENDPOINT', 'http://hub.invalid')
  started = time.monotonic()
  with pytest.raises(
    OSError, match=r'^ann/flowers: the cache of hugging'
  ) as at:
    make('transformers:ann/flowers')
  assert time.monotonic() - started < 20
  lines = [str(at.value), *capsys.readouterr().err.splitlines()]
  assert '(offline?)' in lines[1] and all(len(line) < 150 for line in lines)


def test_make_shows_the_error_of_timm(saved):
  import timm_stub

  timm_stub.import_timm()
  with pytest.raises(ValueError, match=r'timm cannot load .*KeyError'):
    make(f'timm:local-dir:{saved}')


def test_make_names_a_package_missing_for_timm(monkeypatch):
  import timm_stub

  timm_stub.import_timm()  # so that monkeypatch restores all of it
  for name in [n for n in sys.modules if n.partition('.')[0] == 'timm']:
    monkeypatch.delitem(sys.modules, name)
  monkeypatch.setitem(sys.modules, 'torchvision', None)
  with pytest.raises(ValueError, match='install the torchvision that belongs'):
    make('timm:vit_tiny_patch16_224')
