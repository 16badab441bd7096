"""How learned position embeddings resemble each other (ViT paper, Figure 10).

The figure shows the cosine similarity of every patch's position embedding with
every other's. `locality` puts it into one number.
"""

import os

import numpy as np

from vit_jax_repro import weights
from vit_jax_repro.analysis import embeddings
from vit_jax_repro.weights import names, positions, stacking


def locality(path: str | os.PathLike) -> float:
  """How far similarity falls with distance.

  The mean cosine similarity of the position embeddings of neighbours, in a
  row or column, less that of patches farther apart than half of the largest
  distance: about 0 for fresh ones, at most 2.

  Args:
    path: weights of a ViT with one learned table at the stem, of a square
      image.

  Raises:
    ValueError: it has no such table, or a single patch.
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
  cosines = embeddings.similarity(table).reshape(height * width, -1)
  y, x = np.divmod(np.arange(height * width), width)
  first, second = np.triu_indices(height * width, k=1)
  similarity = cosines[first, second]
  distance = np.hypot(y[first] - y[second], x[first] - x[second])
  near, far = distance == 1, distance > distance.max() / 2
  return float(similarity[near].mean() - similarity[far].mean())
