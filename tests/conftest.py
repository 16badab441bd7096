"""What every test runs under: eight CPU devices and strict settings.

The environment is set before anything imports jax or TensorFlow.
"""

import os
import pathlib
import tempfile

import pytest

NUM_DEVICES = 8

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = ' '.join(
  flag
  for flag in [
    os.environ.get('XLA_FLAGS', ''),
    f'--xla_force_host_platform_device_count={NUM_DEVICES}',
  ]
  if flag
)
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'
os.environ['CUDA_VISIBLE_DEVICES'] = ''
# An environment variable, so that child processes of tests are strict too.
os.environ['JAX_NUMPY_RANK_PROMOTION'] = 'raise'

_tfds_dir = tempfile.TemporaryDirectory(prefix='tfds_')
os.environ['TFDS_DATA_DIR'] = _tfds_dir.name


def pytest_unconfigure():
  _tfds_dir.cleanup()


@pytest.fixture(scope='session')
def data_dir() -> pathlib.Path:
  """The folder of reference arrays."""
  return pathlib.Path(__file__).parent / 'data'
