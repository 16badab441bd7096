import os
import pathlib
import subprocess
import sys
import warnings

import pytest

from vit_jax_repro import compilation_cache

pytestmark = pytest.mark.quick

NAMES = (
  'JAX_COMPILATION_CACHE_DIR',
  'JAX_COMPILATION_CACHE_MAX_SIZE',
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS',
)


@pytest.fixture
def unset(monkeypatch, tmp_path):
  for name in NAMES:
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'cache'


def test_keep_uses_a_folder_of_the_users_cache(unset):
  compilation_cache.keep()
  folder = pathlib.Path(os.environ['JAX_COMPILATION_CACHE_DIR'])
  assert folder.is_dir() and folder.parents[1] == unset
  assert int(os.environ['JAX_COMPILATION_CACHE_MAX_SIZE']) == 2**32
  for name in NAMES:
    del os.environ[name]  # monkeypatch did not set it


def test_keep_leaves_a_folder_from_the_environment(
  unset, monkeypatch, tmp_path
):
  mine = str(tmp_path / 'mine')
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', mine)
  compilation_cache.keep()
  assert os.environ['JAX_COMPILATION_CACHE_DIR'] == mine
  assert not unset.exists()


def test_keep_turns_the_cache_off_where_its_folder_is_wrong(
  unset, monkeypatch, tmp_path
):
  """JAX would print three lines for each program."""
  (tmp_path / 'file').touch()
  folder = str(tmp_path / 'file')
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', folder)
  monkeypatch.setenv('JAX_ENABLE_COMPILATION_CACHE', 'true')
  line = compilation_cache.keep()
  assert f'DIR={folder} cannot be written (File exists)' in line
  assert os.environ['JAX_ENABLE_COMPILATION_CACHE'] == 'false'


def test_keep_ignores_an_unwritable_folder(unset):
  unset.write_text('no folder')
  compilation_cache.keep()
  assert 'JAX_COMPILATION_CACHE_DIR' not in os.environ


def test_keep_ignores_a_user_without_a_home(unset, monkeypatch):
  """Containers often run with a user id without an account."""
  monkeypatch.delenv('XDG_CACHE_HOME')
  monkeypatch.delenv('HOME')
  monkeypatch.setattr('os.getuid', lambda: 54321)
  compilation_cache.keep()
  assert 'JAX_COMPILATION_CACHE_DIR' not in os.environ


@pytest.mark.slow
def test_keep_shares_compiled_programs_between_processes(unset):
  """The second of two new processes finds the program of the first."""
  source = (
    'from vit_jax_repro import compilation_cache; compilation_cache.keep()\n'
    'import os; os.environ[compilation_cache.MIN_SECONDS] = "0"\n'
    'import jax, logging\n'
    'logging.basicConfig(level=logging.DEBUG)\n'
    'jax.jit(lambda x: x * 123 + 4)(5).block_until_ready()\n'
  )
  said = [
    subprocess.run(
      [sys.executable, '-c', source],
      env=os.environ | {'JAX_PLATFORMS': 'cpu'},
      capture_output=True,
      text=True,
      check=True,
    ).stderr
    for _ in range(2)
  ]
  assert list(unset.rglob('*-cache'))
  hits = [text.count('Persistent compilation cache hit') for text in said]
  assert hits[0] < hits[1], said[1][-500:]


def test_keep_silences_only_a_busy_cache(recwarn):
  """Several runs at a time print warnings, or a full disk prints none."""
  compilation_cache.keep()
  for reason in ('Timeout: The file lock could not be acquired.', 'disk full'):
    text = f'Error reading persistent compilation cache: {reason}'
    warnings.warn(text, stacklevel=1)
  assert ['disk full' in str(each.message) for each in recwarn] == [True]
