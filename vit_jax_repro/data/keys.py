"""Keys: where every random choice of the training input comes from.

A key is a [2] int64 tensor. What is drawn from it depends on nothing else:
not on threads, on what was drawn before, or on TensorFlow's global seed.
"""

import numpy as np

from vit_jax_repro.data.tensorflow_cpu import tensorflow

LARGEST_SEED = np.iinfo(np.int64).max


def key_of(seed):
  """The key that a seed, an int in 0..LARGEST_SEED, stands for.

  Raises:
    ValueError: it is something else.
  """
  if not 0 <= seed <= LARGEST_SEED:
    raise ValueError(f'{seed=} must lie in 0..{LARGEST_SEED}')
  return tensorflow().constant([seed, 0], 'int64')


def fold_in(key, number):
  """The key number `number`, an int or an int64 scalar, made from `key`."""
  tf = tensorflow()
  return tf.random.experimental.stateless_fold_in(
    key, tf.convert_to_tensor(number, tf.int64), alg='philox'
  )


def fold_in_text(key, text):
  """As `fold_in`, for a string scalar; its hash is the same everywhere."""
  number = tensorflow().strings.to_hash_bucket_fast(text, LARGEST_SEED)
  return fold_in(key, number)
