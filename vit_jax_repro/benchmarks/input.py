"""Speed of the input pipelines, compared with plain decoding and tutorials.

Each contender runs in a process of its own and reads the same files. They are
measured in turns, so that other load on the machine affects all of them
equally.
"""

import contextlib
import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from vit_jax_repro.benchmarks import workers
from vit_jax_repro.data import augment, datasets, decoding, order, pipeline
from vit_jax_repro.data.photographs import PHOTOGRAPH_SIZE, write_photographs
from vit_jax_repro.data.preprocess import (
  check_image_size,
  normalize,
  pick_preprocessing,
)
from vit_jax_repro.data.tf_host import parallel_map, tensorflow
from vit_jax_repro.output import waiting

DECODED, HANDED = 'boxes decoded', 'boxes handed over'
USUAL = 'decode, crop, resize'
# Description of each contender, in the order of the table.
CONTENDERS = {
  DECODED: 'the JPEG decoder on the boxes that training cuts out; their pixels '
  'are discarded',
  HANDED: 'the same boxes passed to Python, one by one as they differ in size',
  USUAL: 'whole JPEGs decoded, box cut out, resized, flipped, normalised',
  'training': 'the default pipeline of `main`',
  'training, uint8': '--config.transfer_dtype=uint8',
  'training, exact': '--config.pp.exact_decode=True',
  'evaluation': 'whole JPEGs squashed, the default of `evaluate`',
}
_AHEAD = 2  # prefetched batches, for all contenders
_WARM_UP = 8  # untimed batches at the start, including the prefetched ones
_PAUSE = 0.5  # seconds for the previous contender to become idle


@dataclasses.dataclass(frozen=True)
class InputSpeed:
  """The speed of one contender.

  The figures without comments are the images per second of a single round.
  """

  name: str
  does: str  # a description
  images_per_sec: float  # median over the rounds
  cpu_ms: float  # CPU time of an image on all cores, median over the rounds
  slowest: float
  fastest: float
  # Ratios to the speeds of other contenders, each the median over the rounds.
  over_decoded: float
  over_handed: float
  over_usual: float


def measure(
  *,
  image_size: int | tuple[int, int],
  batch_size: int,
  num_images: int,
  rounds: int,
  num_batches: int,
  photograph_size: tuple[int, int] = PHOTOGRAPH_SIZE,
  show: Callable[[str], None],
) -> tuple[list[InputSpeed], dict[str, Any]]:
  """Measures the speed of all contenders.

  Args:
    image_size: S or (H, W) pixels of the result.
    batch_size: images of a batch.
    num_images: number of JPEG files to write, in a temporary folder.
    rounds: number of times that each contender is measured.
    num_batches: number of batches timed in each round.
    photograph_size: (H, W) pixels of the files.
    show: called with a line of text before each round.

  Returns:
    A list of InputSpeed, and a dict that describes the files; see
    `photographs.write_photographs`.
  """
  import tempfile

  with tempfile.TemporaryDirectory() as folder:
    with waiting.doing(f'writing {num_images} JPEG files'):
      files = write_photographs(folder, num_images, photograph_size)
    rates = {name: [] for name in CONTENDERS}
    cpu_times = {name: [] for name in CONTENDERS}
    with contextlib.ExitStack() as stack:
      settings = folder, image_size, batch_size
      pipes = {
        name: stack.enter_context(
          workers.worker(_work, name, settings, preload=['tensorflow'])
        )
        for name in CONTENDERS
      }
      for number in range(rounds):
        show(f'round {number + 1} of {rounds}')
        for name, pipe in pipes.items():
          with waiting.doing(f'measuring: {name}'):
            time.sleep(_PAUSE)
            pipe.send(num_batches)
            rate, cpu_ms = pipe.recv()
            rates[name].append(rate)
            cpu_times[name].append(cpu_ms)
  return [
    _speed(name, rates, statistics.median(cpu_times[name]))
    for name in CONTENDERS
  ], files


def batches(
  name: str, folder: str, image_size: int | tuple[int, int], batch_size: int
) -> Iterator[Any]:
  """Returns the iterator of one contender over files of `write_photographs`.

  Args:
    name: one of CONTENDERS.
    folder: the argument of `write_photographs`.
    image_size: S or (H, W) pixels of the result.
    batch_size: images of a batch.
  """
  if name == USUAL:
    return _usual(folder, image_size, batch_size)
  split = datasets.open_split(folder, 'train')
  options: dict[str, Any] = dict(
    seed=0, start_step=0, batch_size=batch_size, shuffle_buffer=1000
  )
  if name in (DECODED, HANDED):
    return _boxes(split, options, handed_over=name == HANDED)
  if name == 'evaluation':
    return _evaluation(split, image_size, batch_size)
  changes: dict[str, dict[str, Any]] = {
    'training': {},
    'training, uint8': {'dtype': 'uint8'},
    'training, exact': {'exact_decode': True},
  }
  wanted = augment.Augmentation(
    crop=image_size, orientation=split.orientation, **changes[name]
  )
  return pipeline.training_batches(split, augmentation=wanted, **options)


def _evaluation(split, image_size, batch_size):
  """Returns the batches of `pipeline.evaluation_batches`, repeated forever."""
  function = pick_preprocessing('vit_jax')
  size = check_image_size(image_size)
  return decoding.batches_of(
    split,
    split.examples().repeat().skip,
    lambda encoded, _: {'image': function(encoded, size, split.orientation)},
    batch_size,
    report=None,
    repair=iter,
  )


def _boxes(split, options, handed_over):
  """Returns batches of the boxes that training cuts out, or of their sizes."""
  tf = tensorflow()
  seed, batch_size = options['seed'], options['batch_size']

  def decoded(example):
    key = augment.box_key(order.example_key(example, seed))
    box = augment.decode_box(split.load(example)['image'], key)
    return box if handed_over else tf.shape(box)

  examples = order.examples(
    split, seed=seed, shuffle_buffer=options['shuffle_buffer']
  )
  if not handed_over:
    return _piped(examples, decoded, batch_size)
  rows = parallel_map(examples, decoded).prefetch(_AHEAD * batch_size)
  return _in_batches(rows.as_numpy_iterator(), batch_size)


def _in_batches(rows, batch_size):
  while True:
    yield [next(rows) for _ in range(batch_size)]


def _usual(folder, image_size, batch_size):
  """Returns the pipeline of many tutorials, with stateful random operations."""
  tf = tensorflow()
  size = check_image_size(image_size)

  def load(path):
    image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
    begin, part, _ = tf.image.sample_distorted_bounding_box(
      tf.shape(image),
      tf.zeros([0, 0, 4]),
      min_object_covered=0.0,
      area_range=(0.05, 1.0),
      use_image_if_no_bounding_boxes=True,
    )
    image = tf.slice(image, begin, part)
    image = tf.image.resize(tf.ensure_shape(image, [None, None, 3]), size)
    image = normalize(tf.image.random_flip_left_right(image))
    return {'image': image, 'label': tf.constant(0)}

  paths = sorted(str(path) for path in pathlib.Path(folder).rglob('*.jpg'))
  files = tf.data.Dataset.from_tensor_slices(paths)
  return _piped(files.shuffle(1000).repeat(), load, batch_size)


def _piped(dataset, function, batch_size):
  mapped = parallel_map(dataset, function)
  return mapped.batch(batch_size).prefetch(_AHEAD).as_numpy_iterator()


def _work(pipe, name, settings):
  found = batches(name, *settings)
  batch_size = settings[-1]
  while True:
    try:
      number = pipe.recv()
    except EOFError:
      return
    for _ in range(_WARM_UP):
      next(found)
    started, cpu_started = time.perf_counter(), time.process_time()
    for _ in range(number):
      next(found)
    seconds = time.perf_counter() - started
    cpu_seconds = time.process_time() - cpu_started
    images = number * batch_size
    pipe.send((images / seconds, 1000 * cpu_seconds / images))


def _speed(name, rates, cpu_ms):
  def ratio(other):
    return statistics.median(
      one / two for one, two in zip(rates[name], rates[other], strict=True)
    )

  return InputSpeed(
    name=name,
    does=CONTENDERS[name],
    images_per_sec=statistics.median(rates[name]),
    cpu_ms=cpu_ms,
    slowest=min(rates[name]),
    fastest=max(rates[name]),
    over_decoded=ratio(DECODED),
    over_handed=ratio(HANDED),
    over_usual=ratio(USUAL),
  )
