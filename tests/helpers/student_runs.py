"""Settings and metrics of short runs of a small student."""

import json

import tiny_models

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
