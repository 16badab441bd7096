"""Runs with their workdir in a bucket."""

import json
import os
import signal
import struct

import bucket_runs
import child_processes
import numpy as np
import pytest
from bucket_runs import url
from run_verb import run_verb
from training_sets import write_folder

STEPS, EVERY = 40, 4


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  """A folder of forty digits on this machine."""
  return write_folder(tmp_path_factory.mktemp('digits'), 40)


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
  """The workdir of an undisturbed run on this machine."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  child = bucket_runs.start(data, workdir, steps=STEPS, every=EVERY)
  assert child.wait() == 0, child.stderr
  return workdir


@pytest.fixture(scope='module')
def killed(emulator, data):
  """A run in the bucket that was killed; the files that it had then."""
  child = bucket_runs.start(data, url('runs/a/'), steps=STEPS, every=EVERY)
  bucket_runs.wait_until(
    lambda: len(bucket_runs.saved_steps(emulator, 'runs/a')) >= 2, child
  )
  child.kill()
  return emulator.files('runs/a/')


@pytest.fixture(scope='module')
def finished(emulator, data, killed):
  """What the same command printed when it finished the killed run."""
  child = bucket_runs.start(data, url('runs/a'), steps=STEPS, every=EVERY)
  assert child.wait() == 0, child.stderr
  return child.stderr


def test_kill_leaves_nothing_that_looks_finished(killed):
  assert 'runs/a/config.json' in killed and 'runs/a/.lock' in killed
  assert not {'runs/a/model.npz', 'runs/a/result.json'} & set(killed)


def test_killed_run_ends_like_an_undisturbed_one(emulator, finished, whole):
  """Metrics before the kill are lost, or updates are repeated differently."""
  bucket_runs.assert_same_model(
    emulator.path('runs/a/model.npz'), whole / 'model.npz'
  )
  found = emulator.path('runs/a/metrics.jsonl').read_text()
  wanted = (whole / 'metrics.jsonl').read_text()
  assert bucket_runs.metrics(found) == bucket_runs.metrics(wanted)


def test_killed_run_gives_up_its_lock(emulator, finished):
  assert 'has ended; taking over its lock' in finished
  assert not [x for x in emulator.files('runs/a/') if '.lock' in x]
  assert not [x for x in emulator.files('runs/a/') if '.writable' in x]


def test_run_writes_the_files_of_a_workdir(emulator, finished, whole):
  names = {name.split('/')[2] for name in emulator.files('runs/a/')}
  local = {path.name for path in whole.iterdir()} - {'.lock'}
  assert {x for x in names if 'tfevents' not in x} == {
    x for x in local if 'tfevents' not in x
  }
  events = [x for x in emulator.files('runs/a/') if 'tfevents' in x]
  assert len(events) == 2  # of the killed process and of the next one
  for name in events:
    content = emulator.path(name).read_bytes()
    (length,) = struct.unpack('<Q', content[:8])
    assert b'brain.Event:2' in content[12 : 12 + length]
  result = json.loads(emulator.path('runs/a/result.json').read_text())
  assert result['workdir'] == url('runs/a')
  assert result['model'] == url('runs/a/model.npz')


def test_finished_run_shows_its_result(emulator, data, finished):
  before = emulator.files('runs/a/')
  child = bucket_runs.start(data, url('runs/a'), steps=STEPS, every=EVERY)
  assert child.wait() == 0, child.stderr
  assert 'already finished, at step 40' in child.stderr
  assert emulator.files('runs/a/') == before


def test_sigterm_saves_and_the_same_command_continues(emulator, data, whole):
  child = bucket_runs.start(data, url('runs/term'), steps=STEPS, every=STEPS)
  bucket_runs.wait_until(lambda: 'step 1/' in child.stderr, child)
  os.kill(child.pid, signal.SIGTERM)
  assert child.wait() == 128 + signal.SIGTERM, child.stderr
  assert len(bucket_runs.saved_steps(emulator, 'runs/term')) == 1
  assert 'runs/term/.lock' not in emulator.files('runs/term/')
  child = bucket_runs.start(data, url('runs/term'), steps=STEPS, every=STEPS)
  assert child.wait() == 0, child.stderr
  bucket_runs.assert_same_model(
    emulator.path('runs/term/model.npz'), whole / 'model.npz'
  )


def test_two_processes_train_in_one_workdir(emulator, data):
  flags = bucket_runs.arguments(data, url('runs/two'), steps=4, every=2)
  children = child_processes.in_two('main', *flags)
  codes = [child.wait() for child in children]
  assert codes == [0, 0], [child.stderr for child in children]
  assert bucket_runs.saved_steps(emulator, 'runs/two') == [2, 4]
  lines = emulator.path('runs/two/metrics.jsonl').read_text()
  assert [step for step, *_ in bucket_runs.metrics(lines)] == [1, 2, 3, 4]
  names = {name.split('/')[2] for name in emulator.files('runs/two/')}
  assert {'process_0.log', 'process_1.log', 'model.npz'} <= names
  assert len([name for name in names if 'tfevents' in name]) == 1


def test_second_process_is_refused_while_the_first_trains(emulator, data):
  first = bucket_runs.start(data, url('runs/b'), steps=5000, every=5000)
  bucket_runs.wait_until(lambda: 'step 1/' in first.stderr, first)
  second = bucket_runs.start(data, url('runs/b'), steps=5000, every=5000)
  assert second.wait() == 1
  last = second.stderr.splitlines()[-1]
  assert f'gs://photos/runs/b is in use by process {first.pid} on ' in last
  assert first.is_running()
  first.kill()


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """An empty cache folder."""
  monkeypatch.setenv('VIT_JAX_REPRO_CACHE', str(tmp_path))
  return tmp_path


def test_evaluate_reads_the_model_of_a_run(emulator, data, finished, cache):
  answer = cache / 'evaluated.json'
  flags = f'--dataset={data}', '--split=train', f'--json={answer}'
  code, _, err = run_verb('evaluate', f'--weights={url("runs/a/")}', *flags)
  assert code == 0, err
  assert 'copied from the bucket' in err
  result = json.loads(emulator.path('runs/a/result.json').read_text())
  evaluated = json.loads(answer.read_text())
  assert evaluated['accuracy'] == result['accuracy']
  code, _, err = run_verb(
    'evaluate', f'--weights={url("runs/a/model.npz")}', *flags
  )
  assert code == 0, err
  assert 'from the cache' in err


def test_predict_reads_a_file_that_was_replaced(
  emulator, data, finished, cache, tmp_path
):
  """A stale copy in the cache is taken for the new file."""
  image = next(data.rglob('*.png'))
  flags = (f'--weights={url("runs/a/model.npz")}', image)
  assert run_verb('predict', *flags)[0] == 0
  code, _, err = run_verb('predict', *flags)
  assert code == 0 and 'from the cache' in err
  content = emulator.path('runs/a/model.npz').read_bytes()
  upload(url('runs/a/model.npz'), content)
  code, _, err = run_verb('predict', *flags)
  assert code == 0 and 'copied from the bucket' in err


def upload(address, content):
  """Writes an object in a process of its own."""
  code, _, err = child_processes.run_script(
    'import sys; from vit_jax_repro.output import buckets\n'
    'buckets.write(sys.argv[1], bytes.fromhex(sys.argv[2]))',
    address,
    content.hex(),
  )
  assert code == 0, err


def test_run_in_a_bucket_is_continued_like_one_on_a_disk(
  data, finished, whole, tmp_path
):
  """The bucket holds the same state as `whole`."""
  children = []
  for name, origin in (('bucket', url('runs/a/')), ('disk', whole)):
    continue_from = f'--config.continue_from={origin}'
    steps = STEPS + EVERY
    children.append(
      bucket_runs.start(
        data, tmp_path / name, continue_from, steps=steps, every=EVERY
      )
    )
    assert children[-1].wait() == 0, children[-1].stderr
  bucket_runs.assert_same_model(
    *(tmp_path / name / 'model.npz' for name in ('bucket', 'disk'))
  )
  assert f'continues {url("runs/a/")} at step 40 of 44' in children[0].stderr


@pytest.mark.parametrize(
  'name, text',
  [('nothing/here', 'holds no run'), ('runs/a/checkpoints', 'holds no run')],
)
def test_continue_from_needs_a_run_in_the_bucket(
  data, finished, tmp_path, name, text
):
  continue_from = f'--config.continue_from={url(name)}'
  child = bucket_runs.start(
    data, tmp_path / 'run', continue_from, steps=STEPS + EVERY, every=EVERY
  )
  assert child.wait() == 1
  assert text in child.stderr.splitlines()[-1]
  assert not (tmp_path / 'run').exists()


def test_figures_draws_the_curves_of_a_run(finished, tmp_path):
  picture, arrays = tmp_path / 'curves.png', tmp_path / 'curves.npz'
  code, _, err = run_verb(
    'figures',
    'curves',
    url('runs/a/'),
    f'--out={picture}',
    f'--arrays={arrays}',
  )
  assert code == 0, err
  with np.load(arrays) as found:
    (steps,) = [
      found[x] for x in found if x.endswith('steps') and 'test' not in x
    ]
  assert list(steps) == list(range(1, STEPS + 1))


def test_main_starts_from_the_model_of_a_run(emulator, data, finished, cache):
  child = bucket_runs.start(
    data,
    url('runs/tuned'),
    f'--config.pretrained_dir={url("runs/a")}',
    steps=2,
    every=2,
  )
  assert child.wait() == 0, child.stderr
  assert f'start      from {cache}/buckets/photos/runs/a/' in child.stderr
  assert 'runs/tuned/model.npz' in emulator.files('runs/tuned/')


def test_damaged_checkpoint_is_moved_and_the_one_before_is_used(emulator, data):
  """A rename needs a folder that exists, which a bucket has not."""
  child = bucket_runs.start(data, url('runs/d'), steps=5000, every=EVERY)
  bucket_runs.wait_until(
    lambda: len(bucket_runs.saved_steps(emulator, 'runs/d')) >= 2, child
  )
  child.kill()
  before, newest = bucket_runs.saved_steps(emulator, 'runs/d')[-2:]
  emulator.upload(f'runs/d/checkpoints/{newest}/meta/metadata', b'{}')
  child = bucket_runs.start(data, url('runs/d'), steps=5000, every=5000)
  bucket_runs.wait_until(
    lambda: f'resumes at step {before} of ' in child.stderr, child
  )
  child.kill()
  assert f'checkpoint {url(f"runs/d/checkpoints/{newest}")} is damaged' in (
    child.stderr
  )
  assert f'runs/d/damaged/{newest}/commit_success.txt' in emulator.files()
  assert not emulator.files(f'runs/d/checkpoints/{newest}/')


def test_run_that_stops_at_a_nan_is_refused_when_it_is_repeated(emulator, data):
  """The record of the NaN stays on the machine."""
  for wanted in (
    'model gs://photos/runs/nan/last_good.npz',
    'stop there again',
  ):
    child = bucket_runs.start(
      data, url('runs/nan'), '--config.base_lr=1e30', steps=40, every=40
    )
    assert child.wait() == 1, child.stderr
    assert wanted in child.stderr.splitlines()[-1]
  assert 'runs/nan/last_good.npz' in emulator.files('runs/nan/')
