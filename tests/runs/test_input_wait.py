"""The share of the time in which the devices wait for images, and the note."""

import itertools
import time

import pytest

from vit_jax_repro.runs import input_wait

pytestmark = pytest.mark.quick


class Device:
  """Computes updates one after the other in the background, in fake time."""

  def __init__(self, clock, seconds):
    self.clock, self.seconds, self.free = clock, seconds, 0.0

  def update(self):
    self.free = max(self.free, self.clock[0]) + self.seconds
    return {'loss': Result(self.clock, self.free)}


class Result:
  """Is ready at a time, like an array of JAX that is being computed."""

  def __init__(self, clock, end):
    self.clock, self.end = clock, end

  def is_ready(self):
    return self.clock[0] >= self.end

  def block_until_ready(self):
    self.clock[0] = max(self.clock[0], self.end)


@pytest.fixture
def clock(monkeypatch):
  """Replaces the time by seconds, and the CPU time by half of them."""
  now = [0.0]
  monkeypatch.setattr(time, 'perf_counter', lambda: now[0])
  monkeypatch.setattr(time, 'process_time', lambda: now[0] / 2)
  return now


def share_of(clock, reading, seconds=1.0, compiling=30.0, number=20):
  """Returns the share of waiting with these times of a batch and an update."""

  def batches():
    for i in itertools.count():
      clock[0] += reading
      yield {'image': i}

  device, meter, found = (
    Device(clock, seconds),
    input_wait.WaitMeter(),
    batches(),
  )
  for step in range(number + 1):
    meter.next(found)
    device.seconds = seconds if step else compiling
    result = device.update()
    meter.updated(result)
    if step == 0:  # as runs.loop, which does not measure the first update
      result['loss'].block_until_ready()
      start = clock[0]
  result['loss'].block_until_ready()
  return meter.share(clock[0] - start)


def test_meter_counts_what_is_left_after_an_update(clock):
  """Reading takes four times as long as an update, so three quarters wait."""
  assert share_of(clock, reading=4.0) == pytest.approx(3 / 4, abs=0.06)
  assert share_of(clock, reading=1.25) == pytest.approx(1 / 5, abs=0.06)


@pytest.mark.parametrize('reading', [0.0, 0.25, 0.99])
def test_meter_counts_nothing_while_updates_run(clock, reading):
  """Reading that is hidden behind the updates is counted."""
  assert share_of(clock, reading) == pytest.approx(0, abs=0.06)


def test_meter_begins_anew_after_each_report():
  meter = input_wait.WaitMeter()
  meter._waited = 3.0
  assert meter.share(4.0) == 0.75 and meter.share(4.0) == 0
  meter._waited = 3.0
  assert meter.share(0.0) == 0 and meter.share(1.0) == 0


def test_advice_names_the_limit_and_the_cores():
  line = input_wait.advice(0.5, busy=7.9, cores=8)
  assert line.startswith('the devices wait for images 50% of the time: ')
  assert '7.9 of 8 cores' in line and 'about 16 would feed' in line
  assert 'about 9 would' in input_wait.advice(0.101, busy=7, cores=8)
  line = input_wait.advice(0.5, busy=0.7, cores=8)
  assert 'disk' in line and '0.7 of 8 cores are busy' in line
  assert 'would feed the devices' not in line
  assert '\n' not in line


def test_adviser_gives_one_note_above_a_tenth(clock):
  adviser = input_wait.Adviser('tpu')
  assert adviser.line(0.9) is None  # begins
  clock[0] = 1.0
  assert adviser.line(0.9) is None  # too early
  clock[0] = 10.0
  assert adviser.line(0.1) is None
  clock[0] = 20.0
  line = adviser.line(0.11)
  assert line and ' 11% of the time' in line and '0.5 of' in line
  clock[0] = 30.0
  assert adviser.line(0.9) is None


def test_adviser_is_silent_where_updates_take_the_same_cores(clock):
  adviser = input_wait.Adviser('cpu')
  for clock[0] in (0.0, 10.0, 20.0):
    assert adviser.line(0.9) is None
