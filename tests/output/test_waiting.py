"""The lines on what takes long, and the silence of everything else."""

import threading
import time

import pytest

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import messages, waiting

pytestmark = pytest.mark.quick


@pytest.fixture
def impatient(monkeypatch):
  """Lets a line appear after 0.05 seconds of silence."""
  monkeypatch.setenv('VIT_JAX_REPRO_PATIENCE', '0.05')


def test_watch_names_the_innermost_step(impatient, capsys):
  """An outer step, or a step that has ended, is named instead."""
  with waiting.watch('predict'):
    time.sleep(0.2)
    with waiting.doing('reading a.npz'), waiting.doing('resizing positions'):
      time.sleep(0.2)
    time.sleep(0.2)
  lines = [
    line.partition(' (')[0] for line in capsys.readouterr().err.split('\n')
  ]
  wanted = [
    'predict: loading libraries',
    'resizing positions',
    'predict: working',
  ]
  assert list(dict.fromkeys(filter(None, lines))) == wanted


def test_watch_waits_while_others_print(impatient, capsys):
  """Lines of progress appear between lines that follow each other closely."""
  messages.note('alive')  # the first call of a process imports what it needs
  with waiting.watch('main'):
    for _ in range(10):
      messages.note('alive')
      time.sleep(0.02)
  assert set(capsys.readouterr().err.splitlines()) == {'note: alive'}


def test_suspended_prints_nothing_under_a_moving_bar(impatient, capsys):
  """Lines break a bar that moves on the same terminal."""
  with waiting.watch('main'), waiting.suspended():
    time.sleep(0.2)
  assert not capsys.readouterr().err


def test_doing_is_silent_outside_of_commands(impatient, capsys):
  """A function of jobs prints lines in a notebook, or leaves a thread."""
  before = threading.active_count()
  with waiting.doing('reading a.npz'):
    time.sleep(0.2)
  assert not capsys.readouterr().err and threading.active_count() == before


def test_now_doing_restarts_the_seconds(impatient, capsys):
  """A step that replaces another keeps the other's seconds or its text."""
  with waiting.watch('main'), waiting.doing('update 1 of 3'):
    time.sleep(0.6)
    waiting.now_doing('update 2 of 3')
    time.sleep(0.2)
  assert 'update 2 of 3\n' in capsys.readouterr().err


def test_doing_ends_the_step_of_its_own_thread(impatient, capsys):
  """A thread that ends its step removes the step of another thread."""
  begun, ended = threading.Event(), threading.Event()

  def other():
    with waiting.doing('compiling'):
      begun.set()
      ended.wait()

  with waiting.watch('main'), waiting.doing('reading'):
    thread = threading.Thread(target=other)
    thread.start()
    begun.wait()
    with waiting.doing('converting'):
      ended.set()
      thread.join()
      capsys.readouterr()
      time.sleep(0.2)
  assert {*capsys.readouterr().err.splitlines()} == {'converting'}


@pytest.mark.parametrize('text', ['abc', '0', '-1', 'nan'])
def test_patience_refuses_what_is_no_duration(text, monkeypatch):
  """A trace, or a line for every instant."""
  monkeypatch.setenv('VIT_JAX_REPRO_PATIENCE', text)
  with pytest.raises(InputError, match=f'PATIENCE={text} must be a number'):
    waiting.patience()


def test_within_returns_raises_or_gives_up():
  assert waiting.within(9, lambda: 5) == 5
  with pytest.raises(ValueError, match='invalid literal'):
    waiting.within(9, lambda: int('x'))
  ended = threading.Event()
  with pytest.raises(TimeoutError, match=r'^no end after 0\.05 s$'):
    waiting.within(0.05, ended.wait)
  (thread,) = [t for t in threading.enumerate() if t.name == waiting.ABANDONED]
  ended.set()
  thread.join()
