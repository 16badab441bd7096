"""TensorFlow as this package uses it: on the host, to read images, only."""

import contextlib
import ctypes
import functools
import io
import os

from absl import logging


@functools.cache
def tensorflow():
  """Imports TensorFlow, hides every accelerator from it, keeps it quiet.

  An accelerator belongs to JAX; TensorFlow would reserve its memory. This
  must come before anything else has made TensorFlow look at its devices.

  Returns:
    The `tensorflow` module.

  Raises:
    RuntimeError: TensorFlow has already taken an accelerator.
  """
  if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':  # what JAX sets
    os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
  # Images are decoded and resized here, nothing oneDNN speeds up; with it
  # TensorFlow prints a notice that no log level silences.
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
  import tensorflow as tf

  tf.get_logger().setLevel('ERROR')  # TFDS calls deprecated functions
  for kind in ('GPU', 'TPU', 'TPU_SYSTEM'):
    tf.config.set_visible_devices([], kind)
  return tf


def parallel_map(dataset, function):
  """`dataset.map` on as many images at a time as is fastest, in order.

  Without AutoGraph, which this package's functions do not need.
  """
  tf = tensorflow()
  return dataset.map(
    tf.autograph.experimental.do_not_convert(function),
    num_parallel_calls=tf.data.AUTOTUNE,
    deterministic=True,
  )


# Of mallopt in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BLOCK = 2**30  # bytes


@functools.cache
def keep_memory():
  """Lets this process keep the memory of batches for the next ones.

  Otherwise each batch is given back to the system, and gets its pages anew,
  zeroed, a fifth of the time that reading images takes. glibc alone; where
  another C library is, nothing happens.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return
  mallopt(_M_MMAP_THRESHOLD, _KEPT_BLOCK)
  mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@contextlib.contextmanager
def silence():
  """Keeps TFDS's announcements, warnings and progress bars off the terminal.

  What goes wrong comes as an exception all the same.
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
