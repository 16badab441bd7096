"""Worker processes for contenders, controlled through a pipe."""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection
from typing import Any

_ENDS_AT_ONCE = 'vit_jax_repro.benchmarks.ends_at_once'


@contextlib.contextmanager
def worker(
  target: Callable, *arguments: Any, preload: Sequence[str] = ()
) -> Generator[Connection]:
  """Runs target(pipe, *arguments) in a process; yields its end of the pipe.

  Args:
    target: function of the process, at module level.
    *arguments: its further arguments.
    preload: modules to import once for all such processes.
  """
  context: Any = multiprocessing.get_context(
    'spawn' if os.name == 'nt' else 'forkserver'
  )
  if preload:
    context.set_forkserver_preload([*preload, _ENDS_AT_ONCE])
  ours, theirs = context.Pipe()
  process = context.Process(target=target, args=(theirs, *arguments))
  process.start()
  theirs.close()  # otherwise the end of the process would not close the pipe
  try:
    yield ours
  finally:
    ours.close()
    process.join()
