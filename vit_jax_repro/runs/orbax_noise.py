"""Keeps what Orbax and TensorStore print of an error off the terminal.

They raise it as well, and we say it in a line; beside that they log the whole
trace, and threads that were still at work complain that nobody listens, some
of them long after.
"""

import functools
import logging as python_logging
import pathlib
import sys

from absl import logging


@functools.cache
def silence() -> None:
  """From now on errors of Orbax are raised, and not printed too."""
  logging.get_absl_logger().addFilter(_keep)
  python_logging.getLogger('asyncio').addFilter(_keep)
  before = sys.unraisablehook

  def hook(unraisable):
    text = str(unraisable.exc_value)
    if 'TensorStore' not in text and 'Event loop is closed' not in text:
      before(unraisable)

  sys.unraisablehook = hook


def _keep(record):
  """Whether a line of a log is not the trace of an error that is raised."""
  if not record.exc_info:
    return True
  source = pathlib.Path(record.pathname).parts
  return 'orbax' not in source and 'never retrieved' not in record.getMessage()
