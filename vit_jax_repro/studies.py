"""Comparisons made of several training runs."""

import copy
import dataclasses
import os
import statistics
from collections.abc import Mapping
from typing import Any

from vit_jax_repro import jobs
from vit_jax_repro.runs import json_files
from vit_jax_repro.runs.restoring import note
from vit_jax_repro.runs.settings import to_plain


@dataclasses.dataclass(frozen=True)
class Side:
  """One side of a comparison, at the learning rate that served it best."""

  name: str
  base_lr: float
  accuracies: tuple[float, ...]  # of the test split, a fraction for each seed
  mean: float
  spread: float  # standard deviation over the seeds


def transfer(
  config: Mapping[str, Any], workdir: str | os.PathLike
) -> tuple[Side, Side]:
  """Few examples of new classes, from pre-trained weights and from scratch.

  Each side tries every learning rate with every seed; the rate with the best
  mean accuracy on the held-out split is kept, and the test split is looked at
  once. Runs that are finished are not repeated.

  Args:
    config: `pretrain` and `finetune`, the settings of `jobs.train`; `held_out`,
      the split to choose on; `seeds` and `base_lrs`, lists.
    workdir: holds the runs, and transfer.json.

  Returns:
    The sides 'pre-trained' and 'from scratch'.

  Raises:
    As `jobs.train`.
  """
  config = to_plain(config)
  workdir = os.path.abspath(os.fspath(workdir))
  pretrained = os.path.join(workdir, 'pretrain')
  note(f'pre-training in {pretrained}')
  jobs.train(config['pretrain'], pretrained)
  sides = tuple(
    _best(name, start, config, os.path.join(workdir, folder))
    for name, start, folder in (
      ('pre-trained', pretrained, 'transfer'),
      ('from scratch', None, 'scratch'),
    )
  )
  json_files.write(
    os.path.join(workdir, 'transfer.json'),
    [dataclasses.asdict(side) for side in sides],
  )
  return sides


def _best(name, pretrained, config, folder):
  held_out, models = {}, {}  # base_lr: held-out accuracies, model files
  for base_lr in config['base_lrs']:
    results = []
    for seed in config['seeds']:
      settings = copy.deepcopy(config['finetune'])
      settings.update(base_lr=base_lr, seed=seed, pretrained_dir=pretrained)
      if pretrained:
        settings['model_or_filename'] = 'model'
      settings['pp']['test'] = config['held_out']
      where = os.path.join(folder, f'lr_{base_lr}', f'seed_{seed}')
      note(f'{name}, learning rate {base_lr}, seed {seed}')
      results.append(jobs.train(settings, where, show=False))
    held_out[base_lr] = statistics.mean(r.accuracy for r in results)
    models[base_lr] = [r.model for r in results]
  best = max(held_out, key=held_out.get)
  finetune = config['finetune']
  accuracies = tuple(
    jobs.evaluate(
      model,
      finetune['dataset'],
      split=finetune['pp']['test'],
      data_dir=finetune['tfds_data_dir'],
    ).accuracy
    for model in models[best]
  )
  return Side(
    name=name,
    base_lr=best,
    accuracies=accuracies,
    mean=statistics.mean(accuracies),
    spread=statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0,
  )
