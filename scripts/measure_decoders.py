"""Prints the CPU time of reading an image with decoders besides TensorFlow's.

  apt install libjpeg62-turbo-dev
  pip install simplejpeg opencv-python-headless
  python scripts/measure_decoders.py [ROUNDS]

Each pipeline reads a file, decodes it, and resizes a random box to uint8.
libjpeg-turbo decodes the box alone, by a C program that `cc` compiles here. The
others decode the whole image. The first two rows are those of `benchmark data`.
All are measured in turns. The figures are medians over the rounds: milliseconds
of an image, and the time of the first row as a share of this one's.
"""

import concurrent.futures
import ctypes
import itertools
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile

import cv2
import numpy as np
import simplejpeg
from measure_input_stages import BATCH, FILES, SIZE, cpu_times

from vit_jax_repro.benchmarks import input as benchmarked
from vit_jax_repro.data import photographs, tf_host
from vit_jax_repro.parallel import host_memory

HEIGHT, WIDTH = photographs.PHOTOGRAPH_SIZE
SOURCE = pathlib.Path(__file__).with_name('decode_box.c')


def random_box(generator):
  """Returns top, left, height and width of 5-100 % of the area, 3:4 to 4:3."""
  while True:
    area = generator.uniform(0.05, 1) * HEIGHT * WIDTH
    aspect = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
    h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
    if 0 < h <= HEIGHT and 0 < w <= WIDTH:
      top, left = generator.integers([HEIGHT - h + 1, WIDTH - w + 1])
      return int(top), int(left), h, w


def box_decoder(folder):
  """Compiles decode_box.c in a folder; returns a decoder of a box.

  ctypes lets other threads of Python run while the C function does.
  """
  library = pathlib.Path(folder, 'decode_box.so')
  command = 'cc', '-O2', '-shared', '-fPIC', SOURCE, '-o', library, '-ljpeg'
  subprocess.run(command, check=True)
  function = ctypes.CDLL(str(library)).decode_box
  number, text = ctypes.c_uint, ctypes.c_char_p
  function.argtypes = text, ctypes.c_ulong, *4 * [number], ctypes.c_void_p

  def decode(content, box):
    pixels = np.empty((*box[2:], 3), np.uint8)
    function(content, len(content), *box, pixels.ctypes.data)
    return pixels

  return decode


def whole(decode):
  """Returns a decoder of a box that decodes the whole image."""

  def decode_part(content, box):
    top, left, h, w = box
    return decode(content)[top : top + h, left : left + w]

  return decode_part


@whole
def with_simplejpeg(content):
  return simplejpeg.decode_jpeg(content, fastdct=True, fastupsample=True)


@whole
def with_opencv(content):
  return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)


def loader(decode):
  """Returns a function that reads a file into a random box of SIZE pixels."""
  generator = np.random.default_rng(0)

  def load(path):
    pixels = decode(pathlib.Path(path).read_bytes(), random_box(generator))
    return cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)

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
  temporary = tempfile.TemporaryDirectory
  with temporary() as folder, temporary() as scratch:
    photographs.write_photographs(folder, FILES)
    found = {
      name: benchmarked.batches(name, folder, SIZE, BATCH)
      for name in (benchmarked.DECODED, 'training')
    }
    paths = sorted(map(str, pathlib.Path(folder).rglob('*.jpg')))
    decoders = {
      'libjpeg-turbo, the box alone': box_decoder(scratch),
      'simplejpeg': with_simplejpeg,
      'OpenCV': with_opencv,
    }
    for name, decode in decoders.items():
      found[f'threads with {name}'] = in_threads(paths, loader(decode))
    found['tf.data that calls simplejpeg'] = in_tf_data(
      paths, loader(with_simplejpeg)
    )
    times = cpu_times(found, rounds)
  limit = times[benchmarked.DECODED]
  for name, each in times.items():
    share = statistics.median(a / b for a, b in zip(limit, each, strict=True))
    print(f'| {name} | {statistics.median(each):.3f} ms | {share:.2f} |')


if __name__ == '__main__':
  main(int((sys.argv[1:] or ['5'])[0]))
