"""Makes the process that imports this end at once, without tidying up.

`workers` lets the server of its processes import it, after their libraries.
Taking TensorFlow down would take the server seconds, and it holds the standard
output of the command, so that a reader would wait for its end.
"""

import atexit
import os


def _end(server: int) -> None:
  if os.getpid() == server:  # and not in the processes that it starts
    os._exit(0)


atexit.register(_end, os.getpid())  # the last one registered runs first
