"""How learned position embeddings resemble each other (ViT paper, Figure 10).

The figure shows the cosine similarity of every patch's position embedding with
every other's. `locality` puts it into one number.
"""

import os

import numpy as np
import scipy.stats

from vit_jax_repro import weights
from vit_jax_repro.weights import names, positions, stacking


def locality(path: str | os.PathLike) -> float:
  """How surely similarity falls with distance, -1 to 1.

  Spearman's rank correlation, with its sign turned, between the cosine
  similarity of two patches' position embeddings and their distance on the
  grid, over all pairs: 1 if the nearer is always the more similar, about 0
  for fresh embeddings.

  Args:
    path: weights of a ViT with one learned table at the stem, of a square
      image.

  Raises:
    ValueError: it has no such table, or too few patches.
  """
  params = weights.load(path)
  flat = stacking.flatten(params)
  table = flat.get(names.POSITIONS)
  if table is None:
    raise ValueError(
      f'{path} has no learned position embeddings at the stem; train a model '
      "with position_embedding='learned'"
    )
  count = positions.slots(
    table.shape[1], positions.prefix(flat, names.POSITIONS)
  )
  cells = table[0, count or 0 :].astype(np.float64)
  side = round(len(cells) ** 0.5)
  if count is None or side < 2:
    raise ValueError(
      f'{path}: {len(cells)} position embeddings are no square grid of patches'
    )
  return similarity_falls(cells.reshape(side, side, -1))


def similarity_falls(table: np.ndarray) -> float:
  """`locality` of a table [h, w, D]."""
  height, width, _ = table.shape
  cells = table.reshape(height * width, -1)
  cells = cells / np.linalg.norm(cells, axis=1, keepdims=True)
  y, x = np.divmod(np.arange(height * width), width)
  first, second = np.triu_indices(height * width, k=1)
  similarity = np.einsum('nd,nd->n', cells[first], cells[second])
  distance = np.hypot(y[first] - y[second], x[first] - x[second])
  return -float(scipy.stats.spearmanr(similarity, distance).statistic)
