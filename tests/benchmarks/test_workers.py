"""Processes of contenders, and how long their end takes."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.quick

ROOT = str(pathlib.Path(__file__).parents[2])
SLOW_TO_END = """
import atexit, time
atexit.register(time.sleep, 300)
"""
PROGRAM = """
from vit_jax_repro.benchmarks import workers

def twice(pipe, factor):
  pipe.send(factor * pipe.recv())

if __name__ == '__main__':
  with workers.worker(twice, 2, preload=['slow_to_end']) as pipe:
    pipe.send(21)
    print(pipe.recv(), flush=True)
"""


@pytest.mark.slow
def test_worker_leaves_no_process_that_holds_the_output(tmp_path):
  """Finds a command whose reader waits for the end of a library."""
  (tmp_path / 'slow_to_end.py').write_text(SLOW_TO_END)
  (tmp_path / 'program.py').write_text(PROGRAM)
  started = time.monotonic()
  done = subprocess.run(
    [sys.executable, tmp_path / 'program.py'],
    capture_output=True,
    text=True,
    check=False,
    env=os.environ | {'PYTHONPATH': os.pathsep.join([str(tmp_path), ROOT])},
  )
  assert (done.returncode, done.stdout, done.stderr) == (0, '42\n', '')
  assert time.monotonic() - started < 200
