"""EfficientNet from each kind of file, through the commands' functions."""

import efficientnets
import jax
import numpy as np
import pytest
import timm_stub

from vit_jax_repro import jobs, models, ports, weights
from vit_jax_repro.inference.restoring import restore
from vit_jax_repro.published import catalogue
from vit_jax_repro.weights import model_card, trees

pytest.importorskip('torch')


@pytest.fixture(scope='module')
def params():
  return efficientnets.params_of(efficientnets.tiny())


@pytest.fixture(scope='module')
def file(params, tmp_path_factory):
  path = tmp_path_factory.mktemp('efficientnet') / 'model.npz'
  weights.save(path, params)
  return path


def test_restore_reads_images_as_the_authors(file, capsys):
  restored = restore(file, image_size=32)
  assert restored.preprocessing == 'efficientnet'
  assert "using 'efficientnet'" in capsys.readouterr().err


def test_convert_to_timm_and_back_is_exact(file, params, tmp_path):
  out, back = tmp_path / 'x.safetensors', tmp_path / 'back.npz'
  converted = jobs.convert(file, out, to='timm')
  shapes = trees.flatten(params)
  assert converted.num_parameters == trees.num_parameters(shapes)
  assert converted.num_arrays == len(shapes)
  jobs.convert(out, back)
  again = trees.flatten(weights.load(back))
  assert again.keys() == shapes.keys()
  assert all(np.array_equal(again[n], shapes[n]) for n in again)
  image = np.ones((1, 32, 32, 3), np.float32)
  logits = [
    jax.jit(each.model.apply)({'params': each.params}, image)
    for each in (restore(str(file), image_size=32), restore(out, image_size=32))
  ]
  np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize('kind', ['safetensors', 'bin', 'pth'])
def test_restore_reads_files_of_timm(kind, tmp_path):
  """A folder has timm's preprocessing, and .pth alone has none."""
  import torch

  timm = timm_stub.import_timm()
  from timm.models import _hub

  name = 'tf_efficientnet_b0.ns_jft_in1k'
  torch.manual_seed(0)
  module = timm.create_model(name, num_classes=10)
  path, preprocessing = tmp_path / 'b0', 'deit:crop_pct=0.875'
  if kind == 'pth':
    path, preprocessing = tmp_path / 'b0.pth', 'efficientnet'
    torch.save(module.state_dict(), path)
  else:
    _hub.save_for_hf(module, path, safe_serialization=kind == 'safetensors')
    (file,) = path.glob('*model.*')
    assert file.suffix == f'.{kind}'
  restored = restore(path)
  assert (restored.name, restored.num_classes) == ('EfficientNet-B0', 10)
  assert (restored.model.padding, restored.model.batch_norm_eps) == (
    'same',
    1e-3,
  )
  assert restored.preprocessing == preprocessing
  assert restored.image_size == (224, 224)
  state = {n: x.numpy() for n, x in module.state_dict().items()}
  wanted = trees.flatten(ports.from_state_dict(state))
  found = trees.flatten(restored.params)
  assert found.keys() == wanted.keys()
  assert all(np.array_equal(found[n], wanted[n]) for n in wanted)


@pytest.mark.parametrize(
  ('name', 'model', 'size'),
  [
    ('tf_efficientnet_b0.ns_jft_in1k', 'EfficientNet-B0', 224),
    ('timm/tf_efficientnet_l2.ns_jft_in1k', 'EfficientNet-L2', 800),
    ('tf_efficientnet_l2.ns_jft_in1k_475', 'EfficientNet-L2', 475),
  ],
)
def test_catalogue_has_noisy_student(name, model, size):
  entry = catalogue.find(name)
  assert (entry.model, entry.image_size) == (model, size)
  assert entry.card.startswith('deit:crop_pct=0.')


@pytest.mark.parametrize(('size', 'pixels'), [('B0', 224), ('B3', 300)])
def test_default_image_size_is_that_of_the_model(size, pixels):
  spec = models.variant(f'EfficientNet-{size}')
  assert model_card.default_image_size(spec) == (pixels, pixels)
