"""The memory that a run expects to take of a CPU's machine, and takes."""

import re

import child_processes
import pytest
from student_runs import STUDENT, settings
from training_sets import write_folder

from vit_jax_repro import jobs

# Most of an update's memory is that of its wide MLPs.
WIDE = dict(STUDENT, mlp_dim=512, num_layers=2)


def train(folder, workdir, batch):
  """Trains on images of 32 pixels; prints the memory at its peak."""
  pp = dict(train='train', test='train', crop=32)
  keys = dict(batch=batch, total_steps=2, checkpoint_every=1, eval_every=1)
  jobs.train(settings(folder, model=WIDE, pp=pp, **keys), workdir)
  with open('/proc/self/status') as file:
    print(int(re.search(r'VmHWM:\s+(\d+) kB', file.read())[1]) / 1e6)


@pytest.mark.parametrize('batch, least', [(64, 0.5), (2048, 2)])
def test_train_says_how_much_memory_it_takes(batch, least, tmp_path):
  """The larger batch takes most of its memory for the update."""
  folder = write_folder(tmp_path / 'digits', 40)
  child = child_processes.Child(
    train, folder, tmp_path / 'run', batch, devices=1
  )
  assert child.wait() == 0, child.stderr
  measured = float(child.stdout.split()[-1])
  found = re.search('memory +about (.*) GB at its peak', child.stderr)
  assert found, child.stderr
  assert measured > least
  assert 0.9 * measured <= float(found[1]) <= 1.25 * measured, measured
