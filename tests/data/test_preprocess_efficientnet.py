"""EfficientNet's preprocessing, written out here by crop and resize."""

import numpy as np
import pytest

from vit_jax_repro.data import preprocess

tf = pytest.importorskip('tensorflow')


@pytest.mark.parametrize(
  ('shape', 'size'), [((301, 200), 224), ((150, 260), 300), ((64, 64), 32)]
)
def test_efficientnet_equals_the_released_code(shape, size):
  """Crops size / (size + 32) of the short side, then resizes (TensorFlow 1)."""
  draw = np.random.default_rng(0)
  image = draw.integers(0, 256, (*shape, 3)).astype(np.uint8)
  encoded = tf.io.encode_png(image).numpy()
  function = preprocess.pick_preprocessing('efficientnet')
  found = function(encoded, (size, size)).numpy()
  side = int(size / (size + 32) * min(shape))
  top, left = ((n - side + 1) // 2 for n in shape)
  crop = image[top : top + side, left : left + side]
  resized = tf.compat.v1.image.resize_bicubic([crop], [size, size])[0].numpy()
  mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]) * 255
  np.testing.assert_allclose(found, (resized - mean) / std, atol=2e-5)


def test_efficientnet_takes_rectangles():
  image = np.zeros((90, 200, 3), np.uint8)
  image[45:] = 255
  encoded = tf.io.encode_png(image).numpy()
  function = preprocess.pick_preprocessing('efficientnet')
  found = function(encoded, (32, 96)).numpy()
  assert found.shape == (32, 96, 3)
  assert found[0].max() < 0 < found[-1].min()
