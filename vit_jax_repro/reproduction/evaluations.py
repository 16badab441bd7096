"""Evaluations of weights files, stored in a folder of results.

RESULTS/work/evaluations/KEY.json holds one evaluation. KEY has a hash of the
contents of the weights file, the data set and the preprocessing. The file has
what else decides the accuracy: the data's contents, the card and the vocabulary
of the weights, and the code that evaluates. If one of them has changed, the
weights are evaluated again.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import time
from typing import Any

from vit_jax_repro import jobs
from vit_jax_repro.data import datasets, split_records
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, locations, run_files
from vit_jax_repro.parallel import installed
from vit_jax_repro.published import catalogue, fetching, prompt_lists
from vit_jax_repro.reproduction import checks, compute_cost
from vit_jax_repro.reproduction.options import Options

_ROOMS = ('data', 'inference', 'models', 'weights')
_BESIDE = ('.json', '.txt', '.model')  # the card, a vocabulary of texts


@dataclasses.dataclass(frozen=True)
class CheckEvaluation:
  """One evaluation that a check needs."""

  check: checks.Check
  dataset: str
  image_size: Any  # pixels, S or (height, width)
  preprocessing: str

  def path(self, weights: str, options: Options) -> str:
    """Returns the path of a file's stored evaluation, existing or not."""
    how = {
      'weights': checksum(weights),
      'dataset': self.dataset,
      'split': self.check.split,
      'data_dir': options.data_dir,
      'preprocessing': self.preprocessing,
      'image_size': self.image_size,
      'head': self.check.head,
    }
    if self.check.is_zero_shot:
      how['zero_shot'] = True
    name = f'{stem(weights)}-{slug(self.dataset)}-{digest(how)}.json'
    return options.work('evaluations', name)

  def run(
    self, weights: str, options: Options, meter: compute_cost.ComputeMeter
  ) -> dict[str, Any]:
    """Returns an evaluation as JSON; computes it unless it is stored.

    Returns:
      The fields of jobs.Evaluation, and those of `identity_of`.

    Raises:
      As jobs.evaluate.
    """
    check = self.check
    if check.is_zero_shot:
      _require_prompts(self.dataset, weights)
    path = self.path(weights, options)
    source = datasets.open_split(
      self.dataset,
      check.split,
      data_dir=options.data_dir,
      division=split_records.of_weights(weights),
    )
    identity = identity_of(source, weights, check.model)
    known = read_json(path)
    if (
      identity.items() <= known.items()
      and check.metric in known
      and 'num_examples' in known
    ):
      return known
    started = time.perf_counter()
    found = jobs.evaluate(
      weights,
      self.dataset,
      model=None if check.is_fine_tuned or check.is_zero_shot else check.model,
      split=check.split,
      batch_size=options.batch_size,
      preprocessing=self.preprocessing,
      image_size=self.image_size,
      data_dir=options.data_dir,
      head=check.head,
      zero_shot=check.is_zero_shot,
      orientation='none',  # as the published figures, also from a folder
    )
    meter.add(
      compute_cost.evaluation(
        check.model, self.image_size, source.num_examples
      ),
      time.perf_counter() - started,
    )
    result = dataclasses.asdict(found) | identity
    os.makedirs(os.path.dirname(path), exist_ok=True)
    files.write_json(path, result)
    return result


def identity_of(
  source: datasets.Split, weights: str, model: str
) -> dict[str, Any]:
  """Returns what decides an evaluation besides the inputs in its file's name.

  Other rooms of the package than `_ROOMS` may change without a new evaluation.
  """
  code = {
    path: content
    for path, content in installed.code().items()
    if path.split('/')[1] in _ROOMS
  }
  return {
    'data_fingerprint': source.fingerprint(),
    'data_sample': source.sample_hash(),
    'evaluated_model': model,
    'files_beside': [
      checksum(os.path.splitext(weights)[0] + ending) for ending in _BESIDE
    ],
    'code': digest(code),
  }


def _require_prompts(dataset, weights):
  """Raises if the folder of the weights lacks the lists of a data set."""
  if prompt_lists.of(dataset, os.path.dirname(weights)) is None:
    raise FileNotFoundError(
      f'the published class names and templates of {dataset} are not beside '
      f'{weights}; `fetch` gets them with the weights'
    )


def weights_path(name: str, options: Options) -> str:
  """Returns the path of a published file; fetches it if `options.fetch`.

  Raises:
    FileNotFoundError: the file does not exist and `options.fetch` is False.
  """
  path = options.weights(name)
  if not os.path.exists(path):
    entry, folder = catalogue.find(name), os.path.dirname(path)
    if not options.fetch:
      raise FileNotFoundError(
        f'no weights file {path}; get it (python -m vit_jax_repro.fetch '
        f'{entry.name} --dir={folder}), or give --fetch'
      )
    fetching.fetch(entry, folder)
  return path


def checksum(path: str) -> str | None:
  """Returns the SHA-256 of a file, None if it does not exist.

  It is computed once per process; this takes about a second per gigabyte.
  """
  try:
    about = os.stat(path)
  except FileNotFoundError:
    return None
  return _checksum(
    os.path.abspath(path), about.st_ino, about.st_size, about.st_mtime_ns
  )


@functools.lru_cache(maxsize=4096)
def _checksum(path, *_):
  return files.file_hash(path)


def read_json(path: str) -> dict[str, Any]:
  """Returns the JSON object in a file; {} if it is missing or damaged."""
  try:
    return run_files.read(path)
  except (FileNotFoundError, InputError):
    return {}


def digest(value: Any) -> str:
  """Returns ten hexadecimal digits of the hash of a value's JSON."""
  text = json.dumps(value, sort_keys=True, default=str)
  return hashlib.sha256(text.encode()).hexdigest()[:10]


def stem(path: str) -> str:
  """Returns a short readable name of a weights file."""
  return slug(os.path.basename(path).removesuffix('.npz'))[:40]


def slug(text: str) -> str:
  """Returns a data set's name, or a folder's last part, for a file name."""
  if locations.is_path(text):
    text = os.path.basename(os.path.normpath(text))
  return re.sub(r'[^\w.+-]+', '-', text)
