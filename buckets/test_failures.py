"""Buckets that refuse, and servers that go away during a run."""

import os
import time

import bucket_runs
import gcs_emulator
import pytest
from bucket_runs import url
from photographs import PHOTOGRAPHS
from run_verb import run_verb
from training_sets import write_folder

STEPS, EVERY = 400, 5
EXPIRED = {401: 'Invalid Credentials', 403: 'denied', 400: 'invalid_grant'}
WORDS = {
  401: 'the login is missing or has expired (401); log in again: gcloud auth',
  403: 'permission denied (403); ask for the role Storage Object User',
  400: 'it refuses the request, as with an expired login (400); log in again',
}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  return write_folder(tmp_path_factory.mktemp('digits'), 40)


@pytest.fixture
def proxy(emulator, monkeypatch):
  """A proxy before the emulator, which the commands take for the bucket."""
  made = gcs_emulator.Proxy(emulator.port)
  for name, value in emulator.environment(made.address).items():
    monkeypatch.setenv(name, value)
  yield made
  made.close()


def start(data, name, **options):
  options = dict(steps=STEPS, every=EVERY) | options
  return bucket_runs.start(data, url(name), **options)


def assert_last_line(child, *wanted):
  """Checks that a run ends with one line, the last, and no trace."""
  assert child.wait() == 1, child.stderr
  assert 'Traceback' not in child.stderr and not child.stdout
  last = child.stderr.splitlines()[-1]
  assert last.startswith('main: '), child.stderr
  for text in wanted:
    assert text in last
  return last


@pytest.mark.parametrize('status', EXPIRED)
def test_refusal_is_one_line_before_the_data_is_read(proxy, data, status):
  proxy.refuse(status, EXPIRED[status])
  child = start(data, 'refused')
  assert_last_line(child, url('refused'), WORDS[status])
  assert '\ndata ' not in child.stderr
  assert child.stderr.count('\n') == 2  # with the devices


def test_refused_writing_is_one_line_before_the_data_is_read(proxy, data):
  proxy.refuse(403, 'denied', lambda line: line.startswith('POST'))
  child = start(data, 'readonly')
  assert_last_line(child, url('readonly'), WORDS[403])
  assert '\ndata ' not in child.stderr


def test_missing_bucket_is_one_line_before_the_data_is_read(emulator, data):
  flags = bucket_runs.arguments(
    data, 'gs://nowhere/run/', steps=STEPS, every=EVERY
  )
  code, out, err = run_verb('main', *flags)
  assert (code, out) == (1, '')
  assert err.splitlines()[-1] == (
    "main: gs://nowhere/run: there is no bucket 'nowhere'; check its name, or "
    'make it'
  )
  assert '\ndata ' not in err


def test_name_that_tensorstore_changes_is_one_line(emulator, data, tmp_path):
  """A run would write to gs://photos/run, and then wait without an end."""
  before = emulator.files()
  child = start(data, 'run#1')
  assert_last_line(child, "'#'", 'choose another name')
  continue_from = f'--config.continue_from={url("run#1")}'
  child = bucket_runs.start(
    data, tmp_path / 'run', continue_from, steps=STEPS, every=EVERY
  )
  assert_last_line(child, "'#'", 'choose another name')
  assert emulator.files() == before and not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'address, text',
  [
    ('gs://nowhere/model.npz', "there is no bucket 'nowhere'"),
    (
      'gs://photos/nothing/',
      'no weights gs://photos/nothing: there is no such',
    ),
    ('gs://photos//model.npz', 'is no address in a bucket'),
  ],
)
def test_wrong_weights_are_one_line(emulator, data, address, text):
  image = str(PHOTOGRAPHS['china'])
  code, out, err = run_verb('predict', f'--weights={address}', image)
  assert (code, out) == (1, '') and err.count('\n') == 1
  assert text in err


@pytest.mark.parametrize('status', EXPIRED)
def test_login_that_expires_ends_a_run(emulator, proxy, data, status):
  name = f'expired/{status}'
  child = start(data, name)
  bucket_runs.wait_until(lambda: bucket_runs.saved_steps(emulator, name), child)
  proxy.refuse(status, EXPIRED[status])
  assert_last_line(child, url(name))
  found = emulator.files(name)
  assert f'{name}/model.npz' not in found
  assert f'{name}/result.json' not in found


def test_server_that_is_killed_in_a_checkpoint_and_returns(
  emulator, data, tmp_path
):
  steps = 15
  child = start(data, 'return', steps=steps)
  bucket_runs.wait_until(lambda: emulator.files('return/checkpoints/10'), child)
  emulator.kill()
  time.sleep(3)
  emulator.start()
  if child.wait() == 1:  # the emulator has forgotten an upload that had begun
    assert_last_line(child, f'checkpoint in {url("return/checkpoints")}')
    child = start(data, 'return', steps=steps)
  assert child.wait() == 0, child.stderr
  whole = tmp_path / 'whole'
  other = bucket_runs.start(data, whole, steps=steps, every=EVERY)
  assert other.wait() == 0, other.stderr
  bucket_runs.assert_same_model(
    emulator.path('return/model.npz'), whole / 'model.npz'
  )
  assert bucket_runs.saved_steps(emulator, 'return') == [10, 15]


def test_server_that_stays_away_ends_a_run(emulator, data, monkeypatch):
  """A run waits without end or without a word, or cannot continue."""
  monkeypatch.setenv('VIT_JAX_REPRO_BUCKET_DEADLINE', '4')
  child = start(data, 'away')
  bucket_runs.wait_until(
    lambda: bucket_runs.saved_steps(emulator, 'away'), child
  )
  emulator.kill()
  try:
    last = assert_last_line(child, 'for 4 s; repeat the command')
  finally:
    emulator.start()
  assert 'no answer' in last
  assert 'asking again for at most 4 s' in child.stderr
  child = start(data, 'away')
  bucket_runs.wait_until(lambda: 'resumes at step' in child.stderr, child)
  os.kill(child.pid, 9)
