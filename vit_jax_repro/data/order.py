"""The order of training examples, and the random keys of examples.

Epochs of examples follow each other without end in a repeatable order. The
order within epoch e depends on (seed, e) only. The random key of an example
depends on (seed, e, its id) only, and on the number of its copy if there are
several. A run can therefore stop at any example and continue with the same
examples, independent of the batch size, the threads and the machine.
"""

from typing import Any

import numpy as np

from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.errors import InputError

LARGEST_SEED = np.iinfo(np.int64).max
_ORDER, _EXAMPLE = range(2)  # the random keys derived from a seed
# From common linear congruential generators (Knuth's MMIX, and a second
# multiplier by L'Ecuyer). They are odd, so multiplication modulo 2^64 is
# invertible.
_MULTIPLIERS = (6364136223846793005, 3935559000370003845)
_INCREMENT = 1442695040888963407


def examples(
  split: Any,
  *,
  seed: int,
  shuffle_buffer: int,
  repeats: int = 1,
  start: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> Any:
  """Returns one process's encoded examples from number `start` on.

  An epoch has each example of the process's part once. With `repeats`, an epoch
  has the same length and contains the first examples of its order `repeats`
  times each, in consecutive copies. This is repeated augmentation
  (arXiv:1902.05509) as in samplers.py of facebookresearch/deit, whose epoch has
  a third of the images three times. There, the copies go to different devices;
  here, they are adjacent in the batch. There, an epoch is truncated to a
  multiple of 256; here, it is not.

  Args:
    split: a datasets.Split.
    seed: an int that is not negative.
    shuffle_buffer: see `datasets.Split.shuffled`.
    repeats: number of consecutive copies of an example.
    start: number of examples to skip. They are not read, except those in the
      same epoch of files that are not on this machine.
    process_index, process_count: which part of the split is read.

  Returns:
    tf.data.Dataset of elements for `split.load`, with int64 scalars 'epoch'
    and, if `repeats` is above 1, 'copy'.

  Raises:
    InputError: the seed, buffer, repeats, start or process is invalid, or there
      are fewer examples than processes.
  """
  tf = tensorflow()
  plain = tf.autograph.experimental.do_not_convert
  seed_key = key_of(seed)
  if start < 0:
    raise InputError(f'{start=} must not be negative')
  if shuffle_buffer < 1:
    raise InputError(f'{shuffle_buffer=} must be at least 1')
  if repeats < 1:
    raise InputError(f'{repeats=} must be at least 1')
  size = split.part_size(process_index, process_count)
  if not size:
    raise InputError(
      f'{split.name!r} {split.split!r} has {split.num_examples} examples, too '
      f'few for {process_count} processes'
    )

  part = process_index, process_count

  def one_epoch(epoch):
    found = split.shuffled(epoch_key(epoch), shuffle_buffer, *part)
    return finished(found, epoch)

  def epoch_key(epoch):
    return fold_in(fold_in(seed_key, _ORDER), epoch)

  def finished(examples, epoch, skipped=0):
    """Adds copies and the epoch to its examples, without the first ones."""
    left = size - skipped // repeats
    examples = examples.apply(tf.data.experimental.assert_cardinality(left))
    if repeats > 1:
      examples = examples.flat_map(plain(copies)).skip(skipped % repeats)
      examples = examples.take(size - skipped)
    epoch = tf.cast(epoch, tf.int64)
    return examples.map(lambda example: {**example, 'epoch': epoch})

  def copies(example):
    numbers = tf.data.Dataset.range(repeats)
    return numbers.map(lambda number: {**example, 'copy': number})

  first, offset = divmod(start, size)
  later = tf.data.Dataset.range(first + bool(offset), LARGEST_SEED)
  later = later.flat_map(plain(one_epoch))
  if not offset:
    return later
  rest = split.shuffled(
    epoch_key(first), shuffle_buffer, *part, offset // repeats
  )
  return finished(rest, first, offset).concatenate(later)


def example_key(example: Any, seed: int) -> Any:
  """Returns the random key, [2] int64, of one element of `examples`."""
  key = fold_in(fold_in(key_of(seed), _EXAMPLE), example['epoch'])
  key = fold_in_text(key, example['id'])
  return fold_in(key, example['copy']) if 'copy' in example else key


def key_of(seed: int) -> Any:
  """Returns the key, [2] int64, of a seed in 0..LARGEST_SEED.

  Raises:
    InputError: the seed is out of range.
  """
  if not 0 <= seed <= LARGEST_SEED:
    raise InputError(f'{seed=} must lie in 0..{LARGEST_SEED}')
  return tensorflow().constant([seed, 0], 'int64')


def fold_in(key: Any, number: Any) -> Any:
  """Derives a new key from a key and a number.

  This takes only two multiplications because it runs several times for each
  image. A cryptographic hash would take a fifth of the time for decoding it.

  Args:
    key: [2] int64 tensor.
    number: an int or an int64 scalar tensor.

  Returns:
    [2] int64 tensor.
  """
  tf = tensorflow()
  if isinstance(number, int):  # saves two TensorFlow operations
    number = (number + _INCREMENT + 2**63) % 2**64 - 2**63
  else:
    number = tf.cast(number, tf.int64) + _INCREMENT
  return key * tf.constant(_MULTIPLIERS, tf.int64) + number


def fold_in_text(key: Any, text: Any) -> Any:
  """Derives a new key as `fold_in` does, from a string scalar.

  The string's hash is the same on all machines.
  """
  number = tensorflow().strings.to_hash_bucket_fast(text, LARGEST_SEED)
  return fold_in(key, number)
