"""The JPEG files that are measured with, and the speed of a core."""

import pathlib

import numpy as np
import pytest

from vit_jax_repro.data import augment, photographs
from vit_jax_repro.data.tf_host import tensorflow

pytestmark = pytest.mark.quick


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp('photographs')
  return str(folder), photographs.write_photographs(folder, 6)


def test_write_photographs_writes_different_files_of_two_classes(files):
  folder, description = files
  paths = sorted(pathlib.Path(folder).rglob('*.jpg'))
  assert len(paths) == description['number'] == 6
  assert {path.parent.name for path in paths} == {'china', 'flower'}
  sizes = [path.stat().st_size for path in paths]
  assert description['mean_bytes'] == round(np.mean(sizes))
  assert len({path.read_bytes() for path in paths}) == 6
  for path in paths:
    image = tensorflow().io.decode_jpeg(path.read_bytes())
    assert image.shape == (375, 500, 3)


def test_enlarged_photographs_have_the_size_and_grain(tmp_path):
  found = photographs.write_photographs(tmp_path, 2, (700, 500))
  assert found['size'] == (700, 500)
  for path in tmp_path.rglob('*.jpg'):
    image = tensorflow().io.decode_jpeg(path.read_bytes())
    assert image.shape == (700, 500, 3)
    without = tensorflow().image.resize(image, (427, 305), antialias=True)
    without = tensorflow().image.resize(without, (700, 500), 'bicubic')
    pixels = tensorflow().saturate_cast(without, 'uint8')
    quality = photographs.JPEG_QUALITY
    encoded = tensorflow().io.encode_jpeg(pixels, quality=quality).numpy()
    assert len(encoded) < 0.8 * path.stat().st_size


def test_core_rate_is_that_of_the_augmentation():
  """Reading whole files of the same pixels takes longer than boxes of them."""
  few = photographs.core_rate(augment.Augmentation(crop=32))
  many = photographs.core_rate(
    augment.Augmentation(crop=256, randaugment_layers=2, exact_decode=True)
  )
  assert 50 < many < few / 1.5


def test_need_divides_and_rounds_up():
  line = photographs.need(12_345.6, 612.4)
  assert line.startswith("needs 12,346 images/s, this machine's core gives 612")
  assert line.endswith('500x375 pixels): 21 cores')
  assert photographs.need(10, 612.4).endswith(': 1 core')
