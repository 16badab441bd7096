"""Balanced subsets with N images of each class: `SPLIT@N` or `SPLIT@N#SEED`.

'train@5' has five images of each class of `train`, and 'train@5#1' five others.
The seed (by default 0) shuffles the images, which start in the split's order,
and the first N of each class are taken. Therefore 'train@1' is part of
'train@5'. BiT (arXiv:1912.11370, section 3.4) and the few-shot protocol of the
ViT paper (section 4.1) train on such subsets. Which images they used is not
published.
"""

import re
from collections.abc import Sequence

import numpy as np

from vit_jax_repro.errors import InputError

_NOTATION = re.compile(r'(?P<split>[^@#]+)@(?P<number>\d+)(#(?P<seed>\d+))?')


def parse(split: str) -> tuple[str, int | None, int]:
  """Parses 'train@5#1' to ('train', 5, 1); other splits to (split, None, 0).

  Raises:
    InputError: the split has an `@` or `#` but not this notation, or N is 0.
  """
  if not {'@', '#'} & set(split):
    return split, None, 0
  match = _NOTATION.fullmatch(split)
  if match is None or not int(match['number']):
    raise InputError(
      f'split {split!r} is not SPLIT@N or SPLIT@N#SEED, N images of each class '
      'and at least 1, such as train@5 or train[:98%]@5#1'
    )
  return match['split'], int(match['number']), int(match['seed'] or 0)


def balanced(
  labels: np.ndarray | Sequence[int], num_classes: int, number: int, seed: int
) -> np.ndarray:
  """Chooses `number` images of each class.

  Args:
    labels: [n] integers in 0..num_classes - 1.
    num_classes: of the data set.
    number: images of each class.
    seed: an int that is not negative.

  Returns:
    Sorted positions in `labels`, [num_classes * number] int64.

  Raises:
    InputError: a class has fewer than `number` images.
  """
  labels = np.asarray(labels)
  # NumPy never changes RandomState's stream, unlike newer generators'.
  order = np.random.RandomState(seed).permutation(len(labels))
  chosen = []
  for label in range(num_classes):
    of_class = order[labels[order] == label][:number]
    if len(of_class) < number:
      raise InputError(
        f'class {label} has {len(of_class)} images, fewer than the {number} of '
        'each class that are asked for; ask for fewer'
      )
    chosen.append(of_class)
  return np.sort(np.concatenate(chosen)).astype(np.int64)
