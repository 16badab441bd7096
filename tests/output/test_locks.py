"""Locks that one process at a time holds."""

import errno
import fcntl
import os
import time

import child_processes
import pytest

from vit_jax_repro.output import locks

pytestmark = pytest.mark.quick


def lock(folder):
  return locks.Lock(folder / '.lock', folder, 'wait for it to end')


def hold(folder):
  held = lock(folder)
  print('held', flush=True)
  time.sleep(60)
  held.release()


def test_lock_names_its_owner_to_the_second(tmp_path):
  first = lock(tmp_path)
  message = f'{tmp_path} is in use by process {os.getpid()} on .*; wait for it'
  for _ in range(2):
    with pytest.raises(OSError, match=message) as caught:
      lock(tmp_path)
    assert '\n' not in str(caught.value)
  first.release()
  lock(tmp_path).release()


@pytest.mark.slow
def test_lock_of_a_killed_process_is_free(tmp_path):
  child = child_processes.Child(hold, tmp_path, devices=1)
  while not child.stdout:
    assert child.is_running(), child.stderr
  with pytest.raises(OSError, match=f'in use by process {child.pid} on'):
    lock(tmp_path)
  child.kill()
  lock(tmp_path).release()


def test_lock_needs_an_existing_folder(tmp_path):
  with pytest.raises(OSError, match='No such file'):
    lock(tmp_path / 'nothing')
  assert not list(tmp_path.iterdir())


def test_lock_is_left_out_on_a_file_system_without_locks(tmp_path, monkeypatch):
  def unsupported(*_):
    raise OSError(errno.ENOSYS, 'Function not implemented')

  monkeypatch.setattr(fcntl, 'flock', unsupported)
  for held in (lock(tmp_path), lock(tmp_path)):
    held.release()


def test_locked_removes_its_file(tmp_path):
  path = tmp_path / 'a.npz.lock'
  with locks.locked(path, 'a.npz', 'wait'):
    with (
      pytest.raises(OSError, match=f'a.npz is in use by process {os.getpid()}'),
      locks.locked(path, 'a.npz', 'wait'),
    ):
      pass
    assert path.exists()
  assert not path.exists()
