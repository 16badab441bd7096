"""Running the check of a row and writing its result.

A results folder holds ROW_ID.json for each measured row; `paper.results` reads
these files. Its folder `work/` holds intermediate results, named after their
inputs, so that rows share them and nothing is computed twice: see `evaluations`
and `tuned_models`.
"""

import os
import statistics
import time
from collections.abc import Mapping
from typing import Any

from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files
from vit_jax_repro.recipes.recipe import num_examples
from vit_jax_repro.reproduction import (
  checks,
  compute_cost,
  evaluations,
  previous_results,
  tuned_models,
)
from vit_jax_repro.reproduction.evaluations import CheckEvaluation
from vit_jax_repro.reproduction.options import Options
from vit_jax_repro.runs import manifest

_UNKNOWN = 50_000  # images of a data set whose size is not in the catalogue


def run(
  check: checks.Check,
  options: Options,
  meter: compute_cost.ComputeMeter | None = None,
) -> Mapping[str, Any]:
  """Measures a row and writes RESULTS/ROW_ID.json.

  Nothing is computed twice: an interrupted call is continued, and a call with
  more seeds than the existing result adds the missing ones.

  Args:
    check: the check to run.
    options: folders, data and overrides.
    meter: receives the computed operations and their time.

  Returns:
    The contents of that file: row, accuracies (a fraction for each file or
    seed, the mean if there are several data sets), num_examples, tasks (if
    there are several data sets: {name: accuracies and num_examples}), check,
    overrides, substituted, seeds, weights (SHA-256 of the published files),
    data (fingerprints of the evaluated data), seconds, versions and devices.

  Raises:
    InputError: the check needs a choice; a file or setting is wrong; or the
      existing result is of another check.
    OSError: a file or data set is missing, or the folder cannot be written.
  """
  if check.pick:
    raise InputError(
      f'{check.row.id} needs a choice first; give {"; ".join(check.pick)}'
    )
  files.check_folder(options.results)
  tuned_models.check_settings(check, options)
  known = previous_results.find(check, options)
  if known is not None:
    return known
  started = time.perf_counter()
  meter = compute_cost.ComputeMeter() if meter is None else meter
  parts = {
    dataset: _measure(check, index, options, meter)
    for index, dataset in enumerate(check.datasets)
  }
  accuracies = [
    statistics.mean(run)
    for run in zip(
      *(part['accuracies'] for part in parts.values()), strict=True
    )
  ]
  tasks = {
    name: {key: part[key] for key in ('accuracies', 'num_examples')}
    for name, part in parts.items()
  }
  result = {
    'row': check.row.id,
    'accuracies': accuracies,
    'accuracy': statistics.mean(accuracies),
    'num_examples': sum(part['num_examples'] for part in parts.values()),
    **({'tasks': tasks} if len(tasks) > 1 else {}),
    **previous_results.described(check, options),
    'data': {name: part['data'] for name, part in parts.items()},
    'seconds': time.perf_counter() - started,
    **manifest.software(),
    'devices': manifest.devices(),
  }
  os.makedirs(options.results, exist_ok=True)
  files.write_json(options.result(check.row), result)
  return result


def remaining(check: checks.Check, options: Options) -> dict[str, float]:
  """Returns the approximate operations that a check still needs.

  Returns:
    {path: operations} of the missing evaluations and trainings. Checks that
    share one have the same path for it.

  Raises:
    InputError: an override is wrong.
  """
  left = {}
  for index, dataset in enumerate(check.datasets):
    images = num_examples(dataset, check.split) or _UNKNOWN
    if check.is_fine_tuned:
      tuned = tuned_models.finetuned_model(check, index, options)
      left |= tuned.remaining()
      found = _evaluation(check, index, tuned.candidates[0])
      paths = [
        os.path.join(tuned.seed_folder(seed), 'model.npz')
        for seed in range(options.seeds)
      ]
    else:
      found = _evaluation(check, index)
      paths = [
        options.weights(check.file_for(file, dataset)) for file in check.files
      ]
    cost = compute_cost.evaluation(check.model, found.image_size, images)
    for file in paths:
      path = found.path(file, options)
      if not os.path.exists(file):  # its checksum identifies it
        path += f' of {file}'
      if not os.path.exists(path):
        left[path] = cost
  return left


def _measure(check, index, options, meter):
  """Returns {'accuracies': for each file or seed, 'num_examples', 'data'}."""
  dataset = check.datasets[index]
  paths = [
    evaluations.weights_path(check.file_for(file, dataset), options)
    for file in check.files
  ]
  evaluation = _evaluation(check, index)
  if check.is_fine_tuned:
    paths, config = tuned_models.finetuned_model(check, index, options).run(
      meter
    )
    evaluation = _evaluation(check, index, config)
  found = [evaluation.run(path, options, meter) for path in paths]
  return {
    'accuracies': [each[check.metric] for each in found],
    'num_examples': found[0]['num_examples'],
    'data': found[0]['data_fingerprint'],
  }


def _evaluation(check, index, config=None):
  """Returns the evaluation with the preprocessing of the check.

  If `config`, the settings of a training, is given, its preprocessing is used.
  """
  size, preprocessing = check.image_sizes[index], check.preprocessing
  if config is not None:
    size, preprocessing = config['pp']['crop'], config['preprocessing']
  return CheckEvaluation(check, check.datasets[index], size, preprocessing)
