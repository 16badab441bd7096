"""Tests of commands in an environment that lacks TensorFlow, TFDS and clu.

`make without-tensorflow` creates the environment and runs them. Each command
runs in a process of its own, as a user starts it.
"""

import importlib.util
import json
import pathlib
import subprocess
import sys
import tomllib

import augreg_index
import numpy as np
import pytest
import tiny_models
from file_server import Served, serving
from packaging.requirements import Requirement
from PIL import Image

from vit_jax_repro import models, weights
from vit_jax_repro.data import tf_host

ROOT = pathlib.Path(__file__).parents[1]
SMALL = ('--models=ViT-Ti_16', '--batch_sizes=2', '--image_size=32')
SHORT = ('--dtypes=float32', '--rounds=1', '--seconds=0.1')
REMEDY = 'pip install tensorflow tensorflow-datasets'


def command(name, *arguments, folder=ROOT):
  """Returns (exit code, standard output, standard error)."""
  done = subprocess.run(
    [sys.executable, '-m', f'vit_jax_repro.{name}', *map(str, arguments)],
    capture_output=True,
    text=True,
    check=False,
    cwd=folder,
  )
  return done.returncode, done.stdout, done.stderr


def succeed(name, *arguments):
  """Runs a command that must succeed; returns its standard output."""
  code, out, err = command(name, *arguments)
  assert code == 0, err
  return out


def smallest_side(path):
  with Image.open(path) as image:
    return min(image.size)


@pytest.fixture(scope='module')
def vit(tmp_path_factory):
  """The weights of a ten-class ViT for 8x8 pixels."""
  path = tmp_path_factory.mktemp('weights') / 'tiny.npz'
  weights.save(path, tiny_models.params_of(tiny_models.spec(10)))
  return path


@pytest.fixture(scope='module')
def photograph(tmp_path_factory):
  path = tmp_path_factory.mktemp('images') / 'random.jpg'
  pixels = np.random.default_rng(0).integers(256, size=(20, 24, 3), dtype='u1')
  Image.fromarray(pixels).save(path)
  return path


def test_environment_lacks_tensorflow_and_what_needs_it():
  """These are the packages that pyproject.toml leaves out on Python 3.14."""
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  wanted = [Requirement(text) for text in project['dependencies']]
  new = {'python_version': '3.14', 'python_full_version': '3.14.0'}
  left_out = {r.name for r in wanted if r.marker and not r.marker.evaluate(new)}
  named = set(tf_host.INSTALL.split()) - {'pip', 'install'}
  # The remedy need not name a build of TensorFlow, and what TFDS brings.
  assert left_out - {'tensorflow-cpu', 'protobuf'} == named
  for module in ('tensorflow', 'tensorflow_datasets', 'clu', 'tensorboard'):
    assert importlib.util.find_spec(module) is None


@pytest.mark.parametrize(
  'form, name, more',
  [
    ('transformers', 'port', ()),
    ('timm', 'port.safetensors', ('--num_heads=2',)),
  ],
)
def test_convert_gives_back_every_bit(tmp_path, vit, form, name, more):
  port, back = tmp_path / name, tmp_path / 'back.npz'
  succeed('convert', vit, port, f'--to={form}')
  succeed('convert', port, back, *more)
  with np.load(vit) as before, np.load(back) as after:
    assert set(before.files) == set(after.files)
    for key in before.files:
      np.testing.assert_array_equal(after[key], before[key])


def test_fetch_downloads_the_best_file(tmp_path):
  name = augreg_index.LINES[5].split(',')[-2]
  spec = models.variant('ViT-Ti_16') | {'num_classes': 21_843}
  weights.save(tmp_path / 'x.npz', tiny_models.params_of(spec, (224, 224)))
  content = (tmp_path / 'x.npz').read_bytes()
  index = '\n'.join([augreg_index.HEADER, *augreg_index.LINES]) + '\n'
  files = {
    'vit_models/augreg/index.csv': Served(index.encode()),
    f'vit_models/augreg/{name}.npz': Served(content),
  }
  arguments = ('--augreg', '--model=Ti_16', '--best', f'--dir={tmp_path}')
  with serving(**files) as (base, *_):
    succeed('fetch', *arguments, f'--mirror={base}')
  assert (tmp_path / f'{name}.npz').read_bytes() == content
  assert 'imagenet21k+imagenet2012/ViT-B_16' in succeed('fetch', '--list')


def test_crosscheck_exports_images_by_pillow(tmp_path, vit, photograph):
  path = tmp_path / 'reference.npz'
  succeed(
    'crosscheck',
    f'--weights={vit}',
    f'--export={path}',
    f'--images={photograph}',
    '--preprocessing=deit',
    '--image_size=8',
  )
  with np.load(path) as arrays:
    shapes = {arrays[key].shape for key in arrays.files}
  assert {(1, 8, 8, 3), (1, 10)} <= shapes


@pytest.mark.parametrize('name', ['timm', 'deit:crop_pct=1.0'])
def test_predict_reads_images_by_pillow(tmp_path, vit, photograph, name):
  result = tmp_path / 'result.json'
  succeed(
    'predict',
    f'--weights={vit}',
    '--image_size=8',
    f'--preprocessing={name}',
    '--top=10',
    f'--json={result}',
    photograph,
  )
  (image,) = json.loads(result.read_text())
  probabilities = [entry['probability'] for entry in image['classes']]
  assert sum(probabilities) == pytest.approx(1)
  assert probabilities == sorted(probabilities, reverse=True)
  assert probabilities[0] > 0.1


@pytest.mark.parametrize(
  'arguments, text',
  [
    (('list',), 'ViT Table 5'),
    (('show', 'ViT Table 5'), '97.11'),
    (('plan', '--table=ViT Table 5'), 'oxford_iiit'),
    (('differences',), 'pvc-01'),
  ],
)
def test_reproduce_prints_tables(arguments, text):
  assert text in succeed('reproduce', *arguments)


@pytest.mark.parametrize('name', ['filters', 'positions', 'compute'])
def test_figures_draws_weights_and_published_numbers(tmp_path, vit, name):
  path = tmp_path / 'figure.png'
  more = () if name == 'compute' else (f'--weights={vit}',)
  succeed('figures', name, *more, f'--out={path}')
  assert smallest_side(path) > 100


def test_figures_draws_attention_over_an_image(tmp_path, vit, photograph):
  path = tmp_path / 'figure.png'
  succeed(
    'figures',
    'attention',
    f'--weights={vit}',
    '--image_size=8',
    '--preprocessing=timm',
    f'--out={path}',
    photograph,
  )
  assert smallest_side(path) > 100


@pytest.mark.parametrize(
  'name, more',
  [('train', SHORT), ('infer', SHORT), ('memory', ('--dtypes=float32',))],
)
def test_benchmark_measures_synthetic_images(tmp_path, name, more):
  path = tmp_path / 'result.json'
  succeed('benchmark', name, *SMALL, *more, f'--json={path}')
  (row,) = json.loads(path.read_text())['rows']
  assert not row.get('error')


@pytest.mark.parametrize(
  'name, arguments',
  [
    ('main', ('--config=configs/quickstart.py', '--workdir={folder}/run')),
    ('evaluate', ('--weights={vit}', '--dataset=digits')),
    ('evaluate', ('--weights={vit}', '--dataset=cifar10', '--shots=1')),
    ('predict', ('--weights={vit}', '--image_size=8', '{photograph}')),
    ('benchmark', ('data', '--images=2', '--image_size=8')),
  ],
  ids=['train', 'evaluate', 'few-shot', 'predict', 'pipelines'],
)
def test_others_name_tensorflow_in_one_line(
  tmp_path, vit, photograph, name, arguments
):
  places = dict(folder=tmp_path, vit=vit, photograph=photograph)
  code, out, err = command(name, *(text.format(**places) for text in arguments))
  lines = [line for line in err.splitlines() if not line.startswith('note: ')]
  assert code == 1 and not out
  *banner, line = lines
  assert REMEDY in line
  assert all(x.startswith(('devices', 'workdir', 'precision')) for x in banner)
  assert not list(tmp_path.iterdir())
