"""Large images are resized without a cast to float, with the same bits."""

import io
import itertools
import time

import numpy as np
import pytest
from photographs import PHOTOGRAPHS
from PIL import Image

from vit_jax_repro.data import augment, preprocess
from vit_jax_repro.data.order import fold_in, key_of
from vit_jax_repro.data.tf_host import tensorflow

pytestmark = pytest.mark.quick

# Sizes of an image and of the result, on both sides of the limit for the cast.
SHAPES = (1, 1), (2, 300), (300, 2), (37, 53), (64, 64), (333, 200), (603, 801)
SIZES = (1, 1), (7, 7), (65, 30), (32, 200), (128, 128)


def cast_first(image, image_size, **options):
  tf = tensorflow()
  image = tf.cast(image, tf.float32)
  return tf.image.resize(image, image_size, **options)


def is_cast(shape, size):
  return np.prod(shape) <= preprocess._CAST_UP_TO * np.prod(size)


@pytest.mark.parametrize('method', ['bilinear', 'area', 'bicubic', 'lanczos3'])
@pytest.mark.parametrize('antialias', [False, True])
def test_squash_of_integers_equals_that_of_floats(method, antialias):
  cases = list(itertools.product(SHAPES, SIZES))
  assert 5 < sum(is_cast(*case) for case in cases) < len(cases) - 5
  for seed, (shape, size) in enumerate(cases):
    generator = np.random.default_rng(seed)
    image = generator.integers(256, size=(*shape, 3), dtype=np.uint8)
    options = dict(method=method, antialias=antialias)
    found = preprocess.squash(image, size, **options)
    assert (found.shape, found.dtype) == ((*size, 3), 'float32')
    np.testing.assert_array_equal(found, cast_first(image, size, **options))


def test_squash_takes_floats_beyond_the_limit():
  image = np.random.default_rng(0).random((90, 80, 3), np.float32)
  found = preprocess.squash(image, (5, 4))
  np.testing.assert_array_equal(found, cast_first(image, (5, 4)))


def files():
  """Yields (name, file) of all colour modes, narrow, wide and turned."""
  china = Image.open(PHOTOGRAPHS['china'])
  kinds = [('RGB', 'JPEG'), ('L', 'JPEG'), ('CMYK', 'JPEG'), ('RGBA', 'PNG')]
  kinds += [('P', 'PNG'), ('1', 'PNG'), ('I;16', 'PNG'), ('RGB', 'BMP')]
  kinds += [('P', 'GIF'), ('RGB', 'WEBP'), ('RGB', 'TIFF')]
  for (mode, kind), size in itertools.product(
    kinds, [(320, 213), (40, 260), (500, 20)]
  ):
    image = china.resize(size)
    if mode == 'I;16':
      deep = np.asarray(image.convert('L'), np.uint16) * 256
      image = Image.fromarray(deep)
    image = image if image.mode == mode else image.convert(mode)
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    options = {'exif': exif} if kind in ('JPEG', 'WEBP') else {}
    image.save(file, kind, **options)
    yield f'{mode} {kind} {size}', file.getvalue()


def arrays(make):
  """Returns {name of a file: array} of the function that `make` returns."""
  tf = tensorflow()
  plain = tf.autograph.experimental.do_not_convert(make())
  specs = [tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)]
  graph = tf.function(plain).get_concrete_function(*specs)
  return {
    f'{name} {number}': graph(tf.constant(file), tf.constant(number)).numpy()
    for name, file in files()
    for number in np.arange(3)
  }


def check_without_the_cast(monkeypatch, make):
  """Compares the arrays of all files with those of a cast before the resize."""
  found = arrays(make)
  monkeypatch.setattr(preprocess, 'squash', cast_first)
  monkeypatch.setattr(augment, 'squash', cast_first)
  for name, wanted in arrays(make).items():
    np.testing.assert_array_equal(found[name], wanted, err_msg=name)
    assert wanted.std() > 0


@pytest.mark.parametrize('orientation', ['exif', 'none'])
@pytest.mark.parametrize('name', ['vit_jax', 'bit', 'big_vision'])
def test_preprocessings_equal_those_with_a_cast(name, orientation, monkeypatch):
  entry = preprocess.PREPROCESSINGS[name]
  check_without_the_cast(
    monkeypatch, lambda: lambda file, _: entry(file, (24, 32), orientation)
  )


@pytest.mark.parametrize(
  'options',
  [
    {'crop': (24, 16)},
    {'crop': 24, 'exact_decode': True, 'dtype': 'uint8'},
    {'crop': 16, 'reduced_decode': True, 'orientation': 'exif'},
    {'crop': 16, 'resize': (20, 30), 'inception_crop': False},
  ],
  ids=lambda options: ' '.join(map(str, options)),
)
def test_training_images_equal_those_with_a_cast(options, monkeypatch):
  wanted = augment.Augmentation(**options)

  def boxes(file, number):
    key = fold_in(key_of(0), number)
    return augment.train_image(file, key, wanted)

  check_without_the_cast(monkeypatch, lambda: boxes)


def test_squash_of_a_large_image_takes_no_cast():
  tf = tensorflow()
  image = tf.zeros([3000, 4000, 3], tf.uint8)

  def seconds(function):
    function()
    times = []
    for _ in range(3):
      start = time.process_time()
      function()
      times.append(time.process_time() - start)
    return min(times)

  cast = seconds(lambda: tf.cast(image, tf.float32))
  assert seconds(lambda: preprocess.squash(image, (64, 64))) < cast / 3
