"""Mixup, CutMix, random erasing and normalisation of whole batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax_repro.parallel import mesh
from vit_jax_repro.training import mixing

quick = pytest.mark.quick

CLASSES = 5


def example_batch(size=8, height=6, width=10):
  """Returns a batch in which every image value is unique."""
  shape = (size, height, width, 3)
  images = np.arange(np.prod(shape), dtype='f4').reshape(shape) + 1
  labels = np.arange(size, dtype='i4') % CLASSES
  return {'image': images, 'label': labels, 'id': np.arange(size)}


def mixed_labels(labels, share):
  one_hot = np.eye(CLASSES)[labels]
  return share * one_hot + (1 - share) * one_hot[::-1]


@quick
def test_mixup_mixes_with_the_reversed_batch_by_one_weight():
  images = np.arange(4.0, dtype='f4').reshape(4, 1, 1, 1)
  batch = {'image': images, 'label': np.int32([0, 1, 2, 0])}
  mixed = mixing.mixup(batch, jax.random.key(1), alpha=0.5, num_classes=3)
  weight = float((mixed['image'][0, 0, 0, 0] - 3) / (0 - 3))
  assert 0 < weight < 1
  np.testing.assert_allclose(
    mixed['image'], weight * images + (1 - weight) * images[::-1], rtol=1e-5
  )
  one_hot = np.eye(3)[batch['label']]
  np.testing.assert_allclose(
    mixed['label'], weight * one_hot + (1 - weight) * one_hot[::-1], atol=1e-6
  )


@quick
def test_mixup_weights_follow_the_beta_distribution():
  keys = jax.random.split(jax.random.key(0), 4000)
  batch = {
    'image': jnp.float32([0, 1]).reshape(2, 1, 1, 1),
    'label': jnp.zeros(2, int),
  }
  mixed = jax.vmap(
    lambda key: mixing.mixup(batch, key, alpha=0.1, num_classes=2)['image']
  )(keys)
  weights = np.asarray(mixed)[:, 1, 0, 0, 0]
  np.testing.assert_allclose(weights.mean(), 0.5, atol=0.03)
  np.testing.assert_allclose(weights.var(), 1 / (4 * 1.2), atol=0.02)


def boxes(images, batch):
  """Returns [H, W], True where all images equal their partners."""
  own = (images == batch['image']).all((0, 3))
  partners = (images == batch['image'][::-1]).all((0, 3))
  assert (own ^ partners).all()
  return partners


@quick
def test_cutmix_mixes_labels_by_the_share_of_pixels():
  batch = example_batch()
  cut = jax.jit(
    functools.partial(mixing.cutmix, alpha=1.0, num_classes=CLASSES)
  )
  areas = []
  for seed in range(30):
    mixed = cut(batch, jax.random.key(seed))
    box = boxes(np.asarray(mixed['image']), batch)
    rows, columns = box.any(1), box.any(0)
    np.testing.assert_array_equal(box, rows[:, None] & columns)
    assert np.abs(np.diff(np.pad(rows, 1).astype(int))).sum() in (0, 2)
    share = np.float32(1 - box.mean())
    np.testing.assert_allclose(
      mixed['label'], mixed_labels(batch['label'], share), atol=1e-7
    )
    np.testing.assert_array_equal(mixed['id'], batch['id'])
    areas.append(box.sum())
  assert len(set(areas)) > 8


def kept_by_box(alpha, size, number):
  """Returns the fractions that boxes leave, and masks of the boxes.

  [number], and [number, size, 2 * size].
  """
  batch = {
    'image': jnp.float32([0, 1]).reshape(2, 1, 1, 1)
    * jnp.ones((1, size, 2 * size, 1)),
    'label': jnp.arange(2),
  }
  mixed = jax.vmap(
    lambda key: mixing.cutmix(batch, key, alpha=alpha, num_classes=2)
  )(jax.random.split(jax.random.key(0), number))
  return mixed['label'][:, 0, 0], np.asarray(mixed['image'])[:, 0, :, :, 0]


def test_cutmix_boxes_cover_each_pixel_at_the_expected_rate():
  """Compares the frequency at which each pixel is inside a box.

  A box has sqrt(u) of both sides, u uniform, and any pixel as its centre.
  """
  shares, box = kept_by_box(1.0, 24, 2000)
  np.testing.assert_allclose(shares, 1 - box.mean((1, 2)), atol=1e-6)
  ratio = np.sqrt((np.arange(1000) + 0.5) / 1000)
  inside = []  # for each side: [number of u, side]
  for side in (24, 48):
    half = (side * ratio).astype(int)[:, None, None] // 2
    center, place = np.ogrid[:side, :side]
    covered = (center - half <= place) & (place < center + half)
    inside.append(covered.mean(1))
  expected = np.einsum('uy,ux->yx', *inside) / 1000
  np.testing.assert_allclose(box.mean(0), expected, atol=0.05)
  np.testing.assert_allclose(box.mean(), expected.mean(), atol=0.02)


def test_cutmix_weights_follow_the_beta_distribution():
  shares, _ = kept_by_box(0.1, 8, 1000)
  extreme = np.mean((np.asarray(shares) < 0.02) | (np.asarray(shares) > 0.98))
  uniform, _ = kept_by_box(1.0, 8, 1000)
  usual = np.mean((np.asarray(uniform) < 0.02) | (np.asarray(uniform) > 0.98))
  assert extreme > 0.3 and usual < 0.1


def test_mixup_or_cutmix_applies_one_of_them():
  batch = example_batch()
  either = jax.jit(
    functools.partial(
      mixing.mixup_or_cutmix,
      mixup_alpha=0.8,
      cutmix_alpha=1.0,
      num_classes=CLASSES,
      switch_probability=0.3,
    )
  )
  cut = 0
  for seed in range(200):
    mixed = either(batch, jax.random.key(seed))
    images, label = np.asarray(mixed['image']), np.asarray(mixed['label'])
    own = (images == batch['image']).all((0, 3))
    partners = (images == batch['image'][::-1]).all((0, 3))
    if (own | partners).all():
      cut += 1
      share = 1 - partners.mean()
    else:
      share = label[0, 0]
      wanted = share * batch['image'] + (1 - share) * batch['image'][::-1]
      np.testing.assert_allclose(images, wanted, rtol=1e-4)
    wanted = mixed_labels(batch['label'], share)
    np.testing.assert_allclose(label, wanted, atol=1e-6)
  assert 0.3 * 200 - 20 < cut < 0.3 * 200 + 20  # three standard deviations


@quick
@pytest.mark.parametrize('name', ['mixup', 'cutmix'])
def test_mixup_or_cutmix_applies_the_other_if_one_alpha_is_0(name):
  batch = example_batch()
  alphas = {'mixup_alpha': 0.0, 'cutmix_alpha': 0.0, f'{name}_alpha': 0.7}
  key = jax.random.key(3)
  mixed = mixing.mixup_or_cutmix(batch, key, num_classes=CLASSES, **alphas)
  alone = getattr(mixing, name)(batch, key, alpha=0.7, num_classes=CLASSES)
  np.testing.assert_array_equal(mixed['image'], alone['image'])
  np.testing.assert_array_equal(mixed['label'], alone['label'])


@quick
@pytest.mark.parametrize('name', ['mixup', 'cutmix'])
def test_mixing_smooths_labels_before_it_mixes_them(name):
  batch = example_batch()
  mix = functools.partial(getattr(mixing, name), alpha=1.0, num_classes=CLASSES)
  plain = np.asarray(mix(batch, jax.random.key(2))['label'])
  smooth = mix(batch, jax.random.key(2), label_smoothing=0.1)['label']
  np.testing.assert_allclose(smooth, 0.9 * plain + 0.02, atol=1e-6)
  alone = dict(batch, label=np.full(8, 3))  # equal labels mix to themselves
  label = mix(alone, jax.random.key(2), label_smoothing=0.1)['label'][0]
  np.testing.assert_allclose(label, [0.02, 0.02, 0.02, 0.92, 0.02], atol=1e-6)


@quick
def test_smooth_labels_changes_only_the_labels():
  batch = example_batch(2)
  smooth = mixing.smooth_labels(batch, num_classes=4, label_smoothing=0.2)
  wanted = [[0.85, 0.05, 0.05, 0.05], [0.05, 0.85, 0.05, 0.05]]
  np.testing.assert_allclose(smooth['label'], wanted, atol=1e-6)
  assert smooth['image'] is batch['image']


@quick
def test_cutmix_accepts_probabilities_as_labels():
  batch = example_batch(2)
  labels = np.float32([[0.5, 0.5, 0, 0, 0], [0, 0, 0.25, 0.75, 0]])
  mixed = mixing.cutmix(
    dict(batch, label=labels), jax.random.key(1), alpha=1.0, num_classes=5
  )
  share = 1 - boxes(np.asarray(mixed['image']), batch).mean()
  assert 0 < share < 1
  np.testing.assert_allclose(
    mixed['label'], share * labels + (1 - share) * labels[::-1], atol=1e-6
  )


def erased(size, height, width, seed=0, **options):
  """Returns the images, and [B, H, W], True where they were erased."""
  batch = example_batch(size, height, width)
  out = jax.jit(functools.partial(mixing.random_erasing, **options))(
    batch, jax.random.key(seed)
  )
  image = np.asarray(out['image'])
  changed = image != batch['image']
  np.testing.assert_array_equal(changed.all(-1), changed.any(-1))
  np.testing.assert_array_equal(out['label'], batch['label'])
  return image, changed.all(-1)


def test_random_erasing_erases_a_quarter_of_the_images():
  image, box = erased(1500, 12, 20)
  chosen = box.any((1, 2))
  assert abs(chosen.mean() - 0.25) < 0.04  # three standard deviations
  rows, columns = box.any(2), box.any(1)
  np.testing.assert_array_equal(box, rows[:, :, None] & columns[:, None])
  edges = np.abs(np.diff(np.pad(rows, [(0, 0), (1, 1)]).astype(int))).sum(1)
  np.testing.assert_array_equal(edges, 2 * chosen)
  noise = image[box]
  assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
  assert len(np.unique(noise)) > 0.95 * noise.size  # independent pixels


def test_random_erasing_draws_the_expected_rectangles():
  """Areas uniform in 2 % to 1/3, side ratios in 0.3 to 1/0.3, any position."""
  _, box = erased(1000, 60, 60, probability=1.0)
  assert box.any((1, 2)).all()
  heights, widths = box.any(2).sum(1), box.any(1).sum(1)
  areas = heights * widths / 60**2
  assert 0.015 < areas.min() < 0.03 and 0.3 < areas.max() < 0.345
  # Only a few rectangles, all of them large, exceed the image and are redrawn.
  assert abs(areas.mean() - (0.02 + 1 / 3) / 2) < 0.01
  ratios = np.log(heights / widths)
  limit = np.log(1 / 0.3)
  assert limit * 0.97 < ratios.max() < limit * 1.1
  assert -limit * 1.1 < ratios.min() < -limit * 0.97
  assert abs(ratios.mean()) < 0.06
  assert abs(ratios.std() - limit / 3**0.5) < 0.05
  tops, lefts = box.any(2).argmax(1), box.any(1).argmax(1)
  assert tops.min() == lefts.min() == 0
  assert (tops + heights).max() == (lefts + widths).max() == 60
  np.testing.assert_allclose((tops / (60 - heights)).mean(), 0.5, atol=0.03)
  np.testing.assert_allclose((lefts / (60 - widths)).mean(), 0.5, atol=0.03)
  assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.1


def test_random_erasing_skips_rectangles_too_large_for_the_image():
  """Draws rectangles of one row, at most 8 of 40 pixels: images have 2 rows."""
  _, box = erased(300, 2, 20, probability=1.0)
  heights = box.any(2).sum(1)
  assert set(heights) <= {0, 1} and heights.mean() > 0.5


@quick
def test_random_erasing_with_probability_0_erases_nothing():
  assert not erased(50, 12, 12, probability=0.0)[1].any()


@quick
def test_flip_swaps_left_and_right_of_the_images_that_are_marked():
  images = np.arange(4 * 2 * 3, dtype='u1').reshape(4, 2, 3, 1)
  marked = np.array([True, False, True, False])
  batch = {'image': images, 'label': np.arange(4), 'flip': marked}
  found = jax.jit(mixing.flip)(batch)
  assert found.keys() == {'image', 'label'} and found['image'].dtype == 'uint8'
  images[::2] = images[::2, :, ::-1]
  np.testing.assert_array_equal(found['image'], images)
  assert mixing.flip(found) is found


@quick
def test_normalize_subtracts_the_mean_and_divides_by_std():
  images = np.arange(256, dtype='u1').repeat(3).reshape(1, 16, 16, 3)
  images[..., 1] = 255 - images[..., 1]
  mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
  batch = {'image': images, 'label': np.int32([1])}
  scaled = jax.jit(functools.partial(mixing.normalize, mean=mean, std=std))(
    batch
  )
  assert scaled['image'].dtype == jnp.float32
  np.testing.assert_allclose(
    scaled['image'], (images - np.array(mean)) / np.array(std), atol=1e-6
  )
  assert mixing.normalize(scaled, mean=mean, std=std) is scaled


STEPS = {
  'mixup': functools.partial(mixing.mixup, alpha=0.2, num_classes=CLASSES),
  'cutmix': functools.partial(mixing.cutmix, alpha=1.0, num_classes=CLASSES),
  'mixup_or_cutmix': functools.partial(
    mixing.mixup_or_cutmix,
    mixup_alpha=0.8,
    cutmix_alpha=1.0,
    num_classes=CLASSES,
    label_smoothing=0.1,
  ),
  'random_erasing': functools.partial(mixing.random_erasing, probability=0.9),
}


COMPILED = {  # `mixup_or_cutmix` covers both kinds of mixing
  name: jax.jit(STEPS[name]) for name in ('mixup_or_cutmix', 'random_erasing')
}


@pytest.mark.parametrize('name', COMPILED)
def test_mixing_on_eight_devices_equals_mixing_on_one(name):
  batch = example_batch(16, 12, 8)
  step = COMPILED[name]
  device_mesh = mesh.create_mesh(8)
  for seed in range(3):
    key = jax.random.key(seed)
    one = step(batch, key)
    eight = step(mesh.to_global(batch, device_mesh), key)
    assert len(eight['image'].sharding.device_set) == 8
    for field in ('image', 'label'):
      np.testing.assert_allclose(one[field], eight[field], rtol=1e-6)


@pytest.mark.parametrize('name', COMPILED)
def test_mixing_depends_on_the_key(name):
  batch = example_batch(16, 12, 8)
  first, again, other = (
    np.asarray(COMPILED[name](batch, jax.random.key(seed))['image'])
    for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  assert (first != other).any()


def test_mixing_keeps_bfloat16_images():
  batch = example_batch(4)
  batch['image'] = jnp.asarray(batch['image'], jnp.bfloat16)
  for step in STEPS.values():
    out = jax.eval_shape(step, batch, jax.random.key(0))
    assert out['image'].dtype == jnp.bfloat16
    assert out['label'].dtype in (jnp.float32, jnp.int32)


BYTES = dict(example_batch(), image=np.zeros((8, 2, 2, 3), 'u1'))
WRONG = [
  (lambda: STEPS['mixup'](BYTES, None), 'images must be float, not uint8; nor'),
  (lambda: STEPS['random_erasing'](BYTES, None), 'images must be float, not u'),
  (
    lambda: STEPS['mixup'](example_batch(), None, alpha=0.0),
    r'alpha=0\.0 must be above 0',
  ),
  (
    lambda: mixing.smooth_labels(
      example_batch(), num_classes=CLASSES, label_smoothing=1.0
    ),
    r'label_smoothing=1\.0 must lie in 0\.\.1',
  ),
  (
    lambda: mixing.mixup_or_cutmix(
      BYTES, None, mixup_alpha=0, cutmix_alpha=0, num_classes=2
    ),
    'mixup_alpha=0 and cutmix_alpha=0 must not both be 0',
  ),
  (
    lambda: STEPS['mixup_or_cutmix'](
      example_batch(), None, switch_probability=2
    ),
    r'switch_probability=2 must lie in 0\.\.1',
  ),
  (
    lambda: STEPS['mixup_or_cutmix'](example_batch(), None, mixup_alpha=-1),
    'mixup_alpha=-1 must be above 0',
  ),
  (
    lambda: STEPS['random_erasing'](example_batch(), None, probability=-0.1),
    r'probability=-0\.1 must lie in 0\.\.1',
  ),
  (
    lambda: mixing.normalize(BYTES, mean=(1.0,), std=(1.0,)),
    r'mean=\(1\.0,\) and std=\(1\.0,\) must have 3 values each',
  ),
  (
    lambda: mixing.normalize({'image': np.zeros((1, 1, 1, 3), 'i4')},
      mean=(0, 0, 0), std=(1, 1, 1)),
    'images must be uint8 or float, not int32',
  ),
]  # fmt: skip


@quick
@pytest.mark.parametrize(('call', 'message'), WRONG)
def test_mixing_rejects_wrong_arguments_in_one_line(call, message):
  with pytest.raises(ValueError, match=message) as caught:
    call()
  assert '\n' not in str(caught.value)
