"""RandAugment's draws of operations, and the amounts at a magnitude."""

import collections
import functools

import numpy as np
import pytest
from photographs import PHOTOGRAPHS
from PIL import Image, ImageEnhance, ImageOps

from vit_jax_repro.data import randaugment as module
from vit_jax_repro.data.order import fold_in, key_of
from vit_jax_repro.data.randaugment import randaugment
from vit_jax_repro.data.tf_host import tensorflow

COUNTS = {'big_vision': 16, 'deit': 15}
MAGNITUDES = {'big_vision': 15, 'deit': 9}
each_policy = pytest.mark.parametrize('policy', COUNTS)


@pytest.fixture(scope='module')
def photograph():  # [64, 80, 3]
  image = Image.open(PHOTOGRAPHS['china']).convert('RGB')
  return np.asarray(image)[100:164, 200:280]


def piped(image, number, *, known=True, **settings):
  """Augments an image with keys 0, 1, ... in a parallel tf.data."""
  tf = tensorflow()

  def augmented(i, image):
    return randaugment(image, fold_in(key_of(1), i), **settings)

  spec = tf.TensorSpec(image.shape if known else [None, None, 3], tf.uint8)
  images = tf.data.Dataset.from_generator(
    lambda: iter([image]), output_signature=spec
  ).repeat()
  dataset = tf.data.Dataset.zip(tf.data.Dataset.range(number), images)
  dataset = dataset.map(augmented, num_parallel_calls=4)
  assert dataset.element_spec.shape.as_list() == spec.shape.as_list()
  return next(dataset.batch(number).as_numpy_iterator())


@pytest.fixture(scope='module')
def augmented(photograph):
  """Returns a function of a policy that augments the photograph 200 times."""

  @functools.cache
  def by(policy):
    settings = dict(layers=2, magnitude=MAGNITUDES[policy], policy=policy)
    return piped(photograph, 200, **settings)

  return by


def one(name, image, magnitude, policy, key=0):
  """Applies one operation to an image."""
  part = magnitude / 10
  if policy == 'deit':
    part = tensorflow().constant(part, 'float32')
  operations, _ = module._POLICIES[policy]
  tensor = tensorflow().constant(image)
  return operations(tensor, part, key_of(key))[name]().numpy()


@each_policy
def test_randaugment_depends_on_its_key_only(photograph, augmented, policy):
  settings = dict(layers=2, magnitude=MAGNITUDES[policy], policy=policy)
  found = augmented(policy)[:60]
  assert (found.shape, found.dtype) == ((60, 64, 80, 3), 'uint8')
  again = piped(photograph, 60, known=False, **settings)
  np.testing.assert_array_equal(found, again)
  for i in range(12):
    alone = randaugment(photograph, fold_in(key_of(1), i), **settings)
    np.testing.assert_array_equal(alone, found[i])
  # Some operations have no random amount, and DeiT skips some.
  assert len({image.tobytes() for image in found}) > 30


def marking(operations):
  """Returns a policy whose operation i maps a value v to 20 v + i + 1."""

  def marks(image, part, key):
    tf = tensorflow()
    return {
      name: lambda i=i: image * 20 + tf.cast(i + 1, tf.uint8)
      for i, name in enumerate(operations(image, part, key))
    }

  return marks


@each_policy
def test_operations_are_equally_frequent(monkeypatch, policy):
  operations, largest = module._POLICIES[policy]
  monkeypatch.setitem(module._POLICIES, policy, (marking(operations), largest))
  black = np.zeros((1, 1, 3), 'u1')
  settings = dict(magnitude=9, policy=policy)
  found = piped(black, 2400, layers=1, **settings)[:, 0, 0, 0]
  counts = collections.Counter(found.tolist())
  expected = 2400 / COUNTS[policy]
  if policy == 'deit':
    assert abs(counts.pop(0) - 1200) < 100  # four standard deviations
    expected /= 2
  assert sorted(counts) == list(range(1, COUNTS[policy] + 1))
  chi_square = sum((n - expected) ** 2 / expected for n in counts.values())
  assert chi_square < 39  # quantile 0.999 for 15 degrees of freedom
  # The first layer's operation does not determine the second one's.
  both = piped(black, 1000, layers=2, **settings)[:, 0, 0, 0]
  pairs = {tuple(divmod(int(mark), 20)) for mark in both if mark > 20}
  assert len(pairs) > 80


def test_randaugment_of_no_layers_keeps_the_image(photograph):
  found = randaugment(photograph, key_of(0), layers=0, magnitude=10)
  np.testing.assert_array_equal(found, photograph)


def test_deit_keeps_a_quarter_of_the_images(photograph, augmented):
  found = augmented('deit')
  unchanged = (found == photograph).all((1, 2, 3)).mean()
  assert 0.13 < unchanged < 0.4  # and equalize may keep an image


def test_deit_draws_magnitudes(monkeypatch):
  """Their distribution is N(9, 0.5), clipped at 10."""

  def only(image, part, key):
    tf = tensorflow()
    return {'Level': lambda: tf.fill([1, 1, 3], tf.cast(part * 200, 'uint8'))}

  monkeypatch.setitem(module._POLICIES, 'deit', (only, 10))
  black = np.zeros((1, 1, 3), 'u1')
  found = piped(black, 2000, layers=1, magnitude=9, policy='deit')[:, 0, 0, 0]
  levels = found[found > 0] / 20
  assert levels.max() == 10 and 0.01 < (levels == 10).mean() < 0.04
  assert abs(levels.mean() - 9) < 0.08 and abs(levels.std() - 0.5) < 0.05
  found = piped(black, 200, layers=1, magnitude=0, policy='deit')[:, 0, 0, 0]
  assert found.max() / 20 < 3 and (found == 0).mean() > 0.6


ENHANCERS = ['Color', 'Contrast', 'Brightness', 'Sharpness']


@pytest.mark.parametrize('magnitude', [0, 5, 10, 15, 20])
def test_amounts_of_big_vision_equal_pillow(photograph, magnitude):
  picture = Image.fromarray(photograph)

  def found(name):
    return one(name, photograph, magnitude, 'big_vision')

  for name in set(ENHANCERS) - {'Contrast'}:
    factor = magnitude * 0.18 + 0.1
    wanted = getattr(ImageEnhance, name)(picture).enhance(factor)
    difference = np.int32(found(name)) - np.asarray(wanted)
    assert np.abs(difference).max() <= 1  # 0.18 and 1.8 / 10 round differently
  for name in ('AutoContrast', 'Equalize', 'Invert'):
    wanted = getattr(ImageOps, name.lower())(picture)
    np.testing.assert_array_equal(found(name), wanted)
  bits = {0: 1, 5: 2, 10: 4, 15: 6, 20: 8}[magnitude]
  np.testing.assert_array_equal(
    found('Posterize'), ImageOps.posterize(picture, bits)
  )
  threshold = {0: 0, 5: 128, 10: 0, 15: 128, 20: 0}[magnitude]
  np.testing.assert_array_equal(
    found('Solarize'), ImageOps.solarize(picture, threshold)
  )
  added = np.minimum(np.int32(photograph) + 11 * magnitude, 255)
  np.testing.assert_array_equal(
    found('SolarizeAdd'), np.where(photograph < 128, added, photograph)
  )


@pytest.mark.parametrize(
  ('shape', 'level'), [((64, 80), 20), ((224, 224), 196), ((300, 300), 255)]
)
def test_contrast_of_big_vision_depends_on_the_number_of_pixels(shape, level):
  image = np.full((*shape, 3), 100, 'u1')
  found = one('Contrast', image, 10, 'big_vision')
  wanted = int(np.clip(level + 1.9 * (100 - level), 0, 255))
  np.testing.assert_array_equal(found, np.full_like(image, wanted))


def shifted(image, axis, by, fill=128):
  """Moves the values at position p + by to position p."""
  found = np.full_like(image, fill)
  size = image.shape[axis]
  to, origin = [slice(None)] * 2, [slice(None)] * 2
  to[axis] = slice(max(0, -by), max(0, size - max(by, 0)))
  origin[axis] = slice(max(0, by), max(0, size + min(by, 0)))
  found[tuple(to)] = image[tuple(origin)]
  return found


@pytest.mark.parametrize('name', ['TranslateX', 'TranslateY'])
def test_translation_of_big_vision_has_both_directions(photograph, name):
  axis = {'TranslateY': 0, 'TranslateX': 1}[name]
  there, back = (shifted(photograph, axis, by) for by in (30, -30))
  found = [one(name, photograph, 3, 'big_vision', key) for key in range(60)]
  sides = [
    int((image == there).all()) - int((image == back).all()) for image in found
  ]
  assert set(sides) == {-1, 1} and 14 < sides.count(1) < 46
  # 100 pixels at magnitude 10 are the whole image.
  gone = one(name, photograph, 10, 'big_vision')
  assert (gone == 128).all()


def test_cutout_of_big_vision_fills_squares_at_random_centers(photograph):
  image = np.minimum(photograph, 127)
  centers = []
  for key in range(80):
    hole = (one('Cutout', image, 2, 'big_vision', key) == 128).all(-1)
    rows, columns = hole.any(1), hole.any(0)
    np.testing.assert_array_equal(hole, rows[:, None] & columns)
    assert rows.sum() <= 16 and columns.sum() <= 16  # 8 pixels on each side
    if rows.sum() == columns.sum() == 16:
      centers.append((rows.argmax(), columns.argmax()))
  assert len(set(centers)) > 20
  np.testing.assert_array_equal(one('Cutout', image, 0, 'big_vision'), image)


@pytest.mark.parametrize('policy', COUNTS)
@pytest.mark.parametrize('name', ['Rotate', 'ShearX', 'ShearY'])
def test_rotation_and_shear_amounts_and_fixed_points(policy, name):
  """Magnitude 10 rotates by 30 degrees and shears by 0.3 of the other side."""
  image = np.zeros((61, 61, 3), 'u1')
  point = {'Rotate': (30, 48), 'ShearX': (50, 30), 'ShearY': (30, 40)}[name]
  image[point[0] - 1 : point[0] + 2, point[1] - 1 : point[1] + 2] = 255
  places = set()
  for key in range(20):
    found = one(name, image, 10, policy, key)
    bright = np.argwhere(found.min(-1) > 200)
    places.add(tuple(np.round(bright.mean(0)).astype(int).tolist()))
  if name == 'Rotate':  # 18 pixels from the centre
    wanted = {(39, 46), (21, 46)}
  elif name == 'ShearX':
    wanted = {(50, 15), (50, 45)}
  else:
    wanted = {(18, 40), (42, 40)}
  assert places == wanted


DEIT_FACTORS = [1 - 0.81, 1 + 0.81]


def test_amounts_of_deit_equal_pillow(photograph):
  picture = Image.fromarray(photograph)

  def found(name, key=0, magnitude=9):
    return one(name, photograph, magnitude, 'deit', key)

  for name in ENHANCERS:
    both = [
      np.asarray(getattr(ImageEnhance, name)(picture).enhance(factor))
      for factor in DEIT_FACTORS
    ]
    chosen = set()
    for key in range(8):
      image = np.int32(found(f'{name}Increasing', key))
      errors = [np.abs(image - wanted).max() for wanted in both]
      assert min(errors) <= 1  # float32 compared with float64
      chosen.add(int(np.argmin(errors)))
    assert chosen == {0, 1}
  for magnitude, bits in {0: 4, 2.4: 4, 2.6: 3, 9: 1}.items():
    np.testing.assert_array_equal(
      found('PosterizeIncreasing', 0, magnitude),
      ImageOps.posterize(picture, bits),
    )
  assert not found('PosterizeIncreasing', 0, 10).any()
  for magnitude, threshold in {0: 256, 5: 128, 9: 26, 10: 0}.items():
    np.testing.assert_array_equal(
      found('SolarizeIncreasing', 0, magnitude),
      ImageOps.solarize(picture, threshold),
    )
  added = np.minimum(np.int32(photograph) + 99, 255)
  np.testing.assert_array_equal(
    found('SolarizeAdd'), np.where(photograph < 128, added, photograph)
  )


@pytest.mark.parametrize('name', ['TranslateXRel', 'TranslateYRel'])
def test_deit_translates_by_fractions_of_a_side(photograph, name):
  """The fraction is 0.45 at magnitude 10: 36 of 80 columns, 28.8 of 64 rows."""
  axis = {'TranslateYRel': 0, 'TranslateXRel': 1}[name]
  magnitude = {'TranslateYRel': 6.25, 'TranslateXRel': 10}[name]
  by = {'TranslateYRel': 18, 'TranslateXRel': 36}[name]
  wanted = [
    shifted(photograph, axis, way * by, (124, 116, 104)) for way in (1, -1)
  ]
  seen = set()
  for key in range(10):
    found = np.int32(one(name, photograph, magnitude, 'deit', key))
    errors = [np.abs(found - image).max() for image in wanted]
    assert min(errors) <= 1
    seen.add(int(np.argmin(errors)))
  assert seen == {0, 1}


def test_magnitude_0_of_deit_keeps_the_image(photograph):
  names = ['Rotate', 'ShearX', 'TranslateYRel', 'SolarizeAdd']
  for name in [*names, *(f'{enhancer}Increasing' for enhancer in ENHANCERS)]:
    found = one(name, photograph, 0, 'deit')
    np.testing.assert_array_equal(found, photograph)


@each_policy
@pytest.mark.parametrize('shape', [(1, 1), (2, 3)])
def test_randaugment_keeps_the_shape_of_tiny_images(policy, shape):
  image = np.random.default_rng(0).integers(0, 256, (*shape, 3), 'u1')
  found = piped(image, 30, layers=2, magnitude=10, policy=policy)
  assert found.shape == (30, *shape, 3)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'layers': -1}, 'layers=-1 must be 0 or a positive number'),
    ({'layers': 1.5}, r'layers=1\.5 must be'),
    ({'magnitude': 21}, r"magnitude=21 must lie in 0\.\.20, .* 'big_vision'"),
    ({'magnitude': -1}, r'magnitude=-1 must lie in 0\.\.20'),
    (
      {'magnitude': 11, 'policy': 'deit'},
      r"magnitude=11 must lie in 0\.\.10, the range of 'deit'",
    ),
    (
      {'policy': 'paper'},
      r"unknown RandAugment policy='paper'; choose from \['big_vision', 'deit'",
    ),
  ],
)
def test_randaugment_rejects_wrong_settings(photograph, settings, message):
  settings = dict(layers=2, magnitude=10) | settings
  for function in (module.check, lambda **s: randaugment(photograph, 0, **s)):
    with pytest.raises(ValueError, match=message) as caught:
      function(**settings)
    assert '\n' not in str(caught.value)


def test_randaugment_rejects_float_images(photograph):
  with pytest.raises(ValueError, match='takes uint8 images, not float32'):
    randaugment(np.float32(photograph), key_of(0), layers=2, magnitude=10)
