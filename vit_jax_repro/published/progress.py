"""Progress of a download: a bar on a terminal, else lines."""

import contextlib
import threading
import time
import urllib.parse
from collections.abc import Callable, Generator

from vit_jax_repro.output import messages, reports

INTERVAL = 4.0  # seconds between lines where stderr is no terminal

Watch = Callable[[int, int | None], None]


@contextlib.contextmanager
def shown(name: str, url: str, interval: float = INTERVAL) -> Generator[Watch]:
  """Shows the progress of a download inside the block.

  Args:
    name: name of the file.
    url: its address, whose host is shown until the first bytes come.
    interval: seconds between lines where stderr is no terminal.

  Yields:
    The `watch` of download.download.
  """
  host = urllib.parse.urlsplit(url).netloc
  show = _bar if reports.progress_console().is_terminal else _lines
  with show(name, host, interval) as watch:
    yield watch


@contextlib.contextmanager
def _bar(name, host, _):
  from rich import progress

  columns = (
    progress.TextColumn('{task.description}', markup=False),
    progress.BarColumn(),
    progress.DownloadColumn(),
    progress.TransferSpeedColumn(),
    progress.TimeRemainingColumn(),
  )
  with progress.Progress(
    *columns, console=reports.progress_console(), transient=True
  ) as bar:
    task = bar.add_task(f'{name} from {host}', total=None)
    yield lambda done, total: bar.update(task, completed=done, total=total)


@contextlib.contextmanager
def _lines(name, host, interval):
  started, ended = time.monotonic(), threading.Event()
  state: list[int | None] = [0, None]

  def repeat():
    while not ended.wait(interval):
      seconds = time.monotonic() - started
      messages.note(_line(name, host, seconds, *state))

  def watch(done, total):
    state[:] = done, total

  thread = threading.Thread(target=repeat, daemon=True)
  thread.start()
  try:
    yield watch
  finally:
    ended.set()
    thread.join()


def _line(name, host, seconds, done, total):
  if not done:
    return f'{name}: waiting for {host} ({seconds:.0f} s)'
  of = f' of {total / 1e6:.0f}' if total else ''
  return f'{name}: {done / 1e6:.0f}{of} MB from {host} ({seconds:.0f} s)'
