"""Two joined processes, of which the first waits in vain for the second."""

import time

import child_processes

from vit_jax_repro.parallel import processes


def start(wait, **options):
  """Starts the processes; returns their Children once both have joined.

  Args:
    wait: what process 0 calls, and process 1 does not.
    options: more of `processes.initialize`.
  """
  port = child_processes.free_port()
  children = [
    child_processes.Child(_one_of_two, port, number, wait, options)
    for number in range(2)
  ]
  while not all('here' in child.stdout for child in children):
    for child in children:
      assert child.is_running(), child.stderr
    time.sleep(0.1)
  return children


def _one_of_two(port, number, wait, options):
  processes.initialize(f'localhost:{port}', 2, number, timeout=60, **options)
  processes.wait_for_all('here')
  print('here', flush=True)
  if number:
    time.sleep(60)
  wait()
