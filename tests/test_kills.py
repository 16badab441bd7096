"""Tests runs with a damaged checkpoint, and with a process that cannot write.

`make soak` stops runs at random moments.
"""

import os
import shutil

import killed_runs
import pytest
import run_lines

BEFORE = killed_runs.TOTAL_STEPS - killed_runs.CHECKPOINT_EVERY


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp('tfds')
  killed_runs.write_data(root)
  return root


@pytest.fixture(scope='module')
def whole(data, tmp_path_factory):
  """The workdir of an undisturbed run."""
  run = killed_runs.Run(data, tmp_path_factory.mktemp('whole') / 'run')
  run.start()
  run.finish()
  return run.workdir


def truncate(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def unfinished(data, whole, workdir):
  """Copies a run as if killed before it wrote its model."""
  shutil.copytree(whole, workdir)
  (workdir / 'model.npz').unlink()
  return killed_runs.Run(data, workdir)


def test_run_resumes_from_the_checkpoint_before_a_damaged_one(
  data, whole, tmp_path
):
  last, runs = killed_runs.TOTAL_STEPS, []
  for damage in (killed_runs.flip, truncate, os.remove):
    run = unfinished(data, whole, tmp_path / damage.__name__)
    assert run.saved() == [BEFORE, last]
    damage(killed_runs.largest(run.workdir / 'checkpoints' / str(last)))
    run.start()
    runs.append(run)
  for run in runs:
    run.finish()
    (note,) = run_lines.others(run.errors())
    named = run.workdir / 'checkpoints' / str(last)
    assert note.startswith(f'note: checkpoint {named} is damaged (')
    assert f'using that of step {BEFORE} and moving it to' in note
    started = f'start      resumes at step {BEFORE} of {last}'
    assert started in run.errors().splitlines()
    damaged = run.workdir / 'damaged'
    assert [path.name for path in damaged.iterdir()] == [str(last)]
    killed_runs.assert_same(run.workdir, whole)


@pytest.mark.parametrize('full', [0, 1])
def test_all_processes_end_when_one_cannot_write_its_part(full, data, tmp_path):
  run = killed_runs.Run(data, tmp_path / 'run', processes=2)
  run.start()
  run.wait_until(lambda: run.last_step() >= killed_runs.CHECKPOINT_EVERY)
  run.fill_disk(full)
  run.end_on_full_disk()
  assert 'cannot write a checkpoint' in run.children[full].stderr
  assert f'process {full} has ended' in run.children[1 - full].stderr
