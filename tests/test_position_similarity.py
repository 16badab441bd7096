"""The one number that Figure 10 is put into."""

import numpy as np
import pytest
import tiny_models

from vit_jax_repro import weights
from vit_jax_repro.studies import position_similarity
from vit_jax_repro.weights import stacking
from vit_jax_repro.weights.names import POSITIONS

pytestmark = pytest.mark.quick


def on_a_circle(places):
  """[h, w, 2] angles by place: the nearer, the more similar."""
  return np.stack([np.cos(places), np.sin(places)], axis=-1)


def test_similarity_that_falls_rises_or_does_neither():
  falls = position_similarity.similarity_falls
  line = on_a_circle(0.1 * np.arange(8.0)[None])
  assert falls(line) > 0.98  # what is alike differs by rounding
  # Two by two: only the diagonals, the farthest pairs, are alike.
  board = on_a_circle(np.array([[0.0, 1.0], [1.0, 0.0]]))
  assert falls(board) < -0.8
  table = np.random.default_rng(0).normal(size=(12, 12, 64))
  assert abs(falls(table)) < 0.05
  y, x = np.mgrid[:4, :4] * 0.2
  rows_and_columns = np.concatenate([on_a_circle(y), on_a_circle(x)], axis=-1)
  assert 0.9 < falls(rows_and_columns) < 1
  np.testing.assert_allclose(falls(7 * table), falls(table))  # cosines


def saved(path, **fields):
  params = tiny_models.params_of(tiny_models.spec(3, **fields), (16, 16))
  weights.save(path, params)
  return stacking.flatten(params).get(POSITIONS)


def test_of_a_file_without_its_class_token(tmp_path):
  for classifier in ('token', 'gap'):
    table = saved(tmp_path / 'model.npz', classifier=classifier)
    wanted = position_similarity.similarity_falls(
      table[0, -16:].reshape(4, 4, 16)
    )
    got = position_similarity.locality(tmp_path / 'model.npz')
    assert got == pytest.approx(wanted)


def test_files_without_such_a_table_are_refused(tmp_path):
  saved(tmp_path / 'model.npz', position_embedding='learned2d')
  with pytest.raises(ValueError, match='has no learned position emb') as error:
    position_similarity.locality(tmp_path / 'model.npz')
  assert '\n' not in str(error.value)
  params = tiny_models.params_of(tiny_models.spec(3), (8, 12))
  weights.save(tmp_path / 'wide.npz', params)
  with pytest.raises(ValueError, match='are no square grid') as error:
    position_similarity.locality(tmp_path / 'wide.npz')
  assert '\n' not in str(error.value)
