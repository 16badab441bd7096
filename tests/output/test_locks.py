"""One run at a time in a folder."""

import os
import time

import child_processes
import pytest

from vit_jax_repro.output import locks

pytestmark = pytest.mark.quick


def hold(path):
  lock = locks.Lock(path)
  print('held', flush=True)
  time.sleep(60)
  lock.release()


def test_the_second_is_told_who_the_first_is(tmp_path):
  first = locks.Lock(tmp_path / '.lock')
  says = f'{tmp_path} is in use by process {os.getpid()} on .*; wait for it to'
  with pytest.raises(OSError, match=says) as caught:
    locks.Lock(tmp_path / '.lock')
  assert '\n' not in str(caught.value)
  first.release()
  locks.Lock(tmp_path / '.lock').release()


def test_who_is_killed_leaves_it(tmp_path):
  child = child_processes.Child(hold, tmp_path / '.lock', devices=1)
  while not child.stdout:
    assert child.is_running(), child.stderr
  with pytest.raises(OSError, match=f'in use by process {child.pid} on'):
    locks.Lock(tmp_path / '.lock')
  child.kill()
  locks.Lock(tmp_path / '.lock').release()


def test_a_folder_that_cannot_be_written(tmp_path):
  with pytest.raises(OSError, match='No such file'):
    locks.Lock(tmp_path / 'nothing' / '.lock')
