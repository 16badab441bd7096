"""TensorFlow on the host CPU, used only for reading images."""

import contextlib
import ctypes
import functools
import importlib.metadata
import io
import os
import platform
import sys
import warnings
from collections.abc import Callable, Generator
from typing import Any

from absl import logging

from vit_jax_repro.errors import InputError

_FIRST_WITHOUT = (3, 14)  # Python; as in pyproject.toml
# TensorFlow with the packages that need it, as in pyproject.toml.
INSTALL = (
  'pip install tensorflow tensorflow-datasets importlib_resources clu '
  'tensorboard'
)


@functools.cache
def tensorflow() -> Any:
  """Imports TensorFlow, hides all accelerators from it and silences it.

  Accelerators belong to JAX, and TensorFlow would reserve their memory. This
  function must run before any code makes TensorFlow initialise its devices.

  Returns:
    The `tensorflow` module.

  Raises:
    InputError: TensorFlow is not installed, or two builds of it are.
    RuntimeError: TensorFlow has already taken an accelerator.
  """
  if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':  # what JAX sets
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
  # oneDNN does not speed up decoding and resizing, and TensorFlow prints a
  # notice about it at every log level.
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
  # TensorFlow 2.20 has code for protobuf 5, about which protobuf 6 warns.
  warnings.filterwarnings('ignore', 'Protobuf gencode version', UserWarning)
  try:
    import tensorflow as tf
  except ModuleNotFoundError as error:
    if error.name != 'tensorflow':
      raise
    raise InputError(_missing()) from None
  except ImportError:
    if _doubled():
      raise InputError(_doubled()) from None
    raise

  # It makes a tf.function multiply by the inverse of a deviation instead of
  # dividing by it. tf.data divides, and both must give the same bits.
  tf.config.optimizer.set_experimental_options({'constant_folding': False})
  tf.get_logger().setLevel('ERROR')  # TFDS calls deprecated functions
  for kind in ('GPU', 'TPU', 'TPU_SYSTEM'):
    tf.config.set_visible_devices([], kind)
  return tf


def _missing():
  what = 'images are read through TensorFlow here, which is not installed'
  if sys.version_info >= _FIRST_WITHOUT:
    return (
      f'{what} and has no build for Python {platform.python_version()}; use '
      'Python 3.13, for example by `uv venv -p 3.13`'
    )
  return f'{what}; {INSTALL}'


def _doubled():
  """Describes two builds in one folder; '' if there is one, or none."""
  builds = {}
  for name in ('tensorflow', 'tensorflow-cpu'):
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      builds[name] = importlib.metadata.version(name)
  if len(builds) < 2:
    return ''
  first, second = (f'{name}=={version}' for name, version in builds.items())
  return (
    f'{first} and {second} are both installed and overwrite each other: pip '
    f'uninstall -y tensorflow tensorflow-cpu && pip install --no-deps {first}'
  )


def parallel_map(
  dataset: Any, function: Callable[..., Any], threads: int | None = None
) -> Any:
  """Maps a function over a tf.data.Dataset in parallel and in order.

  AutoGraph is off because this package's
  functions do not need it.

  Args:
    dataset: a tf.data.Dataset.
    function: of an element, made of TensorFlow operations.
    threads: number of elements at a time; None: TensorFlow chooses, by the
      number of CPU cores.

  Returns:
    tf.data.Dataset.
  """
  return _with_threads(_mapped(dataset, function, threads), threads)


def parallel_batches(
  dataset: Any,
  function: Callable[..., Any],
  batch_size: int,
  threads: int | None = None,
) -> Any:
  """Maps a function as `parallel_map` does, and batches the results.

  TensorFlow makes one operation of both. If the function fails for an element,
  the iterator raises an error in place of its batch. The next batch is that of
  the following elements.
  """
  tf = tensorflow()
  options = tf.data.Options()
  options.experimental_optimization.map_and_batch_fusion = True
  mapped = _mapped(dataset, function, threads).batch(batch_size)
  return _with_threads(mapped.with_options(options), threads)


def _mapped(dataset, function, threads):
  tf = tensorflow()
  return dataset.map(
    tf.autograph.experimental.do_not_convert(function),
    num_parallel_calls=threads or tf.data.AUTOTUNE,
    deterministic=True,
  )


def _with_threads(dataset, threads):
  if threads:
    options = tensorflow().data.Options()
    options.threading.private_threadpool_size = threads
    dataset = dataset.with_options(options)
  return dataset


# Parameters of mallopt in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BLOCK = 2**30  # bytes


@functools.cache
def keep_memory() -> None:
  """Makes this process reuse the memory of earlier batches.

  Otherwise the system takes back the pages of each batch and zeroes the pages
  of the next one, which takes a fifth of the time for reading images. This
  works with glibc only and does nothing with other C libraries.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return
  mallopt(_M_MMAP_THRESHOLD, _KEPT_BLOCK)
  mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@contextlib.contextmanager
def silence() -> Generator[None, None, None]:
  """Keeps TFDS's notices, warnings and progress bars off the terminal.

  Exceptions are not affected.
  """
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    with (
      contextlib.redirect_stdout(io.StringIO()),
      contextlib.redirect_stderr(io.StringIO()),
    ):
      yield
  finally:
    logging.set_verbosity(verbosity)
