"""Short runs of `main` in a bucket, in processes of their own."""

import json
import pathlib
import time

import child_processes
import numpy as np
from gcs_emulator import BUCKET

from vit_jax_repro.weights import npz

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
WAIT = 120  # seconds for what takes a few
KEYS = (
  '--config.pp.train=train',
  '--config.pp.test=train',
  '--config.pp.crop=8',
  '--config.pp.flip=True',
  '--config.warmup_steps=1',
  '--config.batch=8',
  '--config.batch_eval=40',
  '--config.progress_every=1',
  '--config.mixup_alpha=0.3',
  '--config.model.hidden_size=8',
  '--config.model.transformer.num_layers=1',
  '--config.model.transformer.mlp_dim=8',
  '--config.model.transformer.num_heads=2',
)


def url(name):
  """Returns the address of a name in the bucket."""
  return f'gs://{BUCKET}/{name}'


def arguments(data, workdir, *keys, steps, every):
  return [
    f'--config={CONFIGS}/quickstart.py',
    f'--config.dataset={data}',
    f'--workdir={workdir}',
    f'--config.total_steps={steps}',
    f'--config.checkpoint_every={every}',
    f'--config.eval_every={steps}',
    *KEYS,
    *keys,
  ]


def start(data, workdir, *keys, steps, every):
  """Starts a run; returns its Child."""
  flags = arguments(data, workdir, *keys, steps=steps, every=every)
  return child_processes.Child(child_processes.verb, 'main', flags, devices=1)


def wait_until(condition, child=None):
  """Waits until a condition holds, or fails if the child ends before."""
  end = time.monotonic() + WAIT
  while not condition():
    assert child is None or child.is_running(), child.stdout + child.stderr
    assert time.monotonic() < end, 'waited too long'
    time.sleep(0.02)


def saved_steps(emulator, name):
  """Returns the steps of the whole checkpoints of a run."""
  marker = 'commit_success.txt'
  found = [each.split('/') for each in emulator.files(f'{name}/checkpoints/')]
  at = name.count('/') + 2
  return sorted(
    int(parts[at]) for parts in found if parts[at + 1 :] == [marker]
  )


def metrics(text):
  """Returns (step, loss, accuracy) of each line of metrics.jsonl."""
  return [
    (line['step'], line['train_loss'], line.get('accuracy_test'))
    for line in map(json.loads, text.splitlines())
  ]


def assert_same_model(found, wanted):
  """Compares two model.npz bit by bit."""
  found, wanted = dict(npz.read(found)), dict(npz.read(wanted))
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    np.testing.assert_array_equal(found[name], array, err_msg=name)
