"""Hostile inputs: what each is, how it is opened, and what opening it costs.

`hostile_weights`, `hostile_images`, `hostile_names` and `hostile_servers` hold
the inputs. docs/security.md has a row for each.
"""

import contextlib
import ctypes
import dataclasses
import importlib
import json
import os
import pathlib
import re
import tempfile
import time
from collections.abc import Callable
from typing import Any

from vit_jax_repro.data import tf_host
from vit_jax_repro.errors import InputError, line_of

MOST_SECONDS = 10  # of this process's CPUs
MOST_WAITED = 60  # seconds in all: the machine of the tests may be busy
MOST_BYTES = 10**9  # beyond what the process had before


@dataclasses.dataclass(frozen=True)
class Hostile:
  """One hostile input.

  Attributes:
    name: its row in docs/security.md.
    make: writes it into a folder; returns what `opens` takes.
    opens: opens it as a command does; returns what the command would print.
    shows: a part of the one line that refuses it, or of what is printed.
    refused: whether it is refused; otherwise it is read and harmless.
  """

  name: str
  make: Callable[[pathlib.Path], Any]
  opens: Callable[[Any], Any]
  shows: str
  refused: bool = True


@dataclasses.dataclass(frozen=True)
class Attempt:
  """What became of a hostile input: its line, its costs, new files.

  Attributes:
    line: the line, or what was printed.
    refused: whether the input was refused.
    seconds: until then.
    work: seconds of this process's CPUs.
    memory: bytes at the peak, beyond those before.
    written: paths of new files.
  """

  line: str
  refused: bool
  seconds: float
  work: float
  memory: int
  written: frozenset[str]


def attempt(hostile: Hostile, folder: pathlib.Path) -> Attempt:
  """Makes and opens an input in an empty folder, and measures the opening."""
  inside = folder / 'input'
  inside.mkdir()
  made = hostile.make(inside)
  before, start = _files(folder), _restart_peak()
  started, worked = time.monotonic(), time.process_time()
  refused = False
  try:
    line = hostile.opens(made)
  except (InputError, OSError) as error:
    line, refused = line_of(error), True
  return Attempt(
    line=str(line),
    refused=refused,
    seconds=time.monotonic() - started,
    work=time.process_time() - worked,
    memory=_peak() - start,
    written=_files(folder) - before,
  )


def load_libraries() -> None:
  """Imports what commands import once, whatever they read."""
  import huggingface_hub  # noqa: F401
  import torch  # noqa: F401

  tf_host.tensorflow()


def measure(module: str, place: int) -> None:
  """Prints the cost of the input at a place of a module's CASES, as JSON."""
  load_libraries()
  hostile = importlib.import_module(module).CASES[place]
  with tempfile.TemporaryDirectory() as folder:
    found = attempt(hostile, pathlib.Path(folder))
  check(hostile, found)
  print(json.dumps({'work': found.work, 'memory': found.memory}))


def check(hostile: Hostile, found: Attempt) -> None:
  """Raises an AssertionError if an input got what it wanted."""
  assert found.refused == hostile.refused, found
  assert hostile.shows in found.line, found.line
  assert '\n' not in found.line.strip(), found.line
  assert found.line.isprintable(), found.line
  assert found.work < MOST_SECONDS and found.seconds < MOST_WAITED, found
  assert found.memory < MOST_BYTES, found
  assert not found.written, found


def _files(folder):
  """Returns the files near the input: a traversal would add one."""
  return frozenset(map(os.fspath, folder.rglob('*')))


def _restart_peak():
  """Sets the peak of this process's memory to what it has now (Linux)."""
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).malloc_trim(0)  # gives back what others have freed
    pathlib.Path('/proc/self/clear_refs').write_text('5')
  return _peak()


def _peak():
  """Returns the peak of this process's resident memory in bytes."""
  status = pathlib.Path('/proc/self/status')
  if not status.exists():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  found = re.search(r'VmHWM:\s+(\d+) kB', status.read_text())
  assert found is not None
  return 1024 * int(found[1])
