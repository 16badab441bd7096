"""JPEG files to measure with, and how fast a core of this machine reads."""

import math
import pathlib
import statistics
import tempfile
import time
from typing import Any

import numpy as np

from vit_jax_repro.data import augment, datasets, pipeline
from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.output import waiting

PHOTOGRAPH_SIZE = (375, 500)  # of most of ImageNet's images
JPEG_QUALITY = 90
# Standard deviation of the noise that enlarged photographs get, so that their
# files are as large as a camera's.
_GRAIN = 5
_BATCH, _WARM_UP, _BATCHES = 16, 8, 40  # of `core_rate`


def write_photographs(
  folder: str, number: int, size: tuple[int, int] = PHOTOGRAPH_SIZE
) -> dict[str, Any]:
  """Writes parts of scikit-learn's two photographs as FOLDER/train/NAME/*.jpg.

  Each part is cut out at a random position, at the full height or width and
  with the aspect ratio of `size`, and resized to that size with antialiasing.
  Every second pair is mirrored. Enlarged parts get grain.

  Args:
    folder: the folder to write to.
    number: number of files.
    size: (H, W) pixels of the files.

  Returns:
    A dict of number, size (H, W), quality and mean_bytes.
  """
  from sklearn import datasets as sklearn_datasets

  tf = tensorflow()
  bunch = sklearn_datasets.load_sample_images()
  names = [pathlib.Path(name).stem for name in bunch.filenames]
  generator = np.random.default_rng(0)
  bytes_of_files = []
  for i in range(number):
    which, mirrored = i % 2, i // 2 % 2
    image = _part(bunch.images[which], size, generator)
    enlarged = size[0] > len(image)
    if mirrored:
      image = image[:, ::-1]
    image = tf.image.resize(image, size, 'bicubic', antialias=True)
    if enlarged:
      image += generator.normal(scale=_GRAIN, size=image.shape)
    pixels = tf.saturate_cast(tf.round(image), tf.uint8)
    encoded = tf.io.encode_jpeg(pixels, quality=JPEG_QUALITY).numpy()
    bytes_of_files.append(len(encoded))
    path = pathlib.Path(folder, 'train', names[which], f'{i}.jpg')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded)
  return {
    'number': number,
    'size': size,
    'quality': JPEG_QUALITY,
    'mean_bytes': round(statistics.mean(bytes_of_files)),
  }


def _part(photograph, size, generator):
  """Cuts out a part with the aspect ratio of `size`, as large as possible."""
  height, width = size
  sides = photograph.shape[:2]
  scale = min(side / wanted for side, wanted in zip(sides, size, strict=True))
  part = max(1, round(height * scale)), max(1, round(width * scale))
  top, left = (
    generator.integers(side - length + 1)
    for side, length in zip(sides, part, strict=True)
  )
  return photograph[top : top + part[0], left : left + part[1]]


def core_rate(augmentation: augment.Augmentation) -> float:
  """Measures how many images a second a core of this machine reads.

  Args:
    augmentation: of the training images.

  Returns:
    Training images of files of PHOTOGRAPH_SIZE for each second of CPU time.

  Raises:
    InputError: TensorFlow is not installed.
  """
  with (
    waiting.doing('measuring how fast a core reads images'),
    tempfile.TemporaryDirectory() as folder,
  ):
    write_photographs(folder, 2 * _BATCH)
    batches = pipeline.training_batches(
      datasets.open_split(folder, 'train'),
      augmentation=augmentation,
      seed=0,
      start_step=0,
      batch_size=_BATCH,
      shuffle_buffer=1,
    )
    for _ in range(_WARM_UP):
      next(batches)
    started = time.process_time()
    for _ in range(_BATCHES):
      next(batches)
    return _BATCHES * _BATCH / (time.process_time() - started)


def need(images_per_sec: float, rate: float) -> str:
  """Returns a line on the cores that devices need to be fed.

  Args:
    images_per_sec: that the devices take.
    rate: of a core, see `core_rate`.
  """
  cores = math.ceil(images_per_sec / rate)
  height, width = PHOTOGRAPH_SIZE
  return (
    f"needs {images_per_sec:,.0f} images/s, this machine's core gives "
    f'{rate:,.0f} (JPEG files of {width}x{height} pixels): {cores:,} '
    f'core{"s" * (cores > 1)}'
  )
