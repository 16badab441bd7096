"""Inspection of weights files, with images from paths and from arrays."""

import numpy as np
import pytest
import tiny_models
from photographs import PHOTOGRAPHS

from vit_jax_repro import weights
from vit_jax_repro.analysis import inspecting
from vit_jax_repro.data import preprocess

pytestmark = pytest.mark.quick

IMAGES = list(PHOTOGRAPHS.values())


def saved(path, size=(8, 8), base=tiny_models.VIT, **fields):
  """Saves a tiny model; returns the path."""
  params = tiny_models.params_of(tiny_models.spec(3, base, **fields), size)
  weights.save(path, params)
  return path


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
  """A ViT with three classes in an .npz file."""
  return saved(tmp_path_factory.mktemp('weights') / 'tiny.npz')


def test_rollouts_preprocess_images_as_given(tiny):
  reading = dict(image_size=(8, 12), preprocessing='deit')
  found = inspecting.rollouts(tiny, IMAGES, **reading)
  assert found.names == ('china.jpg', 'flower.jpg')
  assert found.maps.shape == (2, 2, 3) and found.images.shape == (2, 8, 12, 3)
  taken = np.stack([preprocess.read_image(path, **reading) for path in IMAGES])
  again = inspecting.rollouts(tiny, taken, preprocessing='deit')
  np.testing.assert_array_equal(again.maps, found.maps)
  np.testing.assert_array_equal(again.images, found.images)
  # The pixels of the file again, without the mean and deviation.
  pixels = taken * preprocess.IMAGENET_STD + preprocess.IMAGENET_MEAN
  np.testing.assert_allclose(found.images, pixels / 255, atol=1e-6)
  other = inspecting.rollouts(tiny, IMAGES, image_size=(8, 12))
  assert np.abs(other.maps - found.maps).max() > 1e-4


def test_head_maps_select_the_token_layers_and_heads(tiny, tmp_path):
  image = np.random.default_rng(0).uniform(-1, 1, (1, 8, 8, 3))
  image = image.astype(np.float32)
  found = inspecting.head_maps(tiny, image)
  assert (found.layers, found.heads) == ((0, 1), (0, 1))
  assert (found.token, found.names) == ('the class token', ('image 0',))
  assert found.maps.shape == (1, 2, 2, 2, 2)
  chosen = inspecting.head_maps(tiny, image, layers=[1], heads=[0])
  np.testing.assert_array_equal(chosen.maps[0, 0, 0], found.maps[0, 1, 0])
  # Without a class token no attention is left out, so that maps sum to 1.
  pooled = saved(tmp_path / 'gap.npz', classifier='gap')
  found = inspecting.head_maps(pooled, image)
  assert found.token == 'all patches'
  np.testing.assert_allclose(found.maps.sum((-1, -2)), 1, atol=1e-6)


@pytest.mark.slow
def test_distances_of_a_hybrid_are_in_image_pixels(tmp_path):
  path = saved(
    tmp_path / 'hybrid.npz',
    (32, 32),
    patch_size=[1, 1],
    stem_num_layers=[1],
    stem_width_factor=0.5,
  )
  image = np.random.default_rng(0).normal(size=(1, 16, 16, 3))
  found = inspecting.distances(path, image.astype(np.float32))
  # The root has stride 4 and the stage stride 1: patches are 4 pixels apart.
  assert found.patch == (4, 4) and found.distances.shape == (1, 2, 2)
  # The mean over all 4x4 patches, including the patch itself.
  assert found.even == pytest.approx(8.03, abs=0.01)
  assert (found.distances > 4).all() and (found.distances < 13).all()


def test_filters_have_components_in_each_family(tmp_path):
  for base, name in (
    (tiny_models.BIT, 'BiT'),
    (tiny_models.MIXER, 'Mixer'),
    (tiny_models.VIT, 'ViT'),
  ):
    path = saved(tmp_path / f'{name}.npz', (32, 32), base)
    found = inspecting.filters(path, number=4)
    assert (found.model, len(found.components)) == (name, 4)


def test_inspecting_rejects_wrong_arguments_in_one_line(tiny, tmp_path):
  mixer = saved(tmp_path / 'mixer.npz', (8, 8), tiny_models.MIXER)
  broken = tmp_path / 'broken.png'
  broken.write_bytes(b'no image')
  for call, wanted in (
    (lambda: inspecting.rollouts(tiny, []), 'no image; give'),
    (lambda: inspecting.rollouts(tiny, ['no.png']), 'no such image: no.png'),
    (lambda: inspecting.distances(tiny, [tmp_path]), 'is a folder'),
    (
      lambda: inspecting.distances(tiny, [broken], image_size=8),
      'broken.png is not a readable JPEG',
    ),
    (
      lambda: inspecting.distances(mixer, IMAGES, image_size=8),
      'Mixer has no attention',
    ),
    (lambda: inspecting.positions(mixer, image_size=8), 'Mixer has no'),
    (
      lambda: inspecting.head_maps(tiny, IMAGES, layers=[2], image_size=8),
      'there is no layer 2; the model has layers 0 to 1',
    ),
    (
      lambda: inspecting.head_maps(tiny, IMAGES, heads=[5], image_size=8),
      'there is no head 5; the model has heads 0 to 1',
    ),
  ):
    with pytest.raises((ValueError, OSError)) as error:
      call()
    assert wanted in str(error.value) and '\n' not in str(error.value)


def test_untrained_replaces_the_weights_by_random_ones(tiny):
  reading = dict(image_size=(8, 12))
  found = inspecting.rollouts(tiny, IMAGES[:1], untrained=True, **reading)
  trained = inspecting.rollouts(tiny, IMAGES[:1], **reading)
  assert found.maps.shape == trained.maps.shape
  assert np.abs(found.maps - trained.maps).max() > 1e-4
  assert (found.source, trained.source) == ('untrained', 'tiny.npz')
  similarity = inspecting.positions(tiny, untrained=True).similarity
  own = inspecting.positions(tiny).similarity
  assert similarity.shape == own.shape and np.abs(similarity - own).max() > 1e-4
  components = inspecting.filters(tiny, untrained=True).components
  assert np.abs(components - inspecting.filters(tiny).components).max() > 1e-4


def test_filters_of_a_grey_data_set_are_summed_over_colours(tmp_path):
  path = saved(tmp_path / 'model.npz')
  assert not inspecting.filters(path).grey
  (tmp_path / 'config.json').write_text('{"dataset": "mnist:3.0.1"}')
  found = inspecting.filters(path, number=3)
  assert found.grey and found.source == tmp_path.name
  kernel = weights.load(path)['embedding']['kernel']
  rows = kernel.sum(axis=2).reshape(-1, kernel.shape[-1]).T
  rows = rows - rows.mean(axis=0)
  first = found.components[0].ravel()
  # Its variance is the largest eigenvalue of the covariance.
  largest = np.linalg.eigvalsh(rows.T @ rows).max()
  assert ((rows @ first) ** 2).sum() == pytest.approx(largest, rel=1e-5)
  assert not inspecting.filters(path, grey=False).grey
  (tmp_path / 'config.json').write_text('{"dataset": "cifar10"}')
  assert not inspecting.filters(path).grey
