"""Errors of Orbax that it prints although it also raises them."""

import functools
import logging as python_logging
import pathlib
import sys

from absl import logging


@functools.cache
def silence_orbax() -> None:
  """Keeps Orbax from printing the errors that it also raises.

  A command prints the raised error in one line. Orbax also logs the whole
  trace, and its threads warn that an exception was never retrieved, some of
  them much later.
  """
  logging.get_absl_logger().addFilter(_keep_record)
  python_logging.getLogger('asyncio').addFilter(_keep_record)
  before = sys.unraisablehook

  def hook(unraisable):
    text = str(unraisable.exc_value)
    if 'TensorStore' not in text and 'Event loop is closed' not in text:
      before(unraisable)

  sys.unraisablehook = hook


def _keep_record(record):
  """Returns whether to print a log record: not if it is an error of Orbax."""
  if not record.exc_info:
    return True
  source = pathlib.Path(record.pathname).parts
  return 'orbax' not in source and 'never retrieved' not in record.getMessage()
