"""Sets the environment of the processes that the tests start."""

import os
import tempfile

_compiled = tempfile.TemporaryDirectory(prefix='compiled_')
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['JAX_COMPILATION_CACHE_DIR'] = _compiled.name


def pytest_unconfigure():
  _compiled.cleanup()
