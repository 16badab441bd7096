"""Tests of the accuracy of ONNX files, and of what they need."""

import flax.linen as nn
import numpy as np
import pytest

from vit_jax_repro.exporting import onnx_files, programs
from vit_jax_repro.inference.restoring import Restored
from vit_jax_repro.models import convolution


class Norm(nn.Module):
  """Normalises images over all their pixels and returns a few values."""

  fast_variance: bool
  num_classes: int = 48
  dtype: str = 'float32'
  param_dtype: str = 'float32'

  @nn.compact
  def __call__(self, images, *, train=False):
    del train
    x = convolution.GroupNorm(
      1e-5, num_groups=1, fast_variance=self.fast_variance
    )(images)
    return x[:, :4, :4].reshape(x.shape[0], -1)


def program(fast_variance):
  model = Norm(fast_variance)
  params = {
    'GroupNorm_0': {
      'scale': np.float32([1, 2, 3]),
      'bias': np.float32([0, 1, -1]),
    }
  }
  return programs.create(
    Restored(model, params, 'norm', (256, 256), None, 'vit_jax')
  )


@pytest.mark.parametrize('fast_variance', [False, True])
def test_write_keeps_the_accuracy_of_group_norm(fast_variance, tmp_path):
  """onnxruntime's own mean of 196,608 values is off by ten times more."""
  path = tmp_path / 'norm.onnx'
  onnx_files.write(path, program(fast_variance), {})
  images = np.random.default_rng(0).uniform(0, 2, (2, 256, 256, 3))
  wide = images.reshape(2, -1)
  mean, std = (f(wide, axis=1).reshape(2, 1, 1, 1) for f in (np.mean, np.std))
  wanted = (images - mean) / np.sqrt(std**2 + 1e-5)
  wanted = wanted * [1, 2, 3] + [0, 1, -1]
  outputs = onnx_files.runner(path)(images.astype(np.float32))
  print(np.abs(outputs - wanted[:, :4, :4].reshape(2, -1)).max())
  np.testing.assert_allclose(
    outputs, wanted[:, :4, :4].reshape(2, -1), rtol=0, atol=2e-6
  )
