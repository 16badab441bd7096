"""Models that are fine-tuned for checks, stored in a folder of results.

RESULTS/work/runs/KEY/ holds workdirs of jobs.train: `tune/*` for the training
with each learning rate, and `seed_*` for the trainings whose models are
evaluated. KEY has a hash of the contents of the pre-trained file, the name of
the training data set and the settings that change the result. So checks on
several test sets share a training.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

from vit_jax_repro import jobs, models
from vit_jax_repro.data import datasets, split_records
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files
from vit_jax_repro.recipes.recipe import Recipe
from vit_jax_repro.reproduction import (
  checks,
  compute_cost,
  evaluations,
)
from vit_jax_repro.reproduction.options import Options, apply_overrides
from vit_jax_repro.runs import card_settings, configuration, settings
from vit_jax_repro.runs.workdir import FREE


@dataclasses.dataclass(frozen=True)
class TunedModel:
  """The models that a check fine-tunes for one of its data sets."""

  model: str  # published name
  candidates: tuple[dict[str, Any], ...]  # settings of jobs.train
  # Splits for the choice; None only if there is one candidate.
  tune: Mapping[str, str] | None
  folder: str
  options: Options

  def remaining(self) -> dict[str, float]:
    """Returns {folder: operations} of the trainings that are not finished.

    The chosen candidate is not known before, so the longest one is assumed.
    """
    costs = [self._operations(config) for config in self.candidates]
    left = {}
    if len(costs) > 1:
      left |= {
        self._tune_folder(number): cost for number, cost in enumerate(costs)
      }
    left |= {
      self.seed_folder(seed): max(costs) for seed in range(self.options.seeds)
    }
    return {
      folder: cost
      for folder, cost in left.items()
      if not os.path.exists(os.path.join(folder, 'result.json'))
    }

  def run(
    self, meter: compute_cost.ComputeMeter
  ) -> tuple[list[str], dict[str, Any]]:
    """Trains the models, unless they are finished.

    Returns:
      The paths of the models, one for each seed; the settings of the chosen
      candidate.

    Raises:
      As jobs.train.
    """
    chosen = 0
    if len(self.candidates) > 1:
      chosen = self._chosen(meter)
    paths = []
    for seed in range(self.options.seeds):
      config = dict(self.candidates[chosen], seed=seed)
      where = self.seed_folder(seed)
      self._train(config, where, meter)
      paths.append(os.path.join(where, 'model.npz'))
    return paths, self.candidates[chosen]

  def seed_folder(self, seed: int) -> str:
    """Returns the workdir of the training with a seed."""
    return os.path.join(self.folder, f'seed_{seed}')

  def _tune_folder(self, number):
    rate = self.candidates[number]['base_lr']
    return os.path.join(self.folder, 'tune', f'{number}_lr_{rate}')

  def _chosen(self, meter):
    """Returns the number of the best candidate on the held-out part.

    No test set is read. One seed decides (ViT paper, B.1.1: a sweep, then one
    training).
    """
    assert self.tune is not None, '_candidates has checked it'
    accuracies = []
    for number, config in enumerate(self.candidates):
      tried = dict(config, pp=dict(config['pp'], **self.tune))
      result = self._train(tried, self._tune_folder(number), meter)
      accuracies.append(result['accuracy'])
    best = max(range(len(accuracies)), key=accuracies.__getitem__)
    files.write_json(
      os.path.join(self.folder, 'tune.json'),
      {
        'held_out': self.tune,
        'accuracies': accuracies,
        'base_lrs': [config['base_lr'] for config in self.candidates],
        'total_steps': [config['total_steps'] for config in self.candidates],
        'chosen': best,
      },
    )
    return best

  def _train(self, config, where, meter):
    """Trains if needed; returns result.json."""
    known = evaluations.read_json(os.path.join(where, 'result.json'))
    model = os.path.join(where, 'model.npz')
    is_finished = 'accuracy' in known and os.path.exists(model)
    if is_finished and _data_unchanged(config, where):
      return known
    begun = _last_step(where)
    result = jobs.train(config, where, show=self.options.show)
    part = max(result.step - begun, 0) / max(result.step, 1)
    if part:
      meter.add(part * self._operations(config), result.seconds)
    return dataclasses.asdict(result)

  def _operations(self, config):
    images = (config['total_steps'] or 0) * config['batch']
    return compute_cost.training(self.model, config['pp']['crop'], images)


def check_settings(check: checks.Check, options: Options) -> None:
  """Checks overrides and recipes, even if the pre-trained file is missing.

  Raises:
    InputError: a setting is unknown, or its value is wrong; or there are
      several learning rates without a held-out split to choose on.
  """
  for index in range(len(check.recipes)):
    _candidates(check, index, options)


def finetuned_model(
  check: checks.Check, index: int, options: Options
) -> TunedModel:
  """Returns the model that a check fine-tunes for `check.datasets[index]`.

  Raises:
    InputError: an override is wrong.
  """
  path, candidates = _candidates(check, index, options)
  first: Recipe = check.recipes[index][0]
  fixed = [_without_free(config) for config in candidates]
  key = f'{evaluations.stem(path)}-{evaluations.slug(candidates[0]["dataset"])}'
  key += '-' + evaluations.digest(
    [fixed, first.tune, evaluations.checksum(path)]
  )
  return TunedModel(
    check.model, candidates, first.tune, options.work('runs', key), options
  )


def _candidates(check, index, options):
  """Returns the path of the pre-trained file and the candidate settings."""
  (file,) = check.files
  path = options.weights(check.file_for(file, check.datasets[index]))
  candidates = tuple(
    _config(check, recipe, base_lr, path, options)
    for recipe in check.recipes[index]
    for base_lr in recipe.base_lrs
  )
  first: Recipe = check.recipes[index][0]
  if len(candidates) > 1 and first.tune is None:
    raise InputError(
      f'recipe {first.name!r} has several learning rates, but {check.row.id} '
      'has no held-out images to choose one; give another --recipe'
    )
  return path, candidates


def _config(check, recipe, base_lr, path, options):
  """Returns complete settings for jobs.train."""
  config = _complete_settings(recipe, check.model)
  folder, name = os.path.split(os.path.abspath(path))
  config.update(
    base_lr=base_lr,
    pretrained_dir=folder,
    model_or_filename=name.removesuffix('.npz'),
    tfds_data_dir=options.data_dir,
  )
  # As the published figures, also from a folder.
  config['pp'] = dict(config['pp'], orientation='none')
  apply_overrides(config, options.overrides)
  if 'seed' in options.overrides:
    raise InputError(
      'override seed: trainings have the seeds 0, 1, ...; leave it out and '
      'give their number as --seeds'
    )
  # A published row keeps its own values, also where a card differs.
  config = card_settings.settled(settings.to_plain(config))
  settings.from_config(config)
  return config


def _complete_settings(recipe, model):
  """Returns the settings of a recipe with every default filled in."""
  architecture = recipe.architecture(models.variant(model))
  config = configuration.create(
    dict(recipe.settings), dict(architecture, model_name=model)
  )
  return settings.to_plain(config.to_dict())


def _without_free(config):
  return {
    key: value
    for key, value in config.items()
    if key not in FREE and key != 'mesh'
  }


def _data_unchanged(config, where):
  """Returns whether the data still have the fingerprints in the manifest."""
  made = evaluations.read_json(os.path.join(where, 'manifest.json'))
  data = made.get('data', {})
  pp = config['pp']
  division = split_records.asked(
    pp['train'],
    pp['test'],
    pp.get('split_seed', 0),
    validation=pp.get('validation'),
    folders=[where],
  )
  open_split = functools.partial(
    datasets.open_split,
    config['dataset'],
    data_dir=config['tfds_data_dir'],
    division=division,
  )
  return all(
    data.get(f'{part}_fingerprint')
    == open_split(config['pp'][part]).fingerprint()
    for part in ('train', 'test')
  )


def _last_step(where):
  """Returns the step of the newest checkpoint in a workdir, or 0."""
  try:
    names = os.listdir(os.path.join(where, 'checkpoints'))
  except FileNotFoundError:
    return 0
  return max((int(name) for name in names if name.isdecimal()), default=0)
