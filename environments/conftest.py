"""Sets the environment of the processes that the tests start."""

import os
import tempfile

_compiled = tempfile.TemporaryDirectory(prefix='compiled_')
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['JAX_COMPILATION_CACHE_DIR'] = _compiled.name
# No lines on what takes long: a slow machine would put them between the others.
os.environ['VIT_JAX_REPRO_PATIENCE'] = '1000'


def pytest_unconfigure():
  _compiled.cleanup()
