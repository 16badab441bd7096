"""Environment of every test: eight CPU devices, strict settings, a cache.

JAX and TensorFlow read these variables when they are first imported, so
`conftest.py` imports this module before anything else. The variables also
reach the processes that tests start. Tests compile fast: without most of XLA's
optimisations, each program in one piece, and with a cache of compiled programs
that all processes of a test run share. Modules that compare with numbers of
the original take the fixture `as_users_compile`, and
`make exact` runs those with the flags that users have (`COMPILE_AS_USERS`).
`TEST_PLATFORM=cuda` runs them on a GPU, or `tpu` on a TPU, where the tests for
eight devices and for the CPU's own numbers cannot pass.
"""

import importlib.metadata
import os
import tempfile

NUM_DEVICES = 8
AS_USERS = bool(os.environ.get('COMPILE_AS_USERS'))
PLATFORM = os.environ.get('TEST_PLATFORM', 'cpu')
_FLAGS = [f'--xla_force_host_platform_device_count={NUM_DEVICES}']
if not AS_USERS:
  # Splitting a small program takes longer than compiling it.
  _FLAGS.append('--xla_cpu_parallel_codegen_split_count=1')
  if importlib.metadata.version('jaxlib').startswith('0.10.'):
    # The new emitters take twice as long. Later versions have no others, and
    # abort at an unknown flag.
    _FLAGS.append('--xla_cpu_use_fusion_emitters=false')

_compiled = tempfile.TemporaryDirectory(prefix='compiled_')
_tfds_dir = tempfile.TemporaryDirectory(prefix='tfds_')

os.environ['JAX_PLATFORMS'] = PLATFORM
if PLATFORM == 'cpu':
  os.environ['CUDA_VISIBLE_DEVICES'] = ''
os.environ['XLA_FLAGS'] = ' '.join(
  flag for flag in [os.environ.get('XLA_FLAGS', ''), *_FLAGS] if flag
)
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'  # as the commands set it
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', _compiled.name)
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '0' if AS_USERS else '1'
os.environ['JAX_NUMPY_RANK_PROMOTION'] = 'raise'
os.environ['VIT_JAX_REPRO_PATIENCE'] = '1000'  # no lines on what takes long
os.environ['TFDS_DATA_DIR'] = _tfds_dir.name
os.environ.pop('COLUMNS', None)  # pytest-xdist sets it


def clean_up() -> None:
  """Removes the folders that the variables name."""
  _tfds_dir.cleanup()
  _compiled.cleanup()
