"""Signals that ask a run to stop, alone and in several processes."""

import json
import os
import signal
import threading
import time

import child_processes
import jax
import numpy as np
import pytest
from training_sets import write_folder

from vit_jax_repro import jobs
from vit_jax_repro.parallel import processes
from vit_jax_repro.runs import preemption
from vit_jax_repro.weights import npz


@pytest.mark.quick
@pytest.mark.parametrize('signum', preemption.SIGNALS)
def test_watch_notes_the_first_signal_and_passes_on_the_next(signum):
  seen = []
  outside = signal.signal(signum, lambda number, _: seen.append(number))
  try:
    with preemption.Watch() as watch:
      assert not watch.should_stop()
      signal.raise_signal(signum)
      assert watch.should_stop() and not seen
      signal.raise_signal(signum)
      assert seen == [signum]
      stopped = watch.stopped(7)
    signal.raise_signal(signum)  # handlers are put back
    assert seen == [signum] * 2
  finally:
    signal.signal(signum, outside)
  assert stopped.code == 128 + signum
  assert str(stopped) == (
    f'stopped by {signal.Signals(signum).name} after step 7; the same command '
    'continues'
  )


@pytest.mark.quick
def test_watch_raises_a_late_signal_again():
  # Background jobs of a shell ignore SIGINT by default.
  outside = signal.signal(signal.SIGINT, signal.default_int_handler)
  try:
    with pytest.raises(KeyboardInterrupt), preemption.Watch():
      signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
  finally:
    signal.signal(signal.SIGINT, outside)


@pytest.mark.quick
def test_watch_keeps_an_error_despite_a_signal():
  with pytest.raises(ValueError, match='mine'), preemption.Watch():
    signal.raise_signal(signal.SIGINT)
    raise ValueError('mine')


@pytest.mark.quick
def test_watch_in_another_thread_changes_no_handler():
  before, found = signal.getsignal(signal.SIGTERM), []

  def run():
    with preemption.Watch() as watch:
      found.append((signal.getsignal(signal.SIGTERM), watch.should_stop()))

  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert found == [(before, False)]


@pytest.mark.quick
def test_unless_stopped_interrupts_between_batches():
  with preemption.Watch() as watch:
    batches = watch.unless_stopped(iter(range(3)))
    assert next(batches) == 0
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(preemption.InterruptedEvaluationError):
      next(batches)
    watch.stopped(1)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder of 40 digits."""
  return write_folder(tmp_path_factory.mktemp('digits'), 40)


def settings(folder, total_steps):
  """Returns the configuration of a small run on a folder of digits."""
  return dict(
    dataset=str(folder),
    model=dict(
      model='vit',
      patch_size=(4, 4),
      hidden_size=8,
      num_layers=1,
      mlp_dim=8,
      num_heads=2,
    ),
    base_lr=0.05,
    total_steps=total_steps,
    batch=8,
    batch_eval=8,
    eval_every=0,
    progress_every=1,
    checkpoint_every=0,
    pp=dict(train='train', test='train', crop=8),
  )


def train(config, workdir, *distributed):
  """Trains as the command does; SystemExit ends the process with its code."""
  if distributed:
    port, index = distributed
    processes.initialize(f'localhost:{port}', 2, index, timeout=60)
  try:
    jobs.train(config, workdir, show=False)
  finally:
    if distributed:
      jax.distributed.shutdown()  # as at the end of an interpreter


def metrics_of(workdir):
  """Returns the complete lines of metrics.jsonl written until now."""
  path = workdir / 'metrics.jsonl'
  text = path.read_text() if path.exists() else ''
  return [json.loads(line) for line in text.split('\n')[:-1]]


def wait_for_step(workdir, step, children):
  """Waits until the metrics have reached a step."""
  while not metrics_of(workdir) or metrics_of(workdir)[-1]['step'] < step:
    assert all(child.is_running() for child in children), children[0].stderr
    time.sleep(0.005)


def stopped_at(child, signame):
  """Returns the step in the note about the stop."""
  (line,) = [x for x in child.stderr.splitlines() if x.startswith('note: ')]
  start, end = f'note: stopped by {signame} after step ', '; the same command '
  assert line.startswith(start) and line.endswith(f'{end}continues')
  return int(line[len(start) :].partition(';')[0])


STEPS = 60


def test_train_stopped_by_signals_continues_bit_for_bit(folder, tmp_path):
  """SIGTERM and SIGINT stop the run in turn; each time it is continued."""
  config = settings(folder, STEPS)
  whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
  child = child_processes.Child(train, config, whole, devices=1)
  assert child.wait() == 0, child.stderr
  step = 0
  for signum in preemption.SIGNALS:
    child = child_processes.Child(train, config, stopped, devices=1)
    wait_for_step(stopped, step + 3, [child])
    os.kill(child.pid, signum)
    assert child.wait() == 128 + signum, child.stderr
    before, step = step, stopped_at(child, signal.Signals(signum).name)
    assert before + 3 <= step == metrics_of(stopped)[-1]['step'] < STEPS
    steps = {p.name for p in (stopped / 'checkpoints').iterdir()}
    assert steps == {str(step), str(before)} - {'0'}
    assert not (stopped / 'model.npz').exists()
  child = child_processes.Child(train, config, stopped, devices=1)
  assert child.wait() == 0, child.stderr
  losses = [
    [row['train_loss'] for row in metrics_of(x)] for x in (stopped, whole)
  ]
  assert losses[0] == losses[1] and len(losses[0]) == STEPS
  found, wanted = (dict(npz.read(x / 'model.npz')) for x in (stopped, whole))
  for name, array in wanted.items():
    np.testing.assert_array_equal(array, found[name], err_msg=name)


def test_train_in_two_processes_stops_after_the_same_update(folder, tmp_path):
  """Process 1 receives the signal; each holds a part of the parameters."""
  config = settings(folder, 100_000) | dict(mesh=dict(data=1, fsdp=2, model=1))
  port = child_processes.free_port()
  children = [
    child_processes.Child(train, config, tmp_path, port, index, devices=1)
    for index in range(2)
  ]
  wait_for_step(tmp_path, 2, children)
  os.kill(children[1].pid, signal.SIGTERM)
  codes = [child.wait() for child in children]
  assert codes == [143, 143], [child.stderr for child in children]
  last = metrics_of(tmp_path)[-1]['step']
  assert f'stopped by SIGTERM after step {last};' in children[0].stderr
  assert [p.name for p in (tmp_path / 'checkpoints').iterdir()] == [str(last)]
