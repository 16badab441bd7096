"""Tests that a description is enough to read images as this package does."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest
from photographs import PHOTOGRAPHS
from PIL import Image

from vit_jax_repro.data import preprocess
from vit_jax_repro.exporting import description

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


@pytest.mark.parametrize('image_size', [(64, 64), (48, 80)])
@pytest.mark.parametrize(
  'name',
  [*preprocess.PREPROCESSINGS, 'timm:crop_pct=0.7,interpolation=bilinear'],
)
def test_preprocessing_lets_others_read_the_same_pixels(
  name, image_size, run_export, photographs
):
  # Both numbers are in units of the input, in which 1 of 255 is 0.0078.
  atol, truncation = 1e-4, 0.0
  if name == 'big_vision':  # sums of weights may fall short of an integer
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
