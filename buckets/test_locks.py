"""Locks in a bucket, taken by threads of a process of their own."""

import json

import child_processes
import pytest
from bucket_runs import url

from vit_jax_repro.output.locks import InUseError
from vit_jax_repro.runs import workdir

COMPETE = """
import sys, threading
from vit_jax_repro.output import bucket_locks
from vit_jax_repro.output.locks import InUseError

held, refused = [], []

def take():
  try:
    held.append(bucket_locks.BucketLock(sys.argv[1], 'the run', 'wait'))
  except InUseError as error:
    refused.append(str(error))

threads = [threading.Thread(target=take) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(held), len(refused))
held[0].check()
print(refused[0])
if len(sys.argv) == 2:
  held[0].release()
"""
LOSE = """
import sys, time
from vit_jax_repro.output import bucket_locks, buckets

lock = bucket_locks.BucketLock(sys.argv[1], 'the run', 'stop it')
lock.check()
buckets.write(sys.argv[1], sys.argv[2].encode())
end = time.monotonic() + 20
while time.monotonic() < end:
  time.sleep(0.1)
  try:
    lock.check()
  except OSError as error:
    print(error)
    lock.release()
    break
"""
LATE = """
import json, sys
from vit_jax_repro.output import bucket_locks

lock = bucket_locks.BucketLock(sys.argv[1], 'the run', 'wait')
other = bucket_locks.BucketLock(sys.argv[2], 'the run', 'wait')
other._url = sys.argv[1]
print(other._take_over(json.loads(sys.argv[3])))
lock.check()
print(bucket_locks._token(bucket_locks._read(sys.argv[1])) == lock._token)
"""
# Written by a machine that is not this one, long ago.
FOREIGN = {'process': 7, 'host': 'elsewhere', 'system': '', 'token': 'other'}


@pytest.fixture(autouse=True)
def short(emulator, monkeypatch):
  """Locks grow old in two seconds."""
  monkeypatch.setenv('VIT_JAX_REPRO_BUCKET_LOCK', '2')


def run(script, *arguments):
  code, out, err = child_processes.run_script(script, *arguments)
  assert code == 0, err
  return out.splitlines(), err


def test_bucket_lock_has_one_owner_of_eight(emulator):
  out, err = run(COMPETE, url('one/.lock'))
  assert out[0] == '1 7'
  assert out[1].startswith('the run is in use by process ')
  assert out[1].endswith('; wait')
  assert not err and not emulator.files('one/')


def test_bucket_lock_of_a_machine_that_is_gone_goes_to_one_of_eight(emulator):
  """Two take over the same lock, or one that was just taken over."""
  emulator.upload('two/.lock', json.dumps(FOREIGN).encode())
  out, err = run(COMPETE, url('two/.lock'), 'keep')
  assert out[0] == '1 7'
  assert err.count('process 7 on elsewhere has ended; taking over') == 1
  assert emulator.files('two/') == ['two/.lock']


def test_bucket_lock_notices_that_it_was_lost(emulator):
  out, _ = run(LOSE, url('three/.lock'), json.dumps(FOREIGN))
  assert out == [
    'the run was taken over by process 7 on elsewhere, because this process '
    'was silent for more than 2 s; stop it'
  ]
  left = json.loads(emulator.path('three/.lock').read_text())
  assert left == FOREIGN


def test_bucket_lock_that_was_just_taken_over_is_left(emulator):
  """A process that read the old lock long ago takes over the new one."""
  out, _ = run(LATE, url('four/.lock'), url('five/.lock'), json.dumps(FOREIGN))
  assert out == ['False', 'True']
  assert 'four/.lock.other' not in emulator.files()


def test_begin_refuses_a_run_that_changed_while_it_waited(emulator):
  """The late process would upload the settings and metrics that it read."""
  late, other = (
    workdir.Workdir(url('late/run'), dict(seed=0)) for _ in range(2)
  )
  other.begin(dict(data=dict(other=True)))
  other.close()
  with pytest.raises(InUseError, match='has trained in gs://'):
    late.begin(dict(data={}))
  late.close()
  again = workdir.Workdir(url('late/run'), dict(seed=0))
  assert again.read_json('manifest.json')['data'] == dict(other=True)
  again.begin(dict(data={}))
  again.close()
