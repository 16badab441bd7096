"""Prints the CPU time of reading an image with decoders besides TensorFlow's.

  pip install simplejpeg opencv-python-headless
  python scripts/measure_decoders.py [ROUNDS]

Python reads a file, decodes the whole JPEG, and resizes a random box of it to
uint8. The first two rows are those of `benchmark data`. All are measured in
turns. The figures are medians over the rounds: milliseconds of an image, and
the time of the first row as a share of this one's.
"""

import concurrent.futures
import itertools
import math
import pathlib
import statistics
import sys
import tempfile

import cv2
import numpy as np
import simplejpeg
from measure_input_stages import BATCH, FILES, SIZE, cpu_times

from vit_jax_repro.benchmarks import input as benchmarked
from vit_jax_repro.data import photographs, tf_host
from vit_jax_repro.parallel import host_memory


def random_box(image, generator):
  """Returns a box of 5-100 % of the area with sides 3:4 to 4:3."""
  height, width = image.shape[:2]
  while True:
    area = generator.uniform(0.05, 1) * height * width
    aspect = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
    h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
    if 0 < h <= height and 0 < w <= width:
      top, left = (generator.integers(n + 1) for n in (height - h, width - w))
      return image[top : top + h, left : left + w]


def with_simplejpeg(content):
  return simplejpeg.decode_jpeg(content, fastdct=True, fastupsample=True)


def with_opencv(content):
  return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)


DECODERS = {'simplejpeg': with_simplejpeg, 'OpenCV': with_opencv}


def loader(decode):
  """Returns a function that reads a file into a random box of SIZE pixels."""
  generator = np.random.default_rng(0)

  def load(path):
    box = random_box(decode(pathlib.Path(path).read_bytes()), generator)
    return cv2.resize(box, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)

  return load


def in_threads(paths, load):
  """Yields batches that as many threads as cores read."""
  each = itertools.cycle(paths)
  with concurrent.futures.ThreadPoolExecutor(host_memory.cores()) as pool:
    while True:
      yield np.stack([*pool.map(load, itertools.islice(each, BATCH))])


def in_tf_data(paths, load):
  """Returns batches of a tf.data pipeline that calls Python for each image."""
  tf = tf_host.tensorflow()

  def call(path):
    return tf.numpy_function(lambda x: load(x.decode()), [path], tf.uint8)

  found = tf.data.Dataset.from_tensor_slices(paths).repeat()
  found = found.map(call, tf.data.AUTOTUNE).batch(BATCH).prefetch(2)
  return found.as_numpy_iterator()


def main(rounds):
  cv2.setNumThreads(1)
  with tempfile.TemporaryDirectory() as folder:
    photographs.write_photographs(folder, FILES)
    found = {
      name: benchmarked.batches(name, folder, SIZE, BATCH)
      for name in (benchmarked.DECODED, 'training')
    }
    paths = sorted(map(str, pathlib.Path(folder).rglob('*.jpg')))
    for name, decode in DECODERS.items():
      found[f'threads with {name}'] = in_threads(paths, loader(decode))
    name, decode = next(iter(DECODERS.items()))
    found[f'tf.data that calls {name}'] = in_tf_data(paths, loader(decode))
    times = cpu_times(found, rounds)
  limit = times[benchmarked.DECODED]
  for name, each in times.items():
    share = statistics.median(a / b for a, b in zip(limit, each, strict=True))
    print(f'| {name} | {statistics.median(each):.3f} ms | {share:.2f} |')


if __name__ == '__main__':
  main(int((sys.argv[1:] or ['5'])[0]))
