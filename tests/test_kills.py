"""Tests runs with a damaged checkpoint, and with a process that cannot write.

`make soak` stops runs at random moments.
"""

import os
import shutil

import child_processes
import killed_runs
import pytest
import run_lines

from vit_jax_repro import main

TOTAL_STEPS = 4 * killed_runs.CHECKPOINT_EVERY
BEFORE = TOTAL_STEPS - killed_runs.CHECKPOINT_EVERY


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp('tfds')
  killed_runs.write_data(root)
  return root


def train(data, *workdirs):
  """Trains in each folder, one after the other."""
  for workdir in workdirs:
    steps = f'--config.total_steps={TOTAL_STEPS}'
    main.main(['main', *killed_runs.arguments(data, workdir, steps)])


def errors_of(data, *workdirs):
  """Trains in a process of one device; returns its standard error."""
  child = child_processes.Child(train, data, *workdirs, devices=1)
  assert child.wait() == 0, child.stderr
  return child.stderr


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
  """The workdir of an undisturbed run."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  errors_of(data, workdir)
  return workdir


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_run_resumes_from_the_checkpoint_before_a_damaged_one(
  data, whole, tmp_path
):
  last, workdirs = TOTAL_STEPS, []
  for damage in (killed_runs.flip, truncate, os.remove):
    workdir = tmp_path / damage.__name__
    shutil.copytree(whole, workdir)
    (workdir / 'model.npz').unlink()  # as if killed before it is written
    checkpoints = workdir / 'checkpoints'
    assert {path.name for path in checkpoints.iterdir()} == {
      str(BEFORE),
      str(last),
    }
    damage(killed_runs.largest(checkpoints / str(last)))
    workdirs.append(workdir)
  errors = errors_of(data, *workdirs)
  started = f'start      resumes at step {BEFORE} of {last}'
  assert errors.splitlines().count(started) == len(workdirs)
  notes = run_lines.others(errors)
  for workdir, note in zip(workdirs, notes, strict=True):
    named = workdir / 'checkpoints' / str(last)
    assert note.startswith(f'note: checkpoint {named} is damaged (')
    assert f'using that of step {BEFORE} and moving it to' in note
    damaged = workdir / 'damaged'
    assert [path.name for path in damaged.iterdir()] == [str(last)]
    killed_runs.assert_same(workdir, whole)


@pytest.mark.parametrize('full', [0, 1])
def test_all_processes_end_when_one_cannot_write_its_part(full, data, tmp_path):
  run = killed_runs.Run(data, tmp_path / 'run', processes=2)
  run.start()
  run.wait_until(lambda: run.last_step() >= killed_runs.CHECKPOINT_EVERY)
  run.fill_disk(full)
  run.end_on_full_disk()
  assert 'cannot write a checkpoint' in run.children[full].stderr
  assert f'process {full} has ended' in run.children[1 - full].stderr
