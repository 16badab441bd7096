"""The memory that a run expects to take of a CPU's machine, and takes."""

import re

import child_processes
import numpy as np
import pytest
from PIL import Image
from student_runs import STUDENT, settings
from training_sets import write_folder

from vit_jax_repro import jobs
from vit_jax_repro.parallel import host_memory
from vit_jax_repro.parallel import mesh as mesh_lib
from vit_jax_repro.runs import host_estimate, parts
from vit_jax_repro.runs import settings as settings_lib

# Most of an update's memory is that of its wide MLPs.
WIDE = dict(STUDENT, mlp_dim=512, num_layers=2)


def train(folder, workdir, batch):
  """Trains on images of 32 pixels; prints the memory at its peak."""
  pp = dict(train='train', test='train', crop=32)
  keys = dict(batch=batch, total_steps=2, checkpoint_every=1, eval_every=1)
  jobs.train(settings(folder, model=WIDE, pp=pp, **keys), workdir)
  with open('/proc/self/status') as file:
    print(int(re.search(r'VmHWM:\s+(\d+) kB', file.read())[1]) / 1e6)


@pytest.mark.parametrize('batch, least', [(64, 0.5), (1024, 1.2)])
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


def other_bytes(folder, **keys):
  """Returns the estimate for a run, and the bytes of its state."""
  run = parts.Parts(
    settings_lib.from_config(settings(folder, total_steps=4, **keys)),
    mesh_lib.create_mesh(),
    line=lambda name, text: None,
    records=[],
  )
  return host_estimate.other_bytes(run.step), mesh_lib.bytes_of(run.shapes)


def test_other_bytes_has_the_written_state_if_updates_follow_a_checkpoint(
  tmp_path,
):
  """Its copy, and 0.3 of it compressed; the last comes after all updates."""
  folder = write_folder(tmp_path / 'digits', 20)
  found = {
    every: other_bytes(folder, checkpoint_every=every) for every in (0, 3, 4, 5)
  }
  least, state = found[0]
  assert found == {
    0: (least, state),
    3: (least + int(1.3 * state), state),
    4: (least, state),
    5: (least, state),
  }


def test_other_bytes_has_an_image_for_each_core(tmp_path):
  """All images of a folder count as its first one."""
  sizes = {'small': (8, 8), 'large': (3000, 4000)}
  found = {}
  for name, size in sizes.items():
    folder = write_folder(tmp_path / name, 20)
    first = folder / 'train' / 'digit 0' / '0.png'
    Image.fromarray(np.zeros(size, np.uint8)).save(first)
    found[name] = other_bytes(folder)[0]
  pixels = 3000 * 4000 - 8 * 8
  more = found['large'] - found['small']
  assert more == host_memory.cores() * 3 * pixels


def test_other_bytes_has_the_batches_that_are_prefetched(tmp_path):
  """Of small ones four are read ahead of the next update, of large ones two.

  A large one would be 805 MB, and is not made.
  """
  folder = write_folder(tmp_path / 'digits', 20)
  pp = dict(train='train', test='train', crop=32)
  small, large = (
    other_bytes(folder, batch=batch, pp=pp)[0] for batch in (64, 65_536)
  )
  row = 32 * 32 * 3 * 4 + 4  # with the label
  assert large - small == (2 * 65_536 - 4 * 64) * row
