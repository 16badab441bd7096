"""Settings and metrics of short runs of a small student."""

import json
import shutil

import numpy as np
import tiny_models

from vit_jax_repro import weights
from vit_jax_repro.weights import trees

STUDENT = tiny_models.VIT | dict(num_layers=1, distilled=True)


def settings(folder, **keys):
  return (
    dict(
      dataset=str(folder),
      model=STUDENT,
      base_lr=0.05,
      total_steps=4,
      batch=16,
      batch_eval=40,
      progress_every=1,
      checkpoint_every=2,
      prefetch=0,
      pp=dict(train='train', test='train', crop=8),
    )
    | keys
  )


def metrics_of(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def stopped_copy(run, workdir):
  """Copies a finished run as if it was stopped after the second update."""
  shutil.copytree(run, workdir)
  shutil.rmtree(workdir / 'checkpoints' / '4')
  (workdir / 'model.npz').unlink()
  return workdir


def changed(start, run):
  """Returns {name: whether the model of a run differs from its start}."""
  before = trees.flatten(weights.load(start))
  after = trees.flatten(weights.load(run / 'model.npz'))
  assert after.keys() == before.keys()
  return {
    name: not np.array_equal(x, before[name]) for name, x in after.items()
  }
