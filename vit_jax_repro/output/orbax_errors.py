"""Keeps Orbax from printing errors that it also raises, and one warning."""

import functools
import logging as python_logging
import pathlib
import sys

from absl import logging


@functools.cache
def silence_orbax() -> None:
  """Keeps Orbax from printing errors that it also raises, and one warning.

  A command prints the raised error in one line. Orbax also logs the whole
  trace, and its threads warn that an exception was never retrieved, some of
  them much later. The warning is about the handler of arrays that
  `runs/checkpoint.py` sets on purpose.
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
  """Returns whether to print a log record, see `silence_orbax`."""
  if not record.exc_info:
    return not record.getMessage().startswith('Type handler registry ')
  source = pathlib.Path(record.pathname).parts
  return 'orbax' not in source and 'never retrieved' not in record.getMessage()
