import collections
import io
import itertools

import numpy as np
import pytest
from photographs import PHOTOGRAPHS
from PIL import Image

from vit_jax_repro.data import augment, preprocess
from vit_jax_repro.data.order import fold_in, key_of
from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.training import mixing

pytestmark = pytest.mark.quick

PHOTOGRAPH = PHOTOGRAPHS['china'].read_bytes()
NOTHING = {'inception_crop': False, 'flip': False}


@pytest.fixture(scope='module')
def small():
  """Returns a PNG file of 6x5 pixels that are all different."""
  pixels = np.arange(90, dtype=np.uint8).reshape(6, 5, 3)
  return tensorflow().io.encode_png(pixels).numpy()


def train_image(encoded, key, **options):
  return augment.train_image(encoded, key, augment.Augmentation(**options))


def images(encoded, number, **options):  # -> [number, H, W, 3]
  """Augments an image with keys 0, 1, ... inside tf.data."""
  tf = tensorflow()
  dataset = tf.data.Dataset.range(number).map(
    lambda i: train_image(encoded, fold_in(key_of(1), i), **options)
  )
  return next(dataset.batch(number).as_numpy_iterator())


def squashed(encoded, size):
  return preprocess.PREPROCESSINGS['vit_jax'](encoded, size).numpy()


def test_train_image_without_augmentation_equals_evaluation():
  image = train_image(PHOTOGRAPH, key_of(0), crop=(32, 48), **NOTHING)
  assert (image.shape, image.dtype) == ((32, 48, 3), 'float32')
  np.testing.assert_array_equal(image, squashed(PHOTOGRAPH, (32, 48)))


def test_train_image_depends_on_its_key_only(small):
  options = dict(crop=9, resize=12, shift=2)
  piped = images(small, 20, **options)
  np.testing.assert_array_equal(piped, images(small, 20, **options))
  for i in range(20):
    key = fold_in(key_of(1), i)
    alone = train_image(small, key, **options)
    np.testing.assert_array_equal(alone, piped[i])
  assert len(np.unique(piped, axis=0)) == 20


@pytest.mark.parametrize('shape', [(427, 640), (300, 300), (40, 500)])
def test_random_box_is_inside_and_has_5_to_100_percent(shape):
  height, width = shape
  areas = []
  for i in range(300):
    begin, size = augment.random_box((*shape, 3), fold_in(key_of(0), i))
    (y, x, first), (h, w, channels) = begin.numpy(), size.numpy()
    assert (first, channels) == (0, -1)
    assert 0 <= y <= y + h <= height and 0 <= x <= x + w <= width
    if (h, w) != shape:  # the whole image is the fallback
      assert (w - 1) / (h + 1) <= 1.34 and (w + 1) / (h - 1) >= 0.74
    areas.append(h * w / (height * width))
  assert min(areas) >= 0.045 and max(areas) <= 1  # sides are rounded
  if shape != (40, 500):
    assert min(areas) < 0.1 and max(areas) > 0.8
    assert 0.3 < np.mean(areas) < 0.6


def test_tiny_images_have_boxes(small):
  assert np.isfinite(images(small, 50, crop=4)).all()


def test_inception_crop_is_slice_and_resize():
  tf = tensorflow()
  photograph = tf.io.decode_image(PHOTOGRAPH)
  for i in range(3):
    key = fold_in(key_of(0), i)
    begin, size = augment.random_box(
      photograph.shape, fold_in(key, augment._BOX)
    )
    (y, x, _), (h, w, _) = begin.numpy(), size.numpy()
    box = photograph[y : y + h, x : x + w]
    expected = (tf.image.resize(box, (32, 24)) - 127.5) / 127.5
    image = train_image(
      PHOTOGRAPH, key, crop=(32, 24), flip=False, exact_decode=True
    )
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize('name, largest', [('china', 18), ('flower', 25)])
def test_decode_box_differs_from_exact_decoding_by_at_most(name, largest):
  """Only single values at the edges of the box differ.

  Colours are stored at half the resolution, and upsampling them at the edge of
  a box lacks the neighbours outside. The photographs themselves store colours
  at full resolution, so their values do not differ.
  """
  tf = tensorflow()
  pixels = tf.io.decode_image(PHOTOGRAPHS[name].read_bytes())
  encoded = tf.io.encode_jpeg(pixels, quality=90)  # colours at half resolution
  whole = tf.io.decode_image(encoded).numpy()
  differences = []
  for i in range(100):
    key = fold_in(key_of(0), i)
    begin, size = augment.random_box(whole.shape, key)
    (y, x, _), (h, w, _) = begin.numpy(), size.numpy()
    box = augment.decode_box(encoded, key).numpy()
    assert box.shape == (h, w, 3)
    difference = np.abs(np.int32(box) - whole[y : y + h, x : x + w])
    differences.append((difference.max(), (difference > 0).mean()))
  most, share = np.max(differences, axis=0)
  assert 0 < most <= largest and share < 0.007


def test_box_of_png_equals_exact_decoding():
  """Only JPEG has a decoder for boxes."""
  tf = tensorflow()
  encoded = tf.io.encode_png(tf.io.decode_image(PHOTOGRAPH)).numpy()
  for i in range(3):
    key = fold_in(key_of(0), i)
    np.testing.assert_array_equal(
      train_image(encoded, key, crop=24),
      train_image(PHOTOGRAPH, key, crop=24, exact_decode=True),
    )


def odd_files():
  """Yields names and bytes of unusual but valid image files."""
  image = Image.open(PHOTOGRAPHS['china']).resize((64, 48))
  deep = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 16
  files = {
    'CMYK': (image.convert('CMYK'), 'JPEG'),
    'grey': (image.convert('L'), 'JPEG'),
    'grey and alpha': (image.convert('LA'), 'PNG'),
    '16 bits': (Image.fromarray(deep), 'PNG'),
    'palette': (image.convert('P'), 'PNG'),
    'alpha': (image.convert('RGBA'), 'PNG'),
    'progressive': (image, 'JPEG'),
  }
  for name, (picture, kind) in files.items():
    file = io.BytesIO()
    options = {'progressive': True} if name == 'progressive' else {}
    picture.save(file, kind, **options)
    yield name, file.getvalue()


@pytest.mark.parametrize('name, encoded', list(odd_files()))
def test_unusual_files_equal_in_training_and_evaluation(name, encoded):
  whole = train_image(encoded, key_of(0), crop=(48, 64), **NOTHING).numpy()
  np.testing.assert_array_equal(whole, squashed(encoded, (48, 64)))
  assert whole.std() > 0.1
  for i in range(5):  # random boxes
    key = fold_in(key_of(0), i)
    exact = train_image(encoded, key, crop=16, exact_decode=True)
    quick = train_image(encoded, key, crop=16)
    np.testing.assert_allclose(quick, exact, atol=0.2)
  if name == '16 bits':  # reduced to eight bits
    wanted = np.arange(48 * 64).reshape(48, 64) * 16 // 256
    np.testing.assert_allclose(whole[..., 0] * 127.5 + 127.5, wanted, atol=1)


def test_random_crops_are_cut_out_of_the_resized_image(small):
  whole = squashed(small, (9, 10))
  crops = {
    whole[y : y + 6, x : x + 7].tobytes(): (y, x)
    for y, x in itertools.product(range(4), range(4))
  }
  found = images(small, 400, crop=(6, 7), resize=(9, 10), **NOTHING)
  counts = collections.Counter(crops[image.tobytes()] for image in found)
  assert len(counts) == 16 and min(counts.values()) > 8  # of 25 on average


def test_box_is_resized_and_then_cropped(small):
  tf = tensorflow()
  key = key_of(3)
  options = dict(resize=9, flip=False)
  larger = train_image(small, key, crop=9, **options).numpy()
  image = train_image(small, key, crop=8, **options).numpy()
  corners = itertools.product(range(2), range(2))
  assert any((larger[y:, x:][:8, :8] == image).all() for y, x in corners)
  box = tf.io.decode_image(small).numpy().astype(np.float32) / 127.5 - 1
  assert larger.min() >= box.min() and larger.max() <= box.max()


def test_half_of_the_images_are_flipped(small):
  image = squashed(small, (6, 5))
  found = images(small, 400, crop=(6, 5), inception_crop=False)
  flipped = sum((row == image[:, ::-1]).all() for row in found)
  unchanged = sum((row == image).all() for row in found)
  assert flipped + unchanged == 400
  assert 160 < flipped < 240  # four standard deviations


def test_legacy_always_flip_flips_each_image(small):
  image = squashed(small, (6, 5))
  options = dict(crop=(6, 5), inception_crop=False, legacy_always_flip=True)
  for flip in (True, False):
    found = images(small, 50, flip=flip, **options)
    np.testing.assert_array_equal(found, [image[:, ::-1]] * 50)


def test_uint8_image_is_rounded_and_left_for_the_device_to_finish():
  """Flip and normalisation on the device; the flips are those of float32."""
  flips = collections.Counter()
  for i in range(12):
    key = fold_in(key_of(0), i)
    for options in (dict(crop=(33, 30)), dict(crop=24, resize=(30, 28))):
      wanted = augment.Augmentation(dtype='uint8', **options)
      batch = augment.train_example(PHOTOGRAPH, key, wanted)
      batch = {name: value.numpy()[None] for name, value in batch.items()}
      assert batch['image'].dtype == np.uint8
      flips[batch['flip'].item()] += 1
      (found,) = mixing.normalize(
        mixing.flip(batch), mean=wanted.mean, std=wanted.std
      )['image']
      image = train_image(PHOTOGRAPH, key, **options).numpy()
      assert 0 < np.abs(found - image).max() <= 0.5 / 127.5 + 1e-6
  assert min(flips.values()) > 5  # of 12 on average


@pytest.mark.parametrize(
  'options, expected',
  [
    ({}, None),
    ({'dtype': 'uint8', 'flip': False}, None),
    ({'dtype': 'uint8', 'shift': 1}, None),
    ({'dtype': 'uint8', 'randaugment_layers': 1}, None),
    ({'dtype': 'uint8', 'flip': False, 'legacy_always_flip': True}, True),
  ],
)
def test_train_example_leaves_the_last_flip_to_the_device(
  small, options, expected
):
  wanted = augment.Augmentation(crop=4, **options)
  found = augment.train_example(small, key_of(0), wanted)
  assert ('flip' in found and bool(found['flip'])) == bool(expected)
  assert wanted.flips_on_device == (expected is not None)


def test_train_image_scales_by_mean_and_std():
  mean, std = preprocess.IMAGENET_MEAN, preprocess.IMAGENET_STD
  options = dict(crop=(16, 12), **NOTHING)
  image = train_image(PHOTOGRAPH, key_of(0), **options).numpy()
  other = train_image(PHOTOGRAPH, key_of(0), mean=mean, std=std, **options)
  expected = (image * 127.5 + 127.5 - np.array(mean)) / np.array(std)
  np.testing.assert_allclose(other, expected, rtol=0, atol=1e-5)


def test_randaugment_is_applied_after_flip_and_shift(small):
  """Its input has integer pixel values."""
  options = dict(crop=(6, 5), inception_crop=False, shift=1)
  for i in range(5):
    key = fold_in(key_of(2), i)
    image = train_image(small, key, dtype='uint8', **options)
    changed = train_image(
      small, key, dtype='uint8', randaugment_layers=2, **options
    )
    expected = augment.randaugment.randaugment(
      image, fold_in(key, augment._RANDAUGMENT), layers=2, magnitude=10
    )
    np.testing.assert_array_equal(changed, expected)


@pytest.mark.parametrize('shift', [1, 2, 7])
def test_shift_repeats_pixels_of_the_edge(small, shift):
  image = squashed(small, (6, 5))
  padded = np.pad(image, [(shift, shift), (shift, shift), (0, 0)], 'edge')
  moved = {
    padded[y : y + 6, x : x + 5].tobytes()
    for y, x in itertools.product(range(2 * shift + 1), repeat=2)
  }
  found = images(small, 400, crop=(6, 5), shift=shift, **NOTHING)
  seen = {row.tobytes() for row in found}
  assert seen <= moved
  assert len(seen) == len(moved) or shift == 7  # some of the 225 are equal


def test_flip_and_shift_are_independent(small):
  """Adding an operation does not change the others' random numbers."""
  options = dict(crop=(6, 5), inception_crop=False)
  flipped = images(small, 400, flip=True, **options)
  both = images(small, 400, flip=True, shift=1, **options)
  shifted = images(small, 400, flip=False, shift=1, **options)
  image = squashed(small, (6, 5))
  pairs = collections.Counter()
  for one, two, three in zip(flipped, both, shifted, strict=True):
    flip = not (one == image).all()
    padded = np.pad(one, [(1, 1), (1, 1), (0, 0)], 'edge')
    plain = np.pad(image, [(1, 1), (1, 1), (0, 0)], 'edge')
    move = next(
      (y, x)
      for y, x in itertools.product(range(3), repeat=2)
      if (plain[y : y + 6, x : x + 5] == three).all()
    )
    y, x = move
    np.testing.assert_array_equal(two, padded[y : y + 6, x : x + 5])
    pairs[flip, move] += 1
  assert len(pairs) == 18 and min(pairs.values()) > 7  # of 22 on average


def test_no_key_is_used_twice(small, monkeypatch):
  used = []

  def recording(key, number):
    used.append(number)
    return fold_in(key, number)

  monkeypatch.setattr(augment, 'fold_in', recording)
  train_image(small, key_of(0), crop=4, resize=6, shift=1, randaugment_layers=1)
  assert len(used) == len(set(used)) == 5


@pytest.mark.parametrize(
  'options, message',
  [
    ({'crop': 0}, 'image size 0 must be a positive number'),
    ({'crop': 4, 'resize': 'x'}, "image size 'x' must be"),
    ({'crop': 4, 'resize': 3}, r'resize=\(3, 3\) must be at least .*\(4, 4\)'),
    ({'crop': (4, 6), 'resize': (9, 5)}, r'resize=\(9, 5\) must be'),
    ({'crop': 4, 'shift': -1}, 'shift=-1 must be 0 or a positive number'),
    ({'crop': 4, 'shift': 0.5}, r'shift=0\.5 must be'),
    ({'crop': 4, 'dtype': 'int8'}, r"dtype='int8' must be one of .*'uint8'"),
    ({'crop': 4, 'randaugment_layers': -1}, 'RandAugment layers=-1 must be'),
    ({'crop': 4, 'randaugment_magnitude': 21}, r'magnitude=21 must lie in 0\.'),
    ({'crop': 4, 'randaugment_policy': 'x'}, "unknown RandAugment policy='x'"),
  ],
)
def test_train_image_rejects_wrong_arguments(small, options, message):
  with pytest.raises(ValueError, match=message) as caught:
    train_image(small, key_of(0), **options)
  assert '\n' not in str(caught.value)
