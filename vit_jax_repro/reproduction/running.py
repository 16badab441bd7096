"""Running the check of a row, and those of a table within a budget.

A results folder holds ROW_ID.json for each row that was measured
(`paper.results` reads them), and below `work/` what was computed for them,
named after what it is of, so that rows share it and nothing is done twice:

  work/evaluations/KEY.json    an evaluation of one file on one split
  work/runs/KEY/...            workdirs of fine-tuning: tune/*, seed_*
"""

import dataclasses
import hashlib
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from vit_jax_repro import jobs, models
from vit_jax_repro.paper.table import Row
from vit_jax_repro.published import catalogue
from vit_jax_repro.reproduction import checks
from vit_jax_repro.runs import configuration, fetching, json_files, settings
from vit_jax_repro.runs.restoring import note
from vit_jax_repro.runs.workdir import FREE
from vit_jax_repro.training import manifest

# Outcomes of `run_many` that are no failures.
MEASURED, THERE = 'measured', 'there'
NOT_CHECKABLE, OVER_BUDGET = 'cannot be checked', 'over budget'
FINE = (MEASURED, THERE, NOT_CHECKABLE)


@dataclasses.dataclass(frozen=True)
class Options:
  """What a person decides about running checks."""

  results: str  # folder
  weights_dir: str = 'weights'  # holds published files, as `fetch` lays them
  fetch: bool = False  # whether files that are missing are fetched
  data_dir: str | None = None  # where TFDS sets lie
  batch_size: int = 64  # images at a time, of evaluation
  seeds: int = 1  # runs of fine-tuning
  # Of the recipe's settings, other values, 'pp.crop' and the like; the result
  # says so.
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  show: bool = True  # progress

  def __post_init__(self):
    for name in ('seeds', 'batch_size'):
      if getattr(self, name) < 1:
        raise ValueError(f'{name}={getattr(self, name)} must be at least 1')


def run(check: checks.Check, options: Options) -> dict[str, Any]:
  """Measures a row, and writes RESULTS/ROW_ID.json.

  What is already computed is not computed again; a call that was interrupted
  goes on where it was.

  Returns:
    What stands in that file: row, accuracies (a fraction for each file or
    seed, of several data sets the mean over them), num_examples, tasks (of
    several data sets: {name: accuracies and num_examples}), check, overrides,
    seconds, and the versions and devices.

  Raises:
    ValueError: something is left to pick; a file or setting is wrong.
    OSError: a file or data set is not there.
  """
  if check.pick:
    raise ValueError(
      f'{check.row.id} needs a choice first; give {"; ".join(check.pick)}'
    )
  started = time.perf_counter()
  measured = {
    dataset: _measure(check, index, options)
    for index, dataset in enumerate(check.datasets)
  }
  accuracies = [
    statistics.mean(run) for run in zip(*(m['accuracies'] for m in
                                          measured.values()), strict=True)
  ]  # fmt: skip
  result = {
    'row': check.row.id,
    'accuracies': accuracies,
    'accuracy': statistics.mean(accuracies),
    'num_examples': sum(m['num_examples'] for m in measured.values()),
    **({'tasks': measured} if len(measured) > 1 else {}),
    'check': describe(check),
    'overrides': dict(options.overrides),
    'seconds': time.perf_counter() - started,
    **manifest.software(),
    'devices': manifest.devices(),
  }
  os.makedirs(options.results, exist_ok=True)
  json_files.write(result_path(options.results, check.row), result)
  return result


def result_path(results: str, row: Row) -> str:
  """Where the result of a row is written."""
  return os.path.join(results, f'{row.id}.json')


def describe(check: checks.Check) -> dict[str, Any]:
  """A check as JSON."""
  described = dataclasses.asdict(
    dataclasses.replace(check, row=None, recipes=())
  )
  del described['row']
  described['recipes'] = [
    [dict(dataclasses.asdict(recipe)) for recipe in tried]
    for tried in check.recipes
  ]
  return settings.to_plain(described)


def run_many(
  rows,
  options: Options,
  *,
  resolve: Callable[[Row], checks.Check] = checks.resolve,
  cost: Callable[[checks.Check], float],
  budget_hours: float | None = None,
) -> dict[str, str]:
  """Runs the checks of rows, the cheapest first, until the budget is used up.

  A row that has a result is left alone. A check begins if what it costs, at
  the speed of those before it, fits into what is left; the first one always
  does. A row that fails does not stop the others.

  Args:
    rows: of paper.table.
    options: for all of them.
    resolve: row -> Check.
    cost: Check -> floating-point operations, about.
    budget_hours: None: no limit.

  Returns:
    {row id: one of the outcomes above, or one line on what went wrong or has
    to be picked}.
  """
  outcomes, ready = {}, []
  for row in rows:
    if os.path.exists(result_path(options.results, row)):
      outcomes[row.id] = THERE
    elif row.status == 'not-checkable':
      outcomes[row.id] = NOT_CHECKABLE
    else:
      check = resolve(row)
      if check.pick:
        outcomes[row.id] = '; '.join(check.pick)
      else:
        ready.append((cost(check), row.id, check))
  started, done = time.perf_counter(), 0.0
  for operations, row_id, check in sorted(ready, key=lambda each: each[:2]):
    spent = time.perf_counter() - started
    expected = operations * spent / done if done else 0.0
    if budget_hours is not None and spent + expected > budget_hours * 3600:
      outcomes[row_id] = OVER_BUDGET
      continue
    note(f'checking {row_id}')
    try:
      run(check, options)
    except (ValueError, OSError) as error:
      outcomes[row_id] = ' '.join(str(error).split())
      note(f'{row_id}: {outcomes[row_id]}')
      continue
    done += operations
    outcomes[row_id] = MEASURED
  return outcomes


def weights_path(name: str, options: Options) -> str:
  """Where a published file lies: DIR/FOLDER/NAME.npz, as its name has it.

  Raises:
    FileNotFoundError: it is not there and is not to be fetched.
  """
  entry = catalogue.find(name)
  path = os.path.join(options.weights_dir, f'{entry.name}.npz')
  if not os.path.exists(path):
    folder = os.path.dirname(path)
    if not options.fetch:
      raise FileNotFoundError(
        f'no weights file {path}; get it (python -m vit_jax_repro.fetch '
        f'{entry.name} --dir={folder}), or say --fetch'
      )
    fetching.fetch(entry, folder)
  return path


def _measure(check, index, options):
  """{'accuracies': one for each file or seed, 'num_examples'} of a data set."""
  dataset = check.datasets[index]
  paths = [
    weights_path(check.file_for(file, dataset), options) for file in check.files
  ]
  image_size, preprocessing = check.image_sizes[index], check.preprocessing
  if check.is_fine_tuned:
    (path,) = paths
    paths, config = _fine_tuned(check, index, path, options)
    image_size, preprocessing = config['pp']['crop'], config['preprocessing']
  found = [
    _evaluated(check, dataset, path, image_size, preprocessing, options)
    for path in paths
  ]
  return {
    'accuracies': [each[check.metric] for each in found],
    'num_examples': found[0]['num_examples'],
  }


def _evaluated(check, dataset, path, image_size, preprocessing, options):
  """An evaluation as JSON, from the folder if it is there."""
  how = {
    'weights': os.path.abspath(path),
    'size': os.path.getsize(path),
    'dataset': dataset,
    'split': check.split,
    'data_dir': options.data_dir,
    'preprocessing': preprocessing,
    'image_size': image_size,
    'head': check.head,
  }
  name = f'{_stem(path)}-{_slug(dataset)}-{_digest(how)}.json'
  cached = os.path.join(options.results, 'work', 'evaluations', name)
  if os.path.exists(cached):
    with open(cached, encoding='utf-8') as file:
      return json.load(file)
  evaluation = jobs.evaluate(
    path,
    dataset,
    model=check.model if check.kind == checks.EVALUATE else None,
    split=check.split,
    batch_size=options.batch_size,
    preprocessing=preprocessing,
    image_size=image_size,
    data_dir=options.data_dir,
    head=check.head,
  )
  result = dataclasses.asdict(evaluation)
  os.makedirs(os.path.dirname(cached), exist_ok=True)
  json_files.write(cached, result)
  return result


def _fine_tuned(check, index, path, options):
  """Paths of fine-tuned models, one for each seed, and their settings."""
  candidates = [
    _config(check, recipe, base_lr, path, options)
    for recipe in check.recipes[index]
    for base_lr in recipe.base_lrs
  ]
  tune = check.recipes[index][0].tune
  key = f'{_stem(path)}-{_slug(check.datasets[index])}-'
  key += _digest([_without_free(config) for config in candidates] + [tune])
  folder = os.path.join(options.results, 'work', 'runs', key)
  chosen = 0
  if len(candidates) > 1:
    chosen = _chosen(candidates, tune, folder, options)
  trained = []
  for seed in range(options.seeds):
    config = dict(candidates[chosen], seed=seed)
    where = os.path.join(folder, f'seed_{seed}')
    trained.append(jobs.train(config, where, show=options.show).model)
  return trained, candidates[chosen]


def _chosen(candidates, tune, folder, options):
  """The candidate that is best on the held-out part; the test set is not seen.

  Its first seed decides (ViT paper, B.1.1: a sweep, then one training).
  """
  accuracies = []
  for number, config in enumerate(candidates):
    pp = dict(config['pp'], **tune)
    where = os.path.join(folder, 'tune', f'{number}_lr_{config["base_lr"]}')
    result = jobs.train(dict(config, pp=pp), where, show=options.show)
    accuracies.append(result.accuracy)
  best = max(range(len(candidates)), key=accuracies.__getitem__)
  json_files.write(
    os.path.join(folder, 'tune.json'),
    {
      'held_out': tune,
      'accuracies': accuracies,
      'base_lrs': [config['base_lr'] for config in candidates],
      'total_steps': [config['total_steps'] for config in candidates],
      'chosen': best,
    },
  )
  return best


def _config(check, recipe, base_lr, path, options):
  """Settings for jobs.train, every key spelt out."""
  architecture = recipe.architecture(models.variant(check.model))
  config = configuration.create(
    dict(recipe.settings, base_lr=base_lr),
    dict(architecture, model_name=check.model),
  )
  config = settings.to_plain(config.to_dict())
  folder, name = os.path.split(os.path.abspath(path))
  config.update(
    pretrained_dir=folder,
    model_or_filename=name.removesuffix('.npz'),
    tfds_data_dir=options.data_dir,
  )
  for key, value in options.overrides.items():
    _set(config, key, value)
  return config


def _set(config, key, value):
  *sections, last = key.split('.')
  section = config
  for name in sections:
    section = section.get(name, {})
  if last not in section:
    raise ValueError(
      f'unknown setting {key!r}; settings are {sorted(config)} and, of pp, '
      f'{sorted(config["pp"])}'
    )
  section[last] = value


def _without_free(config):
  return {
    key: value
    for key, value in config.items()
    if key not in FREE and key != 'mesh'
  }


def _digest(value):
  text = json.dumps(value, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:10]


def _stem(path):
  """The start of a file's name, for people."""
  return _slug(os.path.basename(path).removesuffix('.npz'))[:40]


def _slug(text):
  return re.sub(r'[^\w.+-]+', '-', os.path.basename(os.path.normpath(text))
                if text.startswith(('/', '.')) else text)  # fmt: skip
