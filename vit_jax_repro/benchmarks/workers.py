"""Contenders in processes of their own, which are told what to do by a pipe."""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence


@contextlib.contextmanager
def worker(
  target: Callable, *arguments, preload: Sequence[str] = ()
) -> Iterator:
  """A process that runs target(pipe, *arguments); yields the other end.

  Args:
    preload: modules to import once for all such processes.
  """
  context = multiprocessing.get_context('forkserver')
  if preload:
    context.set_forkserver_preload(list(preload))
  ours, theirs = context.Pipe()
  process = context.Process(target=target, args=(theirs, *arguments))
  process.start()
  theirs.close()  # so that its end is noticed here
  try:
    yield ours
  finally:
    ours.close()
    process.join()
