"""Stops runs at random moments in every way, and compares what they end with.

`SOAK_KILLS` is the number of SIGKILLs (100 by default), and a fifth as many
SIGTERMs come besides. `SOAK_SEED` chooses the moments.
"""

import os
import random
import time

import killed_runs
import pytest

KILLS = int(os.environ.get('SOAK_KILLS', '100'))
SEED = int(os.environ.get('SOAK_SEED', '0'))
KILLED = 'SIGKILL at the start', 'SIGKILL after an update', 'SIGKILL in a save'
TERMINATED, FLIPPED = 'SIGTERM', 'a flipped bit'
FULL = 'full disk in a checkpoint', 'full disk in model.npz'
EVENTS = (*KILLED, TERMINATED, FLIPPED, *FULL)
COLUMNS = ('processes', 'runs', *EVENTS, 'minutes', 'different')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp('tfds')
  killed_runs.write_data(root)
  return root


def counts(share):
  """Returns how often each event happens, for a share of the kills."""
  kills = round(KILLS * share)
  each = {name: (kills + i) // 3 for i, name in enumerate(KILLED)}
  others = dict.fromkeys((FLIPPED, *FULL), 1)
  return each | {TERMINATED: max(1, round(kills / 5))} | others


def happen(event, run, rng):
  """Lets an event happen to a started run, which ends it."""
  if event == KILLED[0]:
    run.wait_for_start(rng)
    run.kill(rng)
  elif event == KILLED[1]:
    run.wait_for_update(rng)
    run.kill(rng)
  elif event == KILLED[2]:
    run.wait_for_save(rng)
    run.kill(rng)
  elif event == TERMINATED:
    run.wait_for_update(rng)
    run.terminate(rng)
  elif event == FLIPPED:
    run.wait_until(lambda: len(run.saved()) > 1)
    run.kill(rng)
    run.damage()
  else:
    fill(event, run, rng)


def fill(event, run, rng):
  """Fills the disk while a run writes a checkpoint, or its model."""
  if event == FULL[0]:
    run.wait_for_save(rng)
  else:
    run.wait_until(lambda: run.saved()[-1:] == [killed_runs.TOTAL_STEPS])
  run.fill_disk()
  run.end_on_full_disk()
  assert not (run.workdir / 'model.npz').exists()


@pytest.mark.parametrize('processes, share', [(1, 0.6), (2, 0.4)])
def test_stopped_runs_end_like_an_undisturbed_one(
  processes, share, data, tmp_path, rows, capsys
):
  rng, began = random.Random(SEED), time.monotonic()
  whole = killed_runs.Run(data, tmp_path / 'whole', processes=processes)
  whole.start()
  whole.finish()
  events = shuffled(counts(share))
  runs = [killed_runs.Run(data, tmp_path / '1', processes=processes)]
  for number, event in enumerate(events, start=1):
    if runs[-1].is_near_end() and event != FULL[1]:
      end(runs[-1], whole)
      folder = tmp_path / str(len(runs) + 1)
      runs.append(killed_runs.Run(data, folder, processes=processes))
    runs[-1].start()
    happen(event, runs[-1], rng)
    with capsys.disabled():
      print(
        f'{number} of {len(events)}: {event}, at step {runs[-1].last_step()} '
        f'of run {len(runs)}, {time.monotonic() - began:.0f} s',
        flush=True,
      )
  end(runs[-1], whole)
  if not rows:
    rows.append(f'| {" | ".join(COLUMNS)} |')
    rows.append('|' + ' --- |' * len(COLUMNS))
  done = [events.count(event) for event in EVENTS]
  minutes = f'{(time.monotonic() - began) / 60:.0f}'
  cells = (processes, len(runs), *done, minutes, 0)
  rows.append(f'| {" | ".join(map(str, cells))} |')


def shuffled(counts):
  """Returns each event as often as its count; the model comes last."""
  events = [event for event, count in counts.items() for _ in range(count)]
  random.Random(SEED).shuffle(events)
  return sorted(events, key=lambda event: event == FULL[1])


def end(run, whole):
  """Lets a run finish, and compares it with the undisturbed one."""
  run.start()
  run.finish()
  killed_runs.assert_same(run.workdir, whole.workdir)
