"""Training examples without end, epoch after epoch, in a repeatable order.

The order within epoch e depends on (seed, e) only and what is random about an
example on (seed, e, its id) only, and the number of its copy if it comes more
than once. So a run may stop and go on at any example with the same ones,
whatever the batch size, the threads or the machine.
"""

import numpy as np

from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.errors import InputError

_ORDER, _EXAMPLE = range(2)  # the keys of a seed, by what is drawn from them


def examples(
  split,
  *,
  seed,
  shuffle_buffer,
  repeats=1,
  start=0,
  process_index=0,
  process_count=1,
):
  """One process's examples from number `start` on, still encoded.

  Each epoch holds every example of the process's part once. With `repeats`,
  it is as long and holds the first of its order that often, one copy after
  the other: repeated augmentation (arXiv:1902.05509) as in samplers.py of
  facebookresearch/deit, whose epoch has a third of the images three times.
  There, the copies go to different devices; here, they lie side by side in
  the batch. There, an epoch is cut off at a multiple of 256; here, it is not.

  Args:
    split: a datasets.Split.
    seed: an int that is not negative.
    shuffle_buffer: see `datasets.Split.shuffled`.
    repeats: how often an example comes in a row.
    start: how many examples are passed over; none of them is decoded, and
      only those of the epoch that it lies in are read.
    process_index, process_count: which part of the split is read.

  Returns:
    tf.data.Dataset of what `split.load` takes, with 'epoch' and, if there are
    repeats, 'copy', int64 scalars.

  Raises:
    InputError: a bad seed, buffer, number, start or process; fewer examples
      than processes.
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

  def one_epoch(epoch):
    tf.random.set_seed(1)  # of this function alone; shuffle() mixes it in
    key = fold_in(fold_in(seed_key, _ORDER), epoch)
    found = split.shuffled(key, shuffle_buffer, process_index, process_count)
    found = found.apply(tf.data.experimental.assert_cardinality(size))
    if repeats > 1:
      found = found.flat_map(plain(copies)).take(size)
    return found.map(lambda example: {**example, 'epoch': epoch})

  def copies(example):
    numbers = tf.data.Dataset.range(repeats)
    return numbers.map(lambda number: {**example, 'copy': number})

  first, offset = divmod(start, size)
  epochs = tf.data.Dataset.range(first, LARGEST_SEED)
  return epochs.flat_map(plain(one_epoch)).skip(offset)


def example_key(example, seed):
  """The key of what is random about one element of `examples`."""
  key = fold_in(fold_in(key_of(seed), _EXAMPLE), example['epoch'])
  key = fold_in_text(key, example['id'])
  return fold_in(key, example['copy']) if 'copy' in example else key


LARGEST_SEED = np.iinfo(np.int64).max
# Of common linear congruential generators (Knuth's MMIX, and a second
# multiplier by L'Ecuyer). Odd: multiplying modulo 2^64 then loses nothing.
_MULTIPLIERS = (6364136223846793005, 3935559000370003845)
_INCREMENT = 1442695040888963407


def key_of(seed):
  """The key that a seed, an int in 0..LARGEST_SEED, stands for.

  Raises:
    InputError: it is something else.
  """
  if not 0 <= seed <= LARGEST_SEED:
    raise InputError(f'{seed=} must lie in 0..{LARGEST_SEED}')
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
