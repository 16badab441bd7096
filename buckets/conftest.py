"""An emulator for each test module, and the variables that lead to it."""

import environment
import gcs_emulator
import pytest


def pytest_unconfigure():
  environment.clean_up()


@pytest.fixture(scope='module')
def emulator(tmp_path_factory):
  """A storage emulator of this module alone, with an empty bucket."""
  folder = tmp_path_factory.mktemp('emulator')
  with (
    gcs_emulator.emulator(folder) as started,
    pytest.MonkeyPatch.context() as patch,
  ):
    for name, value in {
      **started.environment(),
      'VIT_JAX_REPRO_BUCKET_DEADLINE': '20',
      'VIT_JAX_REPRO_BUCKET_LOCK': '6',
    }.items():
      patch.setenv(name, value)
    yield started
