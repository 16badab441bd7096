"""Several processes of which one ends: what the others do, and how soon."""

import json
import os
import time

import child_processes
import pytest
import run_lines

from vit_jax_repro.errors import InputError
from vit_jax_repro.parallel import job

SECONDS = 40  # JAX alone takes up to 100


def report_loss(port, number):
  """Joins three processes and prints which of them has ended."""

  def on_loss(lost, has_failed):
    print('lost', lost, has_failed, flush=True)
    os._exit(7)

  joined = job.join(f'localhost:{port}', 3, number, timeout=60, on_loss=on_loss)
  joined.connect()
  print('joined', flush=True)
  time.sleep(2)  # until the connections are there
  if number == 1:
    joined.fail()
    os._exit(1)
  time.sleep(60)


def test_job_tells_all_others_that_a_process_has_failed():
  """Process 2 has a connection to process 0 only."""
  port = child_processes.free_port()
  children = [
    child_processes.Child(report_loss, port, number) for number in range(3)
  ]
  assert [child.wait(60) for child in children] == [7, 1, 7]
  for number in (0, 2):
    assert children[number].stdout.split('\n')[1] == 'lost 1 True'


def leave_in_order(port, number, late):
  """Joins three processes, of which one finishes three seconds late."""
  joined = job.join(
    f'localhost:{port}', 3, number, timeout=60, on_loss=lambda *_: None
  )
  joined.connect()
  time.sleep(2)  # until the connections are there
  if number == late:
    time.sleep(3)
  called = time.monotonic()
  may_end = joined.leave()
  left = time.monotonic()
  if number == 2:
    time.sleep(1)
  print(may_end, called, left, time.monotonic(), flush=True)
  os._exit(0)


@pytest.mark.parametrize('late', [0, 1])
def test_leave_waits_for_all_and_lets_process_0_end_last(late):
  """A process that ended first would break what others still compute."""
  port = child_processes.free_port()
  children = [
    child_processes.Child(leave_in_order, port, number, late)
    for number in range(3)
  ]
  assert [child.wait(60) for child in children] == [0, 0, 0]
  assert all(child.stdout.startswith('True') for child in children)
  # The clock is that of the machine, the same in all processes.
  called, left, ended = zip(
    *(map(float, child.stdout.split()[1:]) for child in children), strict=True
  )
  assert called[late] == max(called) <= min(left)
  assert left[0] >= max(ended[1:])


def lose_while_leaving(port, number):
  """Joins three processes, of which one is killed when others have finished."""

  def on_loss(lost, has_failed):
    print('lost', lost, has_failed, flush=True)
    os._exit(7)

  joined = job.join(f'localhost:{port}', 3, number, timeout=60, on_loss=on_loss)
  joined.connect()
  time.sleep(2)
  if number == 2:
    time.sleep(1)
    os._exit(1)
  joined.leave()
  time.sleep(60)


def test_leave_names_a_process_that_is_killed_meanwhile():
  port = child_processes.free_port()
  children = [
    child_processes.Child(lose_while_leaving, port, number)
    for number in range(3)
  ]
  assert [child.wait(60) for child in children] == [7, 7, 1]
  for number in (0, 1):
    assert children[number].stdout.split('\n')[0] == 'lost 2 False'


def metrics(workdir):
  path = workdir / 'metrics.jsonl'
  return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize('killed', [0, 1])
def test_main_names_the_step_to_go_on_from_when_another_is_killed(
  killed, tmp_path
):
  """One line on the terminal; what libraries print is in the workdir."""
  workdir = tmp_path / 'run'
  children = child_processes.in_two(
    'main',
    '--config=configs/quickstart.py',
    f'--workdir={workdir}',
    '--config.batch=16',
    '--config.checkpoint_every=10',
    '--config.eval_every=0',
    '--config.progress_every=1',
    '--config.model.transformer.num_layers=1',
  )
  other = children[1 - killed]
  saved = workdir / 'checkpoints' / '10'  # has this name when it is complete
  while len(metrics(workdir)) < 14 or not saved.exists():
    assert other.is_running(), other.stderr
    time.sleep(0.05)
  children[killed].kill()
  started = time.monotonic()
  assert other.wait(60) == 1
  assert time.monotonic() - started < SECONDS
  lines = other.stderr.splitlines()
  (line,) = run_lines.others(other.stderr)
  assert line == lines[-1]
  assert line.startswith(
    f'main, process {1 - killed}: process {killed} has ended, and the others '
    'cannot go on without it; start all 2 again to go on from step '
  )
  step, _, command = line.partition(' from step ')[2].partition(': ')
  newest = max(int(path.name) for path in (workdir / 'checkpoints').iterdir())
  assert int(step) == newest >= 10
  assert int(step) <= json.loads(metrics(workdir)[-1])['step']
  assert command.startswith('python -m vit_jax_repro.main --config=configs/q')
  assert command.endswith(f'--process_id={1 - killed}')
  for child in children:
    assert not child.stdout and 'Gloo' not in child.stderr
  log = (workdir / f'process_{1 - killed}.log').read_text()
  assert '[Gloo] Rank' in log


def connect_late(port, number):
  """Joins two processes of unequal devices; process 1 compares them late."""
  joined = job.join(
    f'localhost:{port}', 2, number, timeout=60, on_loss=lambda *_: None
  )
  time.sleep(number)
  try:
    joined.connect()
  except InputError as error:
    print(error, flush=True)
  joined.fail()
  os._exit(1)


def test_first_process_waits_where_connecting_has_failed():
  """JAX aborts the others as soon as process 0 has ended."""
  port = child_processes.free_port()
  children = [
    child_processes.Child(connect_late, port, number, devices=1 + number)
    for number in range(2)
  ]
  for child in children:
    assert child.wait(60) == 1, child.stderr
    assert 'the number of devices is 1 in process 0 and 2' in child.stdout


def fail_alone(port):
  """Prints the seconds that a job of one process takes to fail."""
  joined = job.join(
    f'localhost:{port}', 1, 0, timeout=60, on_loss=lambda *_: None
  )
  joined.connect()
  started = time.monotonic()
  joined.fail()
  print(time.monotonic() - started, flush=True)
  os._exit(0)


def test_only_process_waits_for_no_other():
  child = child_processes.Child(fail_alone, child_processes.free_port())
  assert child.wait(60) == 0, child.stderr
  assert float(child.stdout.split()[-1]) < 1
