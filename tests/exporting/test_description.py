"""Tests that a description is enough to read images as this package does."""

import importlib.util
import json
import pathlib
import sys

import numpy as np
import pytest
import tiny_models
from photographs import PHOTOGRAPHS
from PIL import Image

from vit_jax_repro.data import preprocess
from vit_jax_repro.errors import InputError
from vit_jax_repro.exporting import description, exports
from vit_jax_repro.inference import prediction
from vit_jax_repro.weights import model_card

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def run_export():
  """The example script, which does not know this package, as a module."""
  path = ROOT / 'examples' / 'run_export.py'
  assert 'import vit_jax_repro' not in path.read_text()
  assert 'from vit_jax_repro' not in path.read_text()
  spec = importlib.util.spec_from_file_location('run_export', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.parametrize('loss', ['softmax', 'sigmoid'])
def test_run_export_prints_the_probabilities_of_predict(
  loss, run_export, tmp_path, monkeypatch, capsys
):
  path, image = tmp_path / 'm.npz', tmp_path / 'x.png'
  spec = tiny_models.spec(3, num_layers=1)
  model_card.save_model(
    path, tiny_models.params_of(spec), architecture=spec, class_names='abc',
    image_size=(8, 8), preprocessing='vit_jax', loss=loss,
  )  # fmt: skip
  pixels = np.random.default_rng(0).integers(256, size=(8, 8, 3))
  Image.fromarray(pixels.astype(np.uint8)).save(image)
  out = tmp_path / 'm.stablehlo'
  exports.export(path, out)
  ((*ours,),) = prediction.predict(path, [image])
  monkeypatch.setattr(sys, 'argv', ['run_export.py', str(out), str(image)])
  capsys.readouterr()
  run_export.main()
  assert capsys.readouterr().out.splitlines() == [
    str(image), *(f'  {label}  {name}  {p:.2%}' for label, name, p in ours)
  ]  # fmt: skip


def test_run_export_refuses_in_one_line(
  run_export, tmp_path, monkeypatch, capsys
):
  image, out = tmp_path / 'x.png', tmp_path / 'm.onnx'
  Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(image)
  how = description.preprocessing('vit_jax', (8, 8), 'exif')
  about = {'probabilities': None, 'preprocessing': how}

  def refusal():
    monkeypatch.setattr(sys, 'argv', ['run_export.py', str(out), str(image)])
    with pytest.raises(SystemExit):
      run_export.main()
    return capsys.readouterr().err

  assert "m.onnx.json'" in refusal()
  (tmp_path / 'm.onnx.json').write_text(json.dumps(about))
  assert 'gives numbers that are no classes' in refusal()
  image.write_bytes(b'')
  assert 'cannot identify image file' in refusal()


@pytest.fixture(scope='module')
def photographs(tmp_path_factory):
  """A wide, a tall and a turned photograph, in files without loss.

  JPEG decoders differ; timm's and DeiT's preprocessing use Pillow's.
  """
  folder = tmp_path_factory.mktemp('photographs')
  exif = Image.Exif()
  exif[0x0112] = 6
  with Image.open(PHOTOGRAPHS['china']) as image:
    image.save(folder / 'wide.png')
    image.crop((200, 0, 333, 301)).save(folder / 'tall.png')
    image.resize((120, 90)).save(folder / 'turned.png', exif=exif)
  return sorted(folder.iterdir())


@pytest.mark.parametrize(
  ('image_size', 'share'), [((224, 224), '0.875'), ((800, 810), '0.962')]
)
def test_preprocessing_refuses_efficientnet_with_the_nearest(image_size, share):
  with pytest.raises(InputError, match=f'=deit:crop_pct={share}, which'):
    description.preprocessing('efficientnet', image_size, 'none')


@pytest.mark.parametrize('image_size', [(64, 64), (48, 80)])
@pytest.mark.parametrize(
  'name',
  [
    *(x for x in preprocess.PREPROCESSINGS if x != 'efficientnet'),
    'timm:crop_pct=0.7,interpolation=bilinear',
  ],
)
def test_preprocessing_lets_others_read_the_same_pixels(
  name, image_size, run_export, photographs
):
  # Both numbers are in units of the input, in which 1 of 255 is 0.0078.
  atol, truncation = 1e-4, 0.0
  # Sums of weights may fall short of an integer.
  if name in ('big_vision', 'lit'):
    atol, truncation = 1 / 127.5 + 1e-6, 0.05
  for orientation in ('exif', 'none'):
    how = description.preprocessing(name, image_size, orientation)
    how = json.loads(json.dumps(how))
    for path in photographs:
      wanted = preprocess.read_image(
        path,
        preprocessing=name,
        image_size=image_size,
        orientation=orientation,
      )
      image = run_export.read_image(path, how)
      assert image.shape == wanted.shape and image.dtype == np.float32
      assert np.abs(image - wanted).max() <= atol
      assert (np.abs(image - wanted) > 1e-4).mean() <= truncation
