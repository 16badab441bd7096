"""The runs of a study: each made once, whichever sides and seeds share it."""

import atexit
import copy
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vit_jax_repro import jobs
from vit_jax_repro.analysis import inspecting
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import files
from vit_jax_repro.output.messages import note
from vit_jax_repro.runs import workdir


class Trainings:
  """Runs in WORKDIR/runs, each in a folder named after its settings.

  A run that is finished is not repeated, one that was killed goes on.
  """

  def __init__(self, folder: str):
    self._folder = os.path.join(folder, 'runs')

  def train(
    self,
    stage: str,
    settings: Mapping[str, Any],
    before: str | None,
    about: str,
  ) -> str:
    """Trains, if that was not done before.

    Args:
      stage: what the folder's name begins with.
      settings: of jobs.train, plain.
      before: name of the run whose model it starts from; None: as settings
        say.
      about: what is told of a run that is begun.

    Returns:
      The run's name.

    Raises:
      As jobs.train.
    """
    settings = copy.deepcopy(dict(settings))
    name = f'{stage}-{_digest(settings, before)}'
    if self._read(name, 'result.json') is None:
      if before:
        settings.update(
          pretrained_dir=self.path(before), model_or_filename='model'
        )
      note(f'{about}: {name}')
      jobs.train(settings, self.path(name), show=False)
    return name

  def path(self, *parts: str) -> str:
    """Where a run, or a file of it, is."""
    return os.path.join(self._folder, *parts)

  def held_out(self, name: str) -> float:
    """Accuracy on the split that the run itself looked at."""
    return self._read(name, 'result.json')['accuracy']

  def accuracy(self, name: str, settings: Mapping[str, Any], split: str):
    """Accuracy on a split, computed once."""
    if split == settings['pp']['test']:
      return self.held_out(name)
    known = self._read(name, 'splits.json') or {}
    if split not in known:
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
    """See `position_similarity`."""
    return locality(self.path(name, 'model.npz'))

  def _read(self, name, file):
    path = self.path(name, file)
    if not os.path.exists(path):
      return None
    with open(path, encoding='utf-8') as opened:
      return json.load(opened)


def _digest(settings, before):
  """Ten hexadecimal digits of what makes a run the one that it is."""
  flat = workdir.flattened(settings)
  kept = {key: value for key, value in flat.items() if key not in workdir.FREE}
  text = json.dumps([kept, before], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:10]


@functools.cache
def keep_compiled() -> None:
  """Keeps compiled programs: runs that differ by seed have the same ones.

  They are kept until the process ends, or where JAX's compilation cache is
  set to be.
  """
  if jax.config.jax_compilation_cache_dir:
    return
  folder = tempfile.TemporaryDirectory(prefix='compiled_')
  atexit.register(folder.cleanup)
  jax.config.update('jax_compilation_cache_dir', folder.name)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


def locality(path: str | os.PathLike) -> float:
  """How far similarity falls with distance.

  The mean cosine similarity of the position embeddings of neighbours, in a
  row or column, less that of patches farther apart than half of the largest
  distance: about 0 for fresh ones, at most 2.

  Args:
    path: weights of a ViT with position embeddings that are added; those of
      the first layer where each has its own.

  Raises:
    InputError: it has none, or a single patch.
  """
  similarity = inspecting.positions(path).similarity
  if similarity.size == 1:
    raise InputError(f'{path} has a single patch, which has no neighbour')
  return similarity_falls(similarity)


def similarity_falls(similarity: np.ndarray) -> float:
  """`locality` of cosine similarities [h, w, h, w]."""
  height, width = similarity.shape[:2]
  cosines = similarity.reshape(height * width, -1)
  y, x = np.divmod(np.arange(height * width), width)
  first, second = np.triu_indices(height * width, k=1)
  found = cosines[first, second]
  distance = np.hypot(y[first] - y[second], x[first] - x[second])
  near, far = distance == 1, distance > distance.max() / 2
  return float(found[near].mean() - found[far].mean())
