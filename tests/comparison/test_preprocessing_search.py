"""The search finds preprocessings that were planted with only Pillow."""

import io

import numpy as np
import pytest
from photographs import PHOTOGRAPHS
from PIL import Image

from vit_jax_repro.comparison import preprocessing_search
from vit_jax_repro.data import preprocess

SIZE = (32, 32)
FILES = [path.read_bytes() for path in PHOTOGRAPHS.values()]


def by_pillow(
  encoded, *, crop_pct=None, method='BILINEAR', mean=0.5, std=0.5, order=1
):
  """Returns an image [H, W, 3] as a port reads it, with Pillow and NumPy."""
  image = Image.open(io.BytesIO(encoded)).convert('RGB')
  size = SIZE[::-1]
  if crop_pct is not None:
    short = int(SIZE[0] / crop_pct)
    size = [int(short * side / min(image.size)) for side in image.size]
  image = image.resize(size, Image.Resampling[method])
  left, top = (round((a - b) / 2) for a, b in zip(size, SIZE, strict=True))
  image = image.crop((left, top, left + SIZE[1], top + SIZE[0]))
  pixels = np.asarray(image, np.float32)[..., ::order] / 255
  return (pixels - np.float32(mean)) / np.float32(std)


def compare(port, preprocessing='vit_jax', files=FILES):
  reference = np.stack(
    [
      preprocess.pick_preprocessing(preprocessing)(data, SIZE).numpy()
      for data in files
    ]
  )
  return preprocessing_search.compare(
    files, reference, np.stack(port), preprocessing=preprocessing
  )


@pytest.mark.parametrize('name', ['vit_jax', 'bit', 'timm', 'deit'])
def test_known_reading_matches_the_preprocessings(name):
  entry = preprocess.pick_preprocessing(name)
  reading = preprocessing_search.known_reading(name, SIZE)
  for encoded in FILES:
    np.testing.assert_allclose(
      preprocessing_search.read(encoded, SIZE, reading),
      entry(encoded, SIZE).numpy(),
      atol=1e-5,
    )
  assert preprocessing_search.known_reading('big_vision', SIZE) is None


@pytest.mark.parametrize(
  ('planted', 'named'),
  [
    ({}, {'decoder', 'antialias'}),
    ({'method': 'BICUBIC'}, {'decoder', 'antialias', 'filter'}),
    ({'method': 'LANCZOS'}, {'decoder', 'antialias', 'filter'}),
    ({'crop_pct': 0.875}, {'decoder', 'antialias', 'crop'}),
    ({'crop_pct': 0.9}, {'decoder', 'antialias', 'crop'}),
    (
      {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)},
      {'decoder', 'antialias', 'scaling'},
    ),
    ({'mean': 0, 'std': 1}, {'decoder', 'antialias', 'scaling'}),
    ({'order': -1}, {'decoder', 'antialias', 'channels'}),
    (
      {'method': 'BICUBIC', 'crop_pct': 0.95, 'order': -1, 'mean': 0, 'std': 1},
      {'decoder', 'antialias', 'crop', 'filter', 'channels', 'scaling'},
    ),
  ],
)
def test_compare_finds_the_reading_of_a_port(planted, named):
  found = compare([by_pillow(encoded, **planted) for encoded in FILES])
  assert not found.agrees
  assert set(found.named) == named
  assert found.remaining < preprocessing_search.EXACT
  if 'crop_pct' in planted:
    assert found.found.crop == planted['crop_pct']


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('decoder', 'accurate'),
    ('filter', 'bicubic'),
    ('crop', 0.9),
    ('scaling', 'to [0, 1]'),
    ('channels', 'BGR'),
    ('antialias', True),
  ],
)
def test_compare_names_a_single_change(field, value):
  import dataclasses

  planted = dataclasses.replace(
    preprocessing_search.ImageReading(), **{field: value}
  )
  found = compare(
    [preprocessing_search.read(data, SIZE, planted) for data in FILES]
  )
  assert found.named == (field,)
  assert found.found == planted


def test_compare_agrees_on_equal_values():
  found = compare(
    [
      preprocessing_search.read(d, SIZE, preprocessing_search.ImageReading())
      for d in FILES
    ]
  )
  assert (
    found.agrees and found.gap < preprocessing_search.EXACT and not found.named
  )


def test_compare_ignores_rounding():
  floats = [
    preprocessing_search.read(d, SIZE, preprocessing_search.ImageReading())
    for d in FILES
  ]
  rounded = [np.round((x + 1) * 127.5) / 127.5 - 1 for x in floats]
  found = compare(rounded)
  assert not found.agrees and not found.named
  assert found.found == preprocessing_search.ImageReading()
  assert 0.4 < found.remaining < preprocessing_search.ROUNDED


def test_indistinguishable_has_changes_without_effect():
  file = io.BytesIO()
  Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (40, 44, 3), np.uint8)
  ).save(file, 'PNG')
  files = [file.getvalue()]
  found = compare(
    [
      preprocessing_search.read(
        files[0], SIZE, preprocessing_search.ImageReading()
      )
    ],
    files=files,
  )
  # There is only one way to decode a PNG.
  assert [trial.field for trial in found.indistinguishable] == ['decoder']


def test_compare_names_nothing_for_an_unknown_reading():
  port = [by_pillow(encoded)[::-1] for encoded in FILES]  # upside down
  found = compare(port)
  assert found.found is None and not found.named
  assert found.remaining > 10
