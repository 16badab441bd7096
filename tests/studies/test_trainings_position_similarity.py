"""Locality of position embeddings, which is Figure 10 as one number."""

import numpy as np
import pytest
import tiny_models

from vit_jax_repro import weights
from vit_jax_repro.analysis import embeddings
from vit_jax_repro.studies import trainings
from vit_jax_repro.weights import trees
from vit_jax_repro.weights.layouts import POSITIONS

pytestmark = pytest.mark.quick


def test_similarity_falls_is_the_similarity_of_near_less_far_patches():
  def falls(table):
    return trainings.similarity_falls(embeddings.similarity(table))

  angles = np.arange(5.0)[None] / 3
  line = 7 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
  far = np.cos([1.0, 1.0, 4 / 3])  # more than two apart
  assert falls(line) == pytest.approx(np.cos(1 / 3) - far.mean())
  one, other = np.eye(2)
  board = np.array([[one, other, one], [other, one, other], [one, other, one]])
  # Neighbours differ. Patches that are two or more apart are equal, except for
  # the eight pairs at a knight's move.
  assert falls(board) == pytest.approx(0 - (6 + 2) / (6 + 2 + 8))
  table = np.random.default_rng(0).normal(size=(12, 12, 64))
  assert abs(falls(table)) < 0.05


def saved(path, size=(16, 16), **fields):
  """Saves a tiny ViT; returns its position embeddings."""
  params = tiny_models.params_of(tiny_models.spec(3, **fields), size)
  weights.save(path, params)
  return trees.flatten(params).get(POSITIONS)


def test_locality_leaves_out_the_class_token(tmp_path):
  for classifier in ('token', 'gap'):
    table = saved(tmp_path / 'model.npz', classifier=classifier)
    similarity = embeddings.similarity(table[0, -16:].reshape(4, 4, 16))
    wanted = trainings.similarity_falls(similarity)
    got = trainings.locality(tmp_path / 'model.npz')
    assert got == pytest.approx(wanted)


def test_locality_rejects_a_single_patch(tmp_path):
  saved(tmp_path / 'one.npz', size=(4, 4))
  with pytest.raises(ValueError, match=r'one\.npz has a single pat') as error:
    trainings.locality(tmp_path / 'one.npz')
  assert '\n' not in str(error.value)
