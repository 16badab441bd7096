"""The training runs of a study, and the locality of position embeddings.

The sides and seeds of a study share runs with the same settings.
"""

import atexit
import copy
import functools
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from vit_jax_repro import jobs
from vit_jax_repro.analysis import inspecting
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files, run_files, waiting
from vit_jax_repro.output.messages import note
from vit_jax_repro.runs import progress, workdir


class Trainings:
  """Runs in WORKDIR/runs, each in a folder named after its settings.

  A finished run is not repeated, an interrupted one is continued.
  """

  def __init__(self, folder: str, total: int):
    """Uses the workdir `folder` of the study, for `total` calls of `train`."""
    self._folder = os.path.join(folder, 'runs')
    self._total, self._number = total, 0
    self._started = time.monotonic()

  def train(
    self,
    stage: str,
    settings: Mapping[str, Any],
    before: str | None,
    about: str,
  ) -> str:
    """Trains a model, unless the run is finished.

    Args:
      stage: prefix of the folder's name.
      settings: settings of jobs.train, a plain dict.
      before: name of the run whose model is the start; None: the start that
        `settings` has.
      about: what the lines on the progress call the run.

    Returns:
      The run's name.

    Raises:
      As jobs.train.
    """
    settings = copy.deepcopy(dict(settings))
    name = f'{stage}-{_digest(settings, before)}'
    self._number += 1
    run = f'run {self._number} of {self._total}'
    if self._read(name, 'result.json') is None:
      if before:
        settings.update(
          pretrained_dir=self.path(before), model_or_filename='model'
        )
      note(f'{run}: {about}')
      with waiting.doing(f'{run}: training'):
        jobs.train(settings, self.path(name), show=False)
      found, left = self._found(name, settings), self._left()
      note(f'{run}: {found}{left}')
    else:
      note(f'{run}: {about}: trained before, {self._found(name, settings)}')
    return name

  def _found(self, name, settings):
    accuracy = self.held_out(name)
    return f'accuracy {accuracy:.1%} on {settings["pp"]["test"]}'

  def _left(self):
    """Estimates the time left by the runs so far; '' after the last."""
    if self._number == self._total:
      return ''
    each = (time.monotonic() - self._started) / self._number
    seconds = each * (self._total - self._number)
    return f'; about {progress.duration(seconds)} left'

  def path(self, *parts: str) -> str:
    """Returns the path of a run or of one of its files."""
    return os.path.join(self._folder, *parts)

  def held_out(self, name: str) -> float:
    """Returns the accuracy of a finished run on its own test split."""
    return self._read(name, 'result.json', 'accuracy')['accuracy']

  def accuracy(
    self, name: str, settings: Mapping[str, Any], split: str
  ) -> float:
    """Returns the accuracy of a finished run on a split, computed once."""
    if split == settings['pp']['test']:
      return self.held_out(name)
    known = self._read(name, 'splits.json') or {}
    if not isinstance(known.get(split), float):
      measured = jobs.evaluate(
        self.path(name, 'model.npz'),
        settings['dataset'],
        split=split,
        batch_size=settings['batch_eval'],
        data_dir=settings['tfds_data_dir'],
      )
      known[split] = measured.accuracy
      files.write_json(self.path(name, 'splits.json'), known)
    return known[split]

  def locality(self, name: str) -> float:
    """Returns the `locality` of a run's position embeddings."""
    return locality(self.path(name, 'model.npz'))

  def _read(self, name, file, *needed):
    path = self.path(name, file)
    if not os.path.exists(path):
      return None
    return run_files.read(path, 'remove its folder to repeat it', needed=needed)


@functools.cache
def keep_compiled() -> None:
  """Turns on JAX's compilation cache, so that runs share their programs.

  Runs that differ only by their seed have the same programs. They are kept in
  JAX's cache folder, or if none is set, in a folder that is removed when the
  process ends.
  """
  # JAX defines this attribute at run time.
  if jax.config.jax_compilation_cache_dir:  # ty: ignore[missing-attribute]
    return
  folder = tempfile.TemporaryDirectory(prefix='compiled_')
  atexit.register(folder.cleanup)
  jax.config.update('jax_compilation_cache_dir', folder.name)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


def locality(path: str | os.PathLike) -> float:
  """Returns how far the similarity of position embeddings falls with distance.

  This is the mean cosine similarity of the position embeddings of neighbours in
  a row or column, minus that of patches farther apart than half of the largest
  distance. It is about 0 for untrained embeddings and at most 2.

  Args:
    path: weights file of a ViT with position embeddings that are added. If each
      layer has its own, those of the first are measured.

  Raises:
    InputError: the model has no such embeddings, or a single patch.
  """
  similarity = inspecting.positions(path).similarity
  if similarity.size == 1:
    raise InputError(
      f'{path} has a single patch, so there are no neighbours to compare'
    )
  return similarity_falls(similarity)


def similarity_falls(similarity: np.ndarray) -> float:
  """Returns the `locality` of cosine similarities [h, w, h, w]."""
  height, width = similarity.shape[:2]
  cosines = similarity.reshape(height * width, -1)
  y, x = np.divmod(np.arange(height * width), width)
  first, second = np.triu_indices(height * width, k=1)
  found = cosines[first, second]
  distance = np.hypot(y[first] - y[second], x[first] - x[second])
  near, far = distance == 1, distance > distance.max() / 2
  return float(found[near].mean() - found[far].mean())


def _digest(settings, before):
  """Returns ten hexadecimal digits of the settings that identify a run."""
  flat = traverse_util.flatten_dict(settings, sep='.')
  kept = {key: value for key, value in flat.items() if key not in workdir.FREE}
  text = json.dumps([kept, before], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:10]
