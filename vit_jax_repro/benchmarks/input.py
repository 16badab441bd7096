"""How fast images are read, beside a limit and beside the usual way.

Each contender runs in a process of its own, all over the same files, and they
are measured in turns, so that what else the machine does hits all alike.
"""

import contextlib
import dataclasses
import pathlib
import statistics
import time

import numpy as np

from vit_jax_repro.benchmarks import workers
from vit_jax_repro.data import augment, datasets, decoding, order, pipeline
from vit_jax_repro.data.preprocess import (
  check_image_size,
  normalize,
  pick_preprocessing,
)
from vit_jax_repro.data.tf_host import parallel_map, tensorflow

PHOTOGRAPH_SIZE = (375, 500)  # of most of ImageNet's images
JPEG_QUALITY = 90
DECODED, HANDED = 'boxes decoded', 'boxes handed over'
USUAL = 'decode, crop, resize'
# What each contender does, in the order of the table.
CONTENDERS = {
  DECODED: 'the JPEG decoder on the boxes that training cuts out, and nothing '
  'done with their pixels',
  HANDED: 'the same boxes given to Python, one by one as they differ in size',
  USUAL: 'whole JPEGs decoded, box cut out, resized, flipped, normalised',
  'training': 'what `main` does by default',
  'training, uint8': '--config.transfer_dtype=uint8',
  'training, exact': '--config.pp.exact_decode=True',
  'evaluation': 'whole JPEGs squashed, as `evaluate` does by default',
}
_AHEAD = 2  # batches, for all contenders
_WARM_UP = 8  # batches that are not timed, among them those made ahead
_PAUSE = 0.5  # seconds, in which those that are not measured come to rest


@dataclasses.dataclass(frozen=True)
class InputSpeed:
  """One row of the table."""

  name: str
  does: str
  images_per_sec: float  # median over the rounds
  slowest: float  # round
  fastest: float
  # Ratios to others' speeds, each the median over the rounds.
  over_decoded: float
  over_handed: float
  over_usual: float


def measure(*, image_size, batch_size, num_images, rounds, num_batches, show):
  """Measures all contenders.

  Args:
    image_size: S or (H, W) pixels of the result.
    batch_size: images of a batch.
    num_images: JPEG files to write, in a temporary folder.
    rounds: how often each contender is measured.
    num_batches: that are timed in each round.
    show: called with a line of text before each round.

  Returns:
    A list of InputSpeed, and a dict that describes the files.
  """
  import tempfile

  with tempfile.TemporaryDirectory() as folder:
    files = write_photographs(folder, num_images)
    rates = {name: [] for name in CONTENDERS}
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
          time.sleep(_PAUSE)
          pipe.send(num_batches)
          rates[name].append(pipe.recv())
  return [_speed(name, rates) for name in CONTENDERS], files


def write_photographs(folder, number):
  """Parts of scikit-learn's two photographs as ROOT/train/NAME/*.jpg.

  Each is cut out at a place of its own, in the proportions of
  `PHOTOGRAPH_SIZE` and at full height, resized to it with antialiasing, and
  every second pair mirrored.

  Returns:
    dict of number, size (H, W), quality and mean_bytes, for the record.
  """
  from sklearn import datasets as sklearn_datasets

  tf = tensorflow()
  bunch = sklearn_datasets.load_sample_images()
  names = [pathlib.Path(name).stem for name in bunch.filenames]
  height, width = PHOTOGRAPH_SIZE
  generator = np.random.default_rng(0)
  sizes = []
  for i in range(number):
    which, mirrored = i % 2, i // 2 % 2
    photograph = bunch.images[which]
    part = len(photograph) * width // height
    left = generator.integers(photograph.shape[1] - part + 1)
    image = photograph[:, left : left + part]
    if mirrored:
      image = image[:, ::-1]
    image = tf.image.resize(image, (height, width), 'bicubic', antialias=True)
    pixels = tf.saturate_cast(tf.round(image), tf.uint8)
    encoded = tf.io.encode_jpeg(pixels, quality=JPEG_QUALITY).numpy()
    sizes.append(len(encoded))
    path = pathlib.Path(folder, 'train', names[which], f'{i}.jpg')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded)
  return {
    'number': number,
    'size': PHOTOGRAPH_SIZE,
    'quality': JPEG_QUALITY,
    'mean_bytes': round(statistics.mean(sizes)),
  }


def batches(name, folder, image_size, batch_size):
  """The iterator of one contender, over the files of `write_photographs`."""
  if name == USUAL:
    return _usual(folder, image_size, batch_size)
  split = datasets.open_split(folder, 'train')
  options = dict(
    seed=0, start_step=0, batch_size=batch_size, shuffle_buffer=1000
  )
  if name in (DECODED, HANDED):
    return _boxes(split, options, handed_over=name == HANDED)
  if name == 'evaluation':
    return _evaluation(split, image_size, batch_size)
  changes = {
    'training': {},
    'training, uint8': {'dtype': 'uint8'},
    'training, exact': {'exact_decode': True},
  }
  wanted = augment.Augmentation(crop=image_size, **changes[name])
  return pipeline.training_batches(split, augmentation=wanted, **options)


def _evaluation(split, image_size, batch_size):
  """What `pipeline.evaluation_batches` reads, without an end."""
  function = pick_preprocessing('vit_jax')
  size = check_image_size(image_size)
  return decoding.batches_of(
    split,
    split.examples().repeat().skip,
    lambda encoded, _: function(encoded, size),
    batch_size,
    report=None,
    repair=iter,
  )


def _boxes(split, options, handed_over):
  """The boxes that training cuts out, decoded: batches of sizes, or pixels."""
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
  """The pipeline of many tutorials, stateful random operations and all."""
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
    started = time.perf_counter()
    for _ in range(number):
      next(found)
    seconds = time.perf_counter() - started
    pipe.send(number * batch_size / seconds)


def _speed(name, rates):
  def ratio(other):
    return statistics.median(
      one / two for one, two in zip(rates[name], rates[other], strict=True)
    )

  return InputSpeed(
    name=name,
    does=CONTENDERS[name],
    images_per_sec=statistics.median(rates[name]),
    slowest=min(rates[name]),
    fastest=max(rates[name]),
    over_decoded=ratio(DECODED),
    over_handed=ratio(HANDED),
    over_usual=ratio(USUAL),
  )
