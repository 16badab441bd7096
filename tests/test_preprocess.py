import functools
import hashlib
import io

import numpy as np
import pytest
from photographs import PHOTOGRAPHS
from PIL import Image

from vit_jax_repro.data import preprocess
from vit_jax_repro.data.tensorflow_cpu import tensorflow

pytestmark = pytest.mark.quick

# Of the decoded photograph in the reference arrays (TensorFlow 2.21).
CHINA_SHA256 = (
  '436f5eeb1802484a5b9583089d801247fa2bf9ce48b99b39d10d69d4685038ca'
)
CROPS = {  # name: top, left in the photograph
  'china_crop20x30': (100, 200),
  'china_crop64x64': (64, 300),
  'china_crop201x77': (10, 5),
}
TOLERANCE = 1e-6


@pytest.fixture(scope='module')
def reference(data_dir):
  """Made by the original evaluation pipelines, ViT's and BiT's alike."""
  with np.load(data_dir / 'eval_preprocessing.npz') as arrays:
    return dict(arrays)


def encoded(array, kind='png', **options):
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, kind, **options)
  return buffer.getvalue()


def random_image(shape, seed=0):
  return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def test_decodes_jpeg_as_the_original(reference):
  image = preprocess.decode(PHOTOGRAPHS['china'].read_bytes()).numpy()
  assert image.shape == (427, 640, 3) and image.dtype == np.uint8
  assert hashlib.sha256(image.tobytes()).hexdigest() == CHINA_SHA256
  for name, (top, left) in CROPS.items():
    crop = reference[name]
    height, width, _ = crop.shape
    part = image[top : top + height, left : left + width]
    np.testing.assert_array_equal(part, crop)


@pytest.mark.parametrize('name', ['vit_jax', 'bit'])
@pytest.mark.parametrize('size', [32, 48])
@pytest.mark.parametrize('source', ['china_full', *CROPS])
def test_equals_the_original(reference, source, size, name):
  if source == 'china_full':
    data = PHOTOGRAPHS['china'].read_bytes()
  else:
    data = encoded(reference[source])
  image = preprocess.PREPROCESSINGS[name](data, (size, size)).numpy()
  assert image.dtype == np.float32
  wanted = reference[f'{source}_vit_eval_{size}']
  np.testing.assert_allclose(image, wanted, rtol=0, atol=TOLERANCE)


def accurate_decode(encoded):
  return tensorflow().io.decode_jpeg(encoded, dct_method='INTEGER_ACCURATE')


def with_aligned_corners(image, image_size):
  return tensorflow().compat.v1.image.resize_bilinear(
    image[None], image_size, align_corners=True
  )[0]


def between_zero_and_one(image):
  return image / 255


@pytest.mark.parametrize('name', ['vit_jax', 'bit'])
@pytest.mark.parametrize(
  'step, other',
  [
    ('squash', functools.partial(preprocess.squash, antialias=True)),
    ('squash', functools.partial(preprocess.squash, method='bicubic')),
    ('squash', with_aligned_corners),
    ('normalize', between_zero_and_one),
    ('decode', accurate_decode),
  ],
)
def test_a_wrong_step_is_seen(reference, monkeypatch, name, step, other):
  """Each step of our own functions in turn, changed to another choice."""
  path = PHOTOGRAPHS['china']
  wanted = reference['china_full_vit_eval_48']

  def error():
    image = preprocess.read_image(path, preprocessing=name, image_size=48)
    return np.abs(image - wanted).max()

  assert error() <= TOLERANCE
  monkeypatch.setattr(preprocess, step, other)
  assert error() > 1e-3


def test_rectangles_are_height_by_width(tmp_path):
  path = tmp_path / 'x.png'
  array = random_image((7, 5, 3))
  path.write_bytes(encoded(array))
  for size, shape in [((7, 5), (7, 5, 3)), (4, (4, 4, 3)), ([6, 9], (6, 9, 3))]:
    image = preprocess.read_image(
      path, preprocessing='vit_jax', image_size=size
    )
    assert image.shape == shape
  same = preprocess.read_image(path, preprocessing='bit', image_size=(7, 5))
  np.testing.assert_allclose(same, array / 127.5 - 1, atol=1e-6)


def test_always_three_channels():
  grey = random_image((6, 4))
  image = preprocess.decode(encoded(grey)).numpy()
  np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, -1))
  rgba = random_image((6, 4, 4))
  image = preprocess.decode(encoded(rgba)).numpy()
  np.testing.assert_array_equal(image, rgba[..., :3])
  for kind, array in [('gif', grey), ('bmp', rgba[..., :3])]:
    assert preprocess.decode(encoded(array, kind)).shape == (6, 4, 3)
  cmyk = Image.fromarray(rgba[..., :3]).convert('CMYK')
  buffer = io.BytesIO()
  cmyk.save(buffer, 'jpeg')
  assert preprocess.decode(buffer.getvalue()).shape == (6, 4, 3)


def test_runs_inside_tf_data(reference):
  data = encoded(reference['china_crop20x30'])
  dataset = tensorflow().data.Dataset.from_tensors(data)
  dataset = dataset.map(
    lambda x: preprocess.PREPROCESSINGS['vit_jax'](x, (32, 32))
  )
  (image,) = dataset.as_numpy_iterator()
  wanted = reference['china_crop20x30_vit_eval_32']
  np.testing.assert_allclose(image, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize('damage', ['empty', 'text', 'cut jpeg', 'cut png'])
def test_what_is_no_image_is_named(tmp_path, damage):
  array = random_image((40, 40, 3))
  data = {
    'empty': b'',
    'text': b'not an image at all',
    'cut jpeg': encoded(array, 'jpeg')[:700],
    'cut png': encoded(array)[:700],
  }[damage]
  path = tmp_path / 'bad.jpg'
  path.write_bytes(data)
  with pytest.raises(ValueError, match=r'bad\.jpg is not a readable') as caught:
    preprocess.read_image(path, preprocessing='vit_jax', image_size=8)
  assert '\n' not in str(caught.value)


def test_missing_file(tmp_path):
  with pytest.raises(FileNotFoundError, match='nothing'):
    preprocess.read_image(
      tmp_path / 'nothing.png', preprocessing='vit_jax', image_size=8
    )


def test_unknown_names_and_sizes():
  with pytest.raises(ValueError, match=r"'caffe'; choose from \['bit', 'vit"):
    preprocess.pick_preprocessing('caffe')
  for size in [0, -3, 2.5, (3, 4, 5), (0, 4), 'x', ()]:
    with pytest.raises(ValueError, match='must be a positive number'):
      preprocess.check_image_size(size)
  largest = preprocess.MAX_IMAGE_SIZE
  assert preprocess.check_image_size(largest) == (largest, largest)
  with pytest.raises(ValueError, match='is above 8192 pixels'):
    preprocess.check_image_size((8, largest + 1))
