"""SIGTERM in one of two processes before they train."""

import functools
import os
import signal
import time

import joined_processes

from vit_jax_repro.parallel import processes


def test_sigterm_ends_a_process_that_waits_for_another():
  first, second = joined_processes.start(
    functools.partial(processes.texts_of_all, 'text')
  )
  time.sleep(1)  # until it waits
  os.kill(first.pid, signal.SIGTERM)
  assert first.wait(10) == -signal.SIGTERM
  second.kill()
