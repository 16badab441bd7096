"""Addresses in buckets, without a bucket; `make buckets` has an emulator."""

import sys

import pytest
from run_verb import assert_one_line, run_verb

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import bucket_calls, bucket_locks, buckets

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
  'address, cleaned',
  [
    ('gs://a-b_1.c/', 'gs://a-b_1.c'),
    ('gs://photos/runs/a//', 'gs://photos/runs/a'),
    ('gs://photos/My Runs/a', 'gs://photos/My Runs/a'),
  ],
)
def test_clean_removes_slashes_at_the_end(address, cleaned):
  assert buckets.clean(address) == cleaned


@pytest.mark.parametrize(
  'address', ['gs://', 'gs:///a', 'gs://a//b', 'gs://A/b']
)
def test_clean_refuses_what_is_no_address(address):
  with pytest.raises(
    InputError, match='is no address in a bucket; write gs://'
  ):
    buckets.clean(address)


@pytest.mark.parametrize(
  'name, unfit',
  [
    ('run #1', "'#'"),
    ('is it?', r"'\?'"),
    ('a/../b', r"'\.\.'"),
    ('a/./#', r"'#' and '\.'"),
    ('a\nb', 'unprintable characters'),
  ],
)
def test_clean_run_refuses_names_that_tensorstore_changes(name, unfit):
  with pytest.raises(
    InputError, match=f'cannot hold checkpoints, because of {unfit} in it;'
  ):
    buckets.clean_run(f'gs://photos/{name}')


def test_clean_run_keeps_names_that_tensorstore_escapes():
  address = 'gs://photos/My runs/50%20of..all é+[1]'
  assert buckets.clean_run(f'{address}/') == address


@pytest.mark.parametrize(
  'function, variable, default, wrong',
  [
    (
      bucket_calls.deadline,
      bucket_calls.VARIABLE,
      300.0,
      ('x', '-1', 'nan', 'inf'),
    ),
    (
      bucket_locks.stale_seconds,
      bucket_locks.VARIABLE,
      60.0,
      ('x', '0', 'inf'),
    ),
  ],
)
def test_seconds_come_from_a_variable(
  function, variable, default, wrong, monkeypatch
):
  monkeypatch.delenv(variable, raising=False)
  assert function() == default
  monkeypatch.setenv(variable, '2.5')
  assert function() == 2.5
  for text in wrong:
    monkeypatch.setenv(variable, text)
    with pytest.raises(InputError, match=f'{variable}={text} must be a number'):
      function()


def test_bucket_needs_gcsfs(monkeypatch):
  monkeypatch.setitem(sys.modules, 'gcsfs', None)
  buckets._filesystem.cache_clear()
  with pytest.raises(InputError, match=r"gcsfs; pip install -e '\.\[gcs\]'"):
    buckets.read('gs://photos/a')


def test_read_refuses_a_large_file_before_it_reads(monkeypatch):
  monkeypatch.setattr(buckets, 'info', lambda url: {'size': 11})
  monkeypatch.setattr(buckets, '_filesystem', pytest.fail)
  with pytest.raises(InputError, match='gs://a/b has 11 bytes, and at most 10'):
    buckets.read('gs://a/b', most=10)


@pytest.mark.parametrize('workdir', ['gs:/photos/a', 's3://photos/a'])
def test_main_refuses_other_addresses(workdir):
  """A folder named gs: is made, and the bucket stays empty."""
  code, out, err = run_verb(
    'main', '--config=configs/quickstart.py', f'--workdir={workdir}'
  )
  last = err.splitlines()[-1] + '\n'
  assert_one_line(
    (code, out, last), f'workdir={workdir!r} must be a folder on this machine'
  )
