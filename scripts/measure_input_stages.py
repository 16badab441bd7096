"""Prints the CPU time of each stage of reading a training image.

  python scripts/measure_input_stages.py [ROUNDS]

Each pipeline has one stage more than the one before it, and the difference of
their times is that of the stage: the median over the rounds. The first line is
the whole pipeline with transfer_dtype=uint8.
"""

import statistics
import sys
import tempfile
import time

from vit_jax_repro.data import augment, datasets, order, photographs, pipeline
from vit_jax_repro.data.preprocess import normalize, squash
from vit_jax_repro.data.tf_host import (
  keep_memory,
  parallel_batches,
  tensorflow,
)

SIZE, BATCH, BATCHES, FILES = 224, 64, 12, 512
STAGES = 'read', 'key, header, box', 'decode', 'resize', 'flip', 'normalise'
LAST, UINT8 = 'batch', 'whole, uint8'


def up_to(split, stage):
  """Returns batches of one value of each image after the first stages."""
  tf = tensorflow()

  def load(example):
    value = split.load(example)['image']
    if stage == 'read':
      return tf.strings.length(value)
    key = augment.box_key(order.example_key(example, 0))
    if stage == 'key, header, box':
      return augment.random_box(tf.io.extract_jpeg_shape(value), key)[0][0]
    value = augment.decode_box(value, key)
    if stage == 'decode':
      return tf.cast(value[0, 0, 0], tf.int32)
    value = squash(value, (SIZE, SIZE))
    if stage != 'resize':
      value = tf.image.stateless_random_flip_left_right(value, key)
    return (normalize(value) if stage == 'normalise' else value)[0, 0, 0]

  examples = order.examples(split, seed=0, shuffle_buffer=1)
  batches = parallel_batches(examples, load, BATCH).prefetch(2)
  return batches.as_numpy_iterator()


def cpu_times(pipelines, rounds):
  """Returns {name: ms of CPU time of an image in each round}, in turns.

  Args:
    pipelines: {name: endless iterator of batches}.
    rounds: number of measurements of each.
  """
  times = {name: [] for name in pipelines}
  for _ in range(rounds):
    for name, batches in pipelines.items():
      for _ in range(4):
        next(batches)
      time.sleep(0.5)  # the pipelines before this one become idle
      start = time.process_time()
      for _ in range(BATCHES):
        next(batches)
      time.sleep(0.5)
      seconds = time.process_time() - start
      times[name].append(1e3 * seconds / BATCHES / BATCH)
  return times


def main(rounds):
  keep_memory()
  with tempfile.TemporaryDirectory() as folder:
    photographs.write_photographs(folder, FILES)
    split = datasets.open_split(folder, 'train')
    found = {stage: up_to(split, stage) for stage in STAGES}
    for name, dtype in ((LAST, 'float32'), (UINT8, 'uint8')):
      found[name] = pipeline.training_batches(
        split,
        augmentation=augment.Augmentation(crop=SIZE, dtype=dtype),
        seed=0,
        start_step=0,
        batch_size=BATCH,
        shuffle_buffer=1,
      )
    times = cpu_times(found, rounds)
  print(f'| {UINT8} | | {statistics.median(times.pop(UINT8)):.3f} ms |')
  before = [0.0] * rounds
  for stage, values in times.items():
    cost = statistics.median(a - b for a, b in zip(values, before, strict=True))
    total = statistics.median(values)
    print(f'| {stage} | {cost:.3f} ms | {total:.3f} ms |')
    before = values


if __name__ == '__main__':
  main(int((sys.argv[1:] or ['5'])[0]))
