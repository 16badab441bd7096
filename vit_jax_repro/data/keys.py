"""Keys: where every random choice of the training input comes from.

A key is a [2] int64 tensor, the seed of one of TensorFlow's stateless
operations, which scramble it. What is drawn from it depends on nothing else:
not on threads, on what was drawn before, or on TensorFlow's global seed.
"""

import numpy as np

from vit_jax_repro.data.tensorflow_cpu import tensorflow

LARGEST_SEED = np.iinfo(np.int64).max
# Of common linear congruential generators (Knuth's MMIX, and a second
# multiplier by L'Ecuyer). Odd: multiplying modulo 2^64 then loses nothing.
_MULTIPLIERS = (6364136223846793005, 3935559000370003845)
_INCREMENT = 1442695040888963407


def key_of(seed):
  """The key that a seed, an int in 0..LARGEST_SEED, stands for.

  Raises:
    ValueError: it is something else.
  """
  if not 0 <= seed <= LARGEST_SEED:
    raise ValueError(f'{seed=} must lie in 0..{LARGEST_SEED}')
  return tensorflow().constant([seed, 0], 'int64')


def fold_in(key, number):
  """The key number `number`, an int or an int64 scalar, made from `key`.

  Two multiplications, because this runs several times for every image: a
  cryptographic mixture here takes as long as a fifth of decoding it.
  """
  tf = tensorflow()
  if isinstance(number, int):  # two operations fewer where it is known
    number = (number + _INCREMENT + 2**63) % 2**64 - 2**63
  else:
    number = tf.cast(number, tf.int64) + _INCREMENT
  return key * tf.constant(_MULTIPLIERS, tf.int64) + number


def fold_in_text(key, text):
  """As `fold_in`, for a string scalar; its hash is the same everywhere."""
  number = tensorflow().strings.to_hash_bucket_fast(text, LARGEST_SEED)
  return fold_in(key, number)
