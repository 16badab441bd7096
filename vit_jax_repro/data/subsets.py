"""The same number of images of each class: `SPLIT@N`, or `SPLIT@N#SEED`.

'train@5' is five images of each class of `train`, 'train@5#1' five others:
the classes' images, in the split's order, are shuffled by the seed (0 where
none is given), and the first N taken. So 'train@1' is part of 'train@5'. BiT
(arXiv:1912.11370, section 3.4) and the few-shot protocol of the ViT paper
(section 4.1) train on such subsets; which images theirs were is not published.
"""

import re

import numpy as np

from vit_jax_repro.errors import InputError

_NOTATION = re.compile(r'(?P<split>[^@#]+)@(?P<number>\d+)(#(?P<seed>\d+))?')


def parse(split):
  """('train@5#1') -> ('train', 5, 1); any other split -> (split, None, 0).

  Raises:
    InputError: an `@` or `#` that is not written so, or no image a class.
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


def balanced(labels, num_classes, number, seed):
  """Which examples make a subset of `number` images of each class.

  Args:
    labels: [n] integers in 0..num_classes - 1.
    num_classes: of the data set.
    number: images of each class.
    seed: an int that is not negative.

  Returns:
    Sorted positions in `labels`, [num_classes * number] int64.

  Raises:
    InputError: a class has fewer images.
  """
  labels = np.asarray(labels)
  # RandomState's stream is frozen, that of newer generators is not.
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
