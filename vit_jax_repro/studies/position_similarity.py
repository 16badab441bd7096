"""How learned position embeddings resemble each other (ViT paper, Figure 10).

The figure shows the cosine similarity of every patch's position embedding with
every other's. `locality` puts it into one number.
"""

import os

import numpy as np

from vit_jax_repro.runs import inspecting


def locality(path: str | os.PathLike) -> float:
  """How far similarity falls with distance.

  The mean cosine similarity of the position embeddings of neighbours, in a
  row or column, less that of patches farther apart than half of the largest
  distance: about 0 for fresh ones, at most 2.

  Args:
    path: weights of a ViT with position embeddings that are added; those of
      the first layer where each has its own.

  Raises:
    ValueError: it has none, or a single patch.
  """
  similarity = inspecting.positions(path).similarity
  if similarity.size == 1:
    raise ValueError(f'{path} has a single patch, which has no neighbour')
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
