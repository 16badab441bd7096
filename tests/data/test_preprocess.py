import functools
import hashlib
import io
import os

import numpy as np
import pytest
from photographs import PHOTOGRAPHS
from PIL import Image

from vit_jax_repro.data import image_files, preprocess
from vit_jax_repro.data.tf_host import tensorflow

pytestmark = pytest.mark.quick

# The decoded photograph in the reference arrays (TensorFlow 2.21).
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
  """Loads images of the original evaluation pipelines (ViT's equals BiT's)."""
  with np.load(data_dir / 'eval_preprocessing.npz') as arrays:
    return dict(arrays)


def encoded(array, kind='png', **options):
  buffer = io.BytesIO()
  Image.fromarray(array).save(buffer, kind, **options)
  return buffer.getvalue()


def random_image(shape, seed=0):
  return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def test_decode_of_jpeg_equals_the_original(reference):
  image = image_files.decode(PHOTOGRAPHS['china'].read_bytes()).numpy()
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
def test_read_image_equals_the_original(reference, source, size, name):
  if source == 'china_full':
    data = PHOTOGRAPHS['china'].read_bytes()
  else:
    data = encoded(reference[source])
  image = preprocess.PREPROCESSINGS[name](data, (size, size)).numpy()
  assert image.dtype == np.float32
  wanted = reference[f'{source}_vit_eval_{size}']
  np.testing.assert_allclose(image, wanted, rtol=0, atol=TOLERANCE)


def accurate_decode(encoded, **_):
  return tensorflow().io.decode_jpeg(encoded, dct_method='INTEGER_ACCURATE')


def with_aligned_corners(image, image_size):
  return tensorflow().compat.v1.image.resize_bilinear(
    image[None], image_size, align_corners=True
  )[0]


def between_zero_and_one(image, *_):
  return image / 255


def test_preprocessings_have_the_recorded_mean_and_std():
  half = 127.5, 127.5, 127.5
  for name, entry in preprocess.PREPROCESSINGS.items():
    assert preprocess.pick_preprocessing(name) is entry
    assert entry.name == name and entry.source and entry.description
    if name not in ('deit', 'efficientnet'):
      assert (entry.mean, entry.std) == (half, half)
  deit = preprocess.PREPROCESSINGS['deit']
  assert deit.mean == pytest.approx((123.675, 116.28, 103.53))
  assert deit.std == pytest.approx((58.395, 57.12, 57.375))


def test_decoders_of_tensorflow_and_pillow_differ_in_their_dct():
  tf, data = tensorflow(), PHOTOGRAPHS['china'].read_bytes()
  decoded = {
    method: tf.io.decode_jpeg(data, dct_method=method).numpy()
    for method in ('INTEGER_FAST', 'INTEGER_ACCURATE')
  }
  by = {
    'INTEGER_FAST': image_files.decode(data).numpy(),
    'INTEGER_ACCURATE': np.asarray(Image.open(PHOTOGRAPHS['china'])),
  }
  for method, image in decoded.items():
    np.testing.assert_array_equal(by[method], image)
  difference = np.subtract(*decoded.values(), dtype=int)
  assert np.abs(difference).max() == 18


@pytest.fixture(scope='module')
def crops(data_dir):
  with np.load(data_dir / 'eval_crops.npz') as arrays:
    return dict(arrays)


@pytest.mark.parametrize(
  'name, size, step',
  [('deit', 48, 1), ('big_vision', 224, 8), ('big_vision', 384, 16)],
)
def test_read_image_crops_as_the_original(crops, name, size, step):
  image = preprocess.read_image(
    PHOTOGRAPHS['china'], preprocessing=name, image_size=size
  )
  np.testing.assert_allclose(
    image[::step, ::step], crops[f'{name}_{size}'], rtol=0, atol=TOLERANCE
  )


def area_matrix(old, new):  # [new, old]
  """Returns the fraction of each old pixel in each new one, by its length."""
  starts = np.arange(new)[:, None] * old / new
  pixels = np.arange(old)
  shared = np.minimum(starts + old / new, pixels + 1)
  shared = shared - np.maximum(starts, pixels)
  return np.clip(shared, 0, None) * new / old


@pytest.mark.parametrize(
  'shape, size, resized, start',
  [
    ((12, 20), (7, 7), (8, 13), (0, 3)),  # 13.33 columns
    ((20, 13), (7, 7), (12, 8), (2, 0)),  # 12.31 rows
    ((13, 10), (7, 7), (10, 8), (1, 0)),  # 10.4 rows
    ((17, 21), (14, 7), (16, 20), (1, 6)),  # 19.76 columns; H decides
    ((21, 17), (7, 14), (20, 16), (6, 1)),
    ((5, 6), (14, 14), (16, 19), (1, 2)),  # enlarged; 19.2 columns
  ],
)
def test_big_vision_equals_a_computation_by_hand(shape, size, resized, start):
  """The area method sums fractions of pixels; the crop is counted by hand."""
  array = random_image((*shape, 3))
  rows, columns = map(area_matrix, shape, resized)
  wanted = np.einsum('ih,jw,hwc->ijc', rows, columns, array)
  top, left = start
  wanted = wanted[top : top + size[0], left : left + size[1]]
  image = preprocess.PREPROCESSINGS['big_vision'](encoded(array), size).numpy()
  assert image.dtype == np.float32
  values = (image + 1) * 127.5
  np.testing.assert_allclose(values, np.round(values), atol=1e-4)
  # Truncated, not rounded; sums near an integer may be just below it.
  values = np.round(values)
  whole = np.abs(wanted - np.round(wanted)) < 1e-3
  np.testing.assert_array_equal(values[~whole], np.floor(wanted)[~whole])
  assert np.abs(values - wanted)[whole].max(initial=0) < 1.001
  assert np.mean(whole) < 0.6


def by_pillow(image, resized, box, method=Image.Resampling.BICUBIC):
  """Returns [-1, 1] for sizes computed by hand: (w, h), (left, top, ...)."""
  image = image.resize(resized, method).crop(box)
  return np.asarray(image, np.float64) / 127.5 - 1


@pytest.mark.parametrize(
  'name, size, resized, start',
  [
    # china: 640 x 427. 224 / 0.9 = 248.9; 248 * 640 / 427 = 371.7.
    ('timm', 224, (371, 248), (74, 12)),  # 73.5 rounds to 74
    ('timm', 384, (575, 384), (96, 0)),  # crop_pct 1; 95.5 rounds to 96
    ('timm', 33, (53, 36), (10, 2)),  # 36.7; 1.5 rounds to 2
    ('timm:crop_pct=0.95', 224, (352, 235), (64, 6)),  # 5.5 rounds to 6
    ('timm:crop_pct=1', 50, (74, 50), (12, 0)),
    ('timm', (96, 160), (177, 118), (8, 11)),  # 106 x 177; 118.09 rows
  ],
)
def test_timm_equals_a_computation_by_hand(name, size, resized, start):
  path = PHOTOGRAPHS['china']
  image = preprocess.read_image(path, preprocessing=name, image_size=size)
  height, width, _ = image.shape
  left, top = start
  box = left, top, left + width, top + height
  wanted = by_pillow(Image.open(path), resized, box)
  np.testing.assert_allclose(image, wanted, rtol=0, atol=TOLERANCE)


def test_timm_with_bilinear_filter_equals_a_computation_by_hand():
  """448 pixels at crop_pct 1.0 cover the whole height of the photograph."""
  path = PHOTOGRAPHS['china']
  name = 'timm:crop_pct=1.0,interpolation=bilinear'
  image = preprocess.read_image(path, preprocessing=name, image_size=448)
  box = 112, 0, 560, 448  # 448 * 640 / 427 = 671.5; 111.5 rounds to 112
  bilinear = Image.Resampling.BILINEAR
  wanted = by_pillow(Image.open(path), (671, 448), box, bilinear)
  np.testing.assert_allclose(image, wanted, rtol=0, atol=TOLERANCE)
  bicubic = by_pillow(Image.open(path), (671, 448), box)
  assert np.abs(image - bicubic).max() > 0.05


def test_deit_accepts_crop_pct():
  """1.0 equals timm's at 384 pixels, except for the scaling of values."""
  path, images = PHOTOGRAPHS['flower'], {}
  for name in ('deit:crop_pct=1.0', 'timm:crop_pct=1.0', 'deit'):
    entry = preprocess.pick_preprocessing(name)
    assert entry.name == name
    image = preprocess.read_image(path, preprocessing=name, image_size=64)
    images[name] = image * np.array(entry.std) + np.array(entry.mean)
  full, timm, cut = images.values()
  np.testing.assert_allclose(full, timm, atol=1e-4)
  assert np.abs(full - cut).max() > 10


@pytest.mark.parametrize(
  'name, message',
  [
    ('caffe', "unknown preprocessing 'caffe'; choose from ['big_vision', 'bit"),
    (3, 'unknown preprocessing 3'),
    (None, 'unknown preprocessing None'),
    (
      'timm:',
      "are ['decoder=right|original', 'crop_pct=NUMBER', "
      "'interpolation=bicubic|bilinear'], not",
    ),
    ('timm:decoder=other', "decoder must be one of ['right', 'original']"),
    ('timm:crop=1', "'interpolation=bicubic|bilinear'], not 'crop=1'"),
    ('timm:interpolation=area', "must be one of ['bicubic', 'bilinear']"),
    (
      'bit:crop_pct=1',
      "parameters of 'bit' are ['decoder=right|original'], not 'crop_pct=1'",
    ),
    ('big_vision:x', "['decoder=right|original'], not 'x'"),
    *(
      (f'deit:crop_pct={value}', 'must be a number above 0 and at most 1')
      for value in ('', '0', '-0.5', '1.01', 'nan', 'inf', 'all')
    ),
    *(
      (f'deit:crop_pct=1,{more}', f"not 'crop_pct=1,{more}'")
      for more in ('2', 'crop=2')
    ),
  ],
)
def test_pick_preprocessing_rejects_names_and_parameters(name, message):
  with pytest.raises(ValueError) as caught:
    preprocess.pick_preprocessing(name)
  assert message in str(caught.value) and '\n' not in str(caught.value)
  assert repr(name) in str(caught.value)


def test_crop_pct_with_too_many_pixels_is_rejected():
  entry = preprocess.pick_preprocessing('timm:crop_pct=0.01')
  with pytest.raises(ValueError, match='asks for 22400 pixels'):
    entry(b'', (224, 224))


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
def test_reference_detects_a_wrong_step(
  reference, monkeypatch, name, step, other
):
  """Replaces one step at a time by a plausible alternative."""
  path = PHOTOGRAPHS['china']
  wanted = reference['china_full_vit_eval_48']

  def error():
    image = preprocess.read_image(path, preprocessing=name, image_size=48)
    return np.abs(image - wanted).max()

  assert error() <= TOLERANCE
  monkeypatch.setattr(preprocess, step, other)
  assert error() > 1e-3


@pytest.mark.parametrize('orientation', ['exif', 'none'])
@pytest.mark.parametrize(
  'name', ['timm', 'deit:crop_pct=0.7,interpolation=bilinear,decoder=original']
)
def test_read_image_by_pillow_equals_the_tensors(tmp_path, name, orientation):
  """`evaluate` reads tensors, `predict` arrays without TensorFlow."""
  path, exif = tmp_path / 'turned.jpg', Image.Exif()
  exif[0x0112] = 6
  Image.open(PHOTOGRAPHS['flower']).save(path, exif=exif)
  image = preprocess.read_image(
    path, preprocessing=name, image_size=(40, 56), orientation=orientation
  )
  function = preprocess.pick_preprocessing(name)
  tensor = function(path.read_bytes(), (40, 56), orientation)
  assert image.dtype == np.float32
  np.testing.assert_array_equal(image, tensor.numpy())


def test_image_size_is_height_and_width(tmp_path):
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


def test_decode_gives_three_channels():
  grey = random_image((6, 4))
  image = image_files.decode(encoded(grey)).numpy()
  np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, -1))
  rgba = random_image((6, 4, 4))
  image = image_files.decode(encoded(rgba)).numpy()
  np.testing.assert_array_equal(image, rgba[..., :3])
  for kind, array in [('gif', grey), ('bmp', rgba[..., :3])]:
    assert image_files.decode(encoded(array, kind)).shape == (6, 4, 3)
  cmyk = Image.fromarray(rgba[..., :3]).convert('CMYK')
  buffer = io.BytesIO()
  cmyk.save(buffer, 'jpeg')
  assert image_files.decode(buffer.getvalue()).shape == (6, 4, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
  'name', [*preprocess.PREPROCESSINGS, 'deit:crop_pct=1']
)
def test_preprocessing_runs_inside_tf_data(reference, name):
  data = encoded(reference['china_crop20x30'])
  function = preprocess.pick_preprocessing(name)
  dataset = tensorflow().data.Dataset.from_tensors(data)
  dataset = dataset.map(lambda x: function(x, (32, 16)))
  assert dataset.element_spec.shape == (32, 16, 3)
  (image,) = dataset.as_numpy_iterator()
  assert image.dtype == np.float32
  np.testing.assert_array_equal(image, function(data, (32, 16)).numpy())


@pytest.mark.parametrize('name', ['vit_jax', 'big_vision', 'timm'])
@pytest.mark.parametrize('damage', ['empty', 'text', 'cut jpeg', 'cut png'])
def test_error_names_an_invalid_image(tmp_path, damage, name):
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
    preprocess.read_image(path, preprocessing=name, image_size=8)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'file, reason', [(b'text', 'nknown image'), (b'\xff\xd8\xff\xe0', 'JPEG')]
)
@pytest.mark.parametrize('name', ['vit_jax', 'deit'])
def test_first_line_shortens_an_error_in_a_graph(name, file, reason):
  tf = tensorflow()
  function = preprocess.pick_preprocessing(name)

  def image(file):
    return function(file, (8, 8))

  dataset = tf.data.Dataset.from_tensors(file).map(image)
  for run in (
    lambda: next(dataset.as_numpy_iterator()),
    lambda: tf.function(image, autograph=False)(tf.constant(file)),
  ):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
      run()
    line = preprocess.first_line(caught.value)
    assert reason in line
    for text in ('\n', '{{', 'Traceback', 'ValueError', 'Graph', 'File', '[Op'):
      assert text not in line


def test_read_image_rejects_a_missing_file(tmp_path):
  with pytest.raises(FileNotFoundError, match='nothing'):
    preprocess.read_image(
      tmp_path / 'nothing.png', preprocessing='vit_jax', image_size=8
    )


def test_read_image_names_what_is_no_file(tmp_path):
  os.mkfifo(tmp_path / 'x.png')
  options = dict(preprocessing='vit_jax', image_size=8)
  with pytest.raises(ValueError, match='is a folder; give an image file'):
    preprocess.read_image(tmp_path, **options)
  with pytest.raises(ValueError, match='is a device or pipe; give an image'):
    preprocess.read_image(tmp_path / 'x.png', **options)


def test_check_image_size_rejects_wrong_sizes():
  for size in [0, -3, 2.5, (3, 4, 5), (0, 4), 'x', ()]:
    with pytest.raises(ValueError, match='must be a positive number'):
      preprocess.check_image_size(size)
  largest = preprocess.MAX_IMAGE_SIZE
  assert preprocess.check_image_size(largest) == (largest, largest)
  with pytest.raises(ValueError, match='is above 8192 pixels'):
    preprocess.check_image_size((8, largest + 1))
