"""TensorFlow on the host CPU, used only for reading images."""

import contextlib
import ctypes
import functools
import io
import os
from collections.abc import Callable, Generator
from typing import Any

from absl import logging


@functools.cache
def tensorflow() -> Any:
  """Imports TensorFlow, hides all accelerators from it and silences it.

  Accelerators belong to JAX, and TensorFlow would reserve their memory. This
  function must run before any code makes TensorFlow initialise its devices.

  Returns:
    The `tensorflow` module.

  Raises:
    RuntimeError: TensorFlow has already taken an accelerator.
  """
  if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':  # what JAX sets
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
  # oneDNN does not speed up decoding and resizing, and TensorFlow prints a
  # notice about it at every log level.
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
  import tensorflow as tf

  tf.get_logger().setLevel('ERROR')  # TFDS calls deprecated functions
  for kind in ('GPU', 'TPU', 'TPU_SYSTEM'):
    tf.config.set_visible_devices([], kind)
  return tf


def parallel_map(dataset: Any, function: Callable[..., Any]) -> Any:
  """Maps a function over a tf.data.Dataset in parallel and in order.

  TensorFlow chooses the parallelism. AutoGraph is off because this package's
  functions do not need it.

  Args:
    dataset: a tf.data.Dataset.
    function: of an element, made of TensorFlow operations.

  Returns:
    tf.data.Dataset.
  """
  tf = tensorflow()
  return dataset.map(
    tf.autograph.experimental.do_not_convert(function),
    num_parallel_calls=tf.data.AUTOTUNE,
    deterministic=True,
  )


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
