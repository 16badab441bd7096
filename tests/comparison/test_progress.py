"""Lines on the progress of a long job."""

import time

import pytest

from vit_jax_repro.comparison import progress

pytestmark = pytest.mark.quick


def test_shown_repeats_a_step_that_lasts():
  lines = []
  with progress.shown(lines.append, interval=0.1) as announce:
    announce('first')
    assert lines == ['first']  # at once
    time.sleep(0.35)
  assert 2 <= len(lines) <= 4 and set(lines[1:]) == {'first (0 s)'}
  number = len(lines)
  time.sleep(0.15)
  assert len(lines) == number  # the thread has ended


def test_shown_leaves_out_steps_that_follow_fast():
  lines = []
  with progress.shown(lines.append) as announce:
    for i in range(100):
      announce(str(i))
  assert lines == ['0']


def test_shown_ends_with_an_error():
  lines = []
  with (
    pytest.raises(ValueError, match='wrong'),
    progress.shown(lines.append, interval=0.05) as announce,
  ):
    announce('step')
    raise ValueError('wrong')
  number = len(lines)
  time.sleep(0.15)
  assert len(lines) == number
