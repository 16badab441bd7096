"""What every test runs under: eight CPU devices and strict settings.

The environment is set before anything imports jax or TensorFlow.
"""

import importlib.metadata
import os
import pathlib
import tempfile

import pytest

NUM_DEVICES = 8
# `make exact`: programs are compiled as users compile them, which takes long.
AS_USERS = bool(os.environ.get('COMPILE_AS_USERS'))
_FLAGS = [f'--xla_force_host_platform_device_count={NUM_DEVICES}']
if not AS_USERS:
  # In one piece: for small programs, dividing the work is most of it.
  _FLAGS.append('--xla_cpu_parallel_codegen_split_count=1')
  if importlib.metadata.version('jaxlib').startswith('0.10.'):
    # The emitters that are new there take twice as long; later ones have no
    # others, and end at a flag that they do not know.
    _FLAGS.append('--xla_cpu_use_fusion_emitters=false')

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = ' '.join(
  flag for flag in [os.environ.get('XLA_FLAGS', ''), *_FLAGS] if flag
)
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'
# Compiled programs are kept for all processes of a test run, the first of
# which makes the folder, and are compiled fast rather than well; modules that
# compare with the original's numbers take `as_users_compile`.
_compiled = tempfile.TemporaryDirectory(prefix='compiled_')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', _compiled.name)
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '0' if AS_USERS else '1'
os.environ['CUDA_VISIBLE_DEVICES'] = ''
# An environment variable, so that child processes of tests are strict too.
os.environ['JAX_NUMPY_RANK_PROMOTION'] = 'raise'

_tfds_dir = tempfile.TemporaryDirectory(prefix='tfds_')
os.environ['TFDS_DATA_DIR'] = _tfds_dir.name


# Modules that take longest, the longest first: of two processes neither is left
# with them at the end. `make test` keeps the order.
_LONG = (
  'main', 'running', 'kills', 'benchmark', 'steps', 'crosschecking',
  'parallel_training', 'update', 'speed', 'weights', 'jobs', 'randaugment',
  'diagnosis', 'training_input', 'studies_running', 'preemption',
)  # fmt: skip


def pytest_collection_modifyitems(items):
  order = {f'test_{name}': number for number, name in enumerate(_LONG)}
  items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def pytest_unconfigure():
  _tfds_dir.cleanup()
  _compiled.cleanup()


@pytest.fixture(scope='module')
def as_users_compile():
  """The optimisations of XLA that tests go without, its flags above aside.

  All modules that take it are in `make exact`, which has none of the flags.
  """
  import jax

  jax.config.update('jax_disable_most_optimizations', False)
  yield
  jax.config.update('jax_disable_most_optimizations', not AS_USERS)


@pytest.fixture(scope='session')
def data_dir() -> pathlib.Path:
  """The folder of reference arrays."""
  return pathlib.Path(__file__).parent / 'data'
