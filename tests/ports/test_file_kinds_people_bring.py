"""Files of many origins, written by the libraries that people use.

Each of `READ` is read to the arrays that were written, bit for bit; where a
library's module wrote them, the model that is read gives its logits. Each of
`NAMED` is refused in one line that names its kind. docs/convert.md lists them.
"""

import pathlib
import re

import efficientnets
import numpy as np
import port_cases
import pytest
import tiny_models

from vit_jax_repro import models, ports, weights
from vit_jax_repro.errors import InputError
from vit_jax_repro.ports import converting, file_kinds
from vit_jax_repro.published import weight_names
from vit_jax_repro.weights import layouts

torch = pytest.importorskip('torch')
torch_vits = pytest.importorskip('torch_vits')
files_that_are_read = pytest.importorskip('files_that_are_read')
files_that_are_named = pytest.importorskip('files_that_are_named')

pytestmark = pytest.mark.filterwarnings('ignore')  # torch.jit, flax.training
READ, NAMED = files_that_are_read.READ, files_that_are_named.NAMED
WIDTH, CLASSES = files_that_are_read.WIDTH, files_that_are_read.CLASSES


@pytest.mark.parametrize('name', READ)
def test_files_are_read_bit_for_bit(name, tmp_path):
  path, wanted, *_ = READ[name](tmp_path)
  port_cases.assert_same(weight_names.load(path).params, wanted)


@pytest.mark.parametrize(
  'name', [n for n in READ if n.startswith(('timm', 'torch.opt', 'transf'))]
)
def test_files_give_the_logits_of_the_module_that_wrote_them(name, tmp_path):
  """The arrays of the other test are those of this package's own tables."""
  path, _, module = READ[name](tmp_path)
  read = weight_names.load(path)
  model = models.create(read.card.architecture | {'gelu': 'erf'})
  images = np.random.default_rng(0).standard_normal((2, 8, 8, 3))
  images = images.astype(np.float32)
  found = model.apply({'params': read.params}, images, train=False)
  with torch.no_grad():
    wanted = module(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
  wanted = getattr(wanted, 'logits', wanted).numpy()
  size = np.abs(wanted).max()
  assert size > 0.1
  np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * size)


@pytest.mark.parametrize('cls', ['Torchvision', 'Jeonsworld'])
def test_state_dicts_of_other_modules_are_read_bit_for_bit(cls, tmp_path):
  write = files_that_are_read.of_module(
    getattr(torch_vits, cls), 'checkpoint.bin'
  )
  _, wanted, source = write(tmp_path)
  port_cases.assert_same(source.params, wanted)


# Written by tests/ports/test_file_kinds.py in a process of its own.
OF_TENSORFLOW = (
  'Keras .keras',
  'Keras .h5',
  'TensorFlow SavedModel',
  'TensorFlow checkpoint of another model',
)


@pytest.mark.parametrize('name', NAMED)
def test_other_files_are_named_in_one_line(name, tmp_path):
  write, what = NAMED[name]
  with pytest.raises((InputError, FileNotFoundError), match=what) as caught:
    weight_names.load(write(tmp_path))
  line = str(caught.value)
  assert '\n' not in line
  assert ('download' in line) == (name == 'an HTML page')


def section(heading):
  """Returns a section of docs/convert.md, without the sections in it."""
  path = pathlib.Path(__file__).parents[2] / 'docs/convert.md'
  after = path.read_text(encoding='utf-8').partition(f'# {heading}\n')[2]
  return re.split('\n##+ ', after)[0]


def test_docs_have_a_row_for_each_kind_of_file():
  found = re.findall(
    r'^\| (.+?) \| .+ \| (yes.*|no.*) \| (.+) \|$',
    section('What is read and written'),
    re.M,
  )
  assert [kind for kind, *_ in found] == [*file_kinds.NAMES.values()]
  written = {
    'npz': layouts.LAYOUTS,
    'safetensors': ports.LIBRARIES,
    'torch': ports.LIBRARIES,
    'folder': converting.FOLDERS,
  }
  for kind, (_, read, targets) in zip(file_kinds.NAMES, found, strict=True):
    assert read.startswith('yes'), kind
    assert re.findall('`([^`]+)`', targets) == [*written.get(kind, ())], kind


def test_docs_list_these_files():
  rows = re.findall(
    r'^\| (.+?) \| (\w+) \|$', section('Files that were tried'), re.M
  )[1:]
  listed = [(name.replace('`', ''), result) for name, result in rows]
  read = [*READ]
  read[-1:-1] = ['torchvision', 'jeonsworld']
  read = [(name, 'read') for name in read]
  named = [(name, 'named') for name in (*NAMED, *OF_TENSORFLOW)]
  assert listed == [*read, *named]


def models_of_table():
  """Returns a small tree of each column of docs/convert.md's second table."""
  small = {'hidden_size': WIDTH, 'num_heads': 3, 'num_layers': 1}
  scaled = {**small, 'layer_scale_init': 1e-5, 'mlp_dim': WIDTH}
  specs = {
    'ViT': tiny_models.spec(CLASSES, **small),
    'DeiT': tiny_models.spec(CLASSES, **small, distilled=True),
    'DeiT III': tiny_models.spec(
      CLASSES, **scaled, class_token_after_positions=True
    ),
    'DINOv2': tiny_models.spec(
      CLASSES, **scaled, classifier='token_and_gap', corruptible=True
    ),
    'hybrid': tiny_models.spec(
      CLASSES, **small | {'patch_size': [1, 1]}, stem_num_layers=(1, 1),
      stem_width_factor=0.5,
    ),
    'BiT': tiny_models.spec(CLASSES, tiny_models.BIT),
    'Mixer': tiny_models.spec(CLASSES, tiny_models.MIXER),
  }  # fmt: skip
  trees_of = {name: tiny_models.params_of(x) for name, x in specs.items()}
  small = efficientnets.tiny()
  return trees_of | {'EfficientNet': efficientnets.params_of(small)}


def represented():
  """Returns the columns and rows of docs/convert.md's second table."""
  text = section('What each format can represent')
  lines = [line for line in text.splitlines() if line.startswith('|')]
  head, _, *rows = [re.split(r' *\| *', line)[1:-1] for line in lines]
  return head, rows


def test_docs_say_what_each_library_can_represent():
  head, rows = represented()
  trees_of = models_of_table()
  without_token = tiny_models.params_of(
    tiny_models.spec(CLASSES, classifier='gap')
  )
  assert head == ['', *trees_of]
  libraries = set()
  for row in rows:
    if row[0].startswith('folder'):
      continue
    for library in re.findall('`(\\w+)`', row[0]):
      libraries.add(library)
      if row[1] == 'with a class token':
        with pytest.raises(InputError, match='has a class token'):
          ports.to_state_dict(without_token, library)
      elif row[1] == 'yes':
        assert ports.to_state_dict(without_token, library)
      for name, cell in zip(head[1:], row[1:], strict=True):
        params = trees_of[name]
        drop = re.fullmatch('`--drop=(.+)`', cell)
        if cell == 'no' or drop or cell == 'without a distillation token':
          with pytest.raises(InputError):
            ports.to_state_dict(params, library)
        if cell == 'yes' or drop or cell == 'with a class token':
          parts = drop[1].split(',') if drop else ()
          assert ports.to_state_dict(params, library, drop=parts)
  assert libraries == {*ports.LIBRARIES}


def test_docs_say_what_folders_can_represent(tmp_path):
  """Without heads and masks, or as a file, a model may still be held."""
  head, rows = represented()
  folders = [row for row in rows if row[0].startswith('folder of ')]
  sources = {name: tmp_path / f'{name}.npz' for name in head[1:]}
  for name, params in models_of_table().items():
    weights.save(sources[name], params)
  for row in folders:
    to = row[0].removeprefix('folder of ')
    for name, cell in zip(head[1:], row[1:], strict=True):
      drop = re.fullmatch('`--drop=(.+)`', cell)
      out = tmp_path / f'{to} {name}'
      if drop or cell.startswith('no'):
        with pytest.raises(InputError):
          converting.convert(sources[name], out, to=to)
        assert not out.exists()
      if drop or not cell.startswith('no'):
        parts = tuple(drop[1].split(',')) if drop else ()
        converting.convert(sources[name], out, to=to, drop=parts)
  assert [row[0].removeprefix('folder of ') for row in folders] == [
    *converting.FOLDERS[:2]
  ]
