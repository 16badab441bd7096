"""The search for a port's preprocessing among known ones.

An `ImageReading` describes a preprocessing, from an image file to the input of
a model. The search names the one that gives the same values as the port, with
the fewest changes from the reference's.

Shapes: H W pixels of the result, h w pixels of the file.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from vit_jax_repro.data import image_files, pillow, preprocess
from vit_jax_repro.data.tf_host import tensorflow

SQUASH = 'squashed to the size'
FILTERS = ('bilinear', 'bicubic', 'lanczos', 'nearest', 'box')
SCALINGS = {  # name: mean and deviation, in units of 0..255
  'to [-1, 1]': (preprocess.HALF, preprocess.HALF),
  "ImageNet's mean and deviation": (
    preprocess.IMAGENET_MEAN,
    preprocess.IMAGENET_STD,
  ),
  'to [0, 1]': ((0.0,) * 3, (255.0,) * 3),
  'to [0, 255]': ((0.0,) * 3, (1.0,) * 3),
}
# Fraction of the short side that is kept, in the preprocessings of
# data.preprocess.
CROPS = (0.875, 0.9, 0.95, 0.96, 1.0)
DECODERS = {
  'fast': "TensorFlow's fast DCT",
  'accurate': 'the accurate DCT, as Pillow',
}
# Largest differences, in levels of 0..255, that come from another order of sums
# and from rounding to integers.
EXACT, ROUNDED = 0.01, 1.01
_MOST_READINGS = 50  # readings that are tried on every image


@dataclasses.dataclass(frozen=True)
class ImageReading:
  """A preprocessing of image files, by the choices in which ports differ."""

  decoder: str = 'fast'  # a key of DECODERS
  crop: str | float = SQUASH  # or the fraction of the short side that is kept
  filter: str = 'bilinear'  # one of FILTERS
  antialias: bool = False
  scaling: str = 'to [-1, 1]'  # a key of SCALINGS
  channels: str = 'RGB'  # or 'BGR'

  def changes(self, other: 'ImageReading') -> tuple[str, ...]:
    """Returns the names of the fields in which the readings differ."""
    fields = (field.name for field in dataclasses.fields(self))
    return tuple(f for f in fields if getattr(self, f) != getattr(other, f))

  def says(self, field: str) -> str:
    """Returns the value of a field in words."""
    value = getattr(self, field)
    if field == 'decoder':
      return DECODERS[value]
    if field == 'antialias':
      return 'on' if value else 'off'
    if field == 'crop' and value != SQUASH:
      return f'short side to size / {value:g}, centre crop'
    return str(value)


# Names of the fields in reports.
TOPICS = {
  'decoder': 'JPEG decoder',
  'crop': 'crop',
  'filter': 'resize filter',
  'antialias': 'antialiasing',
  'scaling': 'mean and deviation',
  'channels': 'channel order',
}


def known_reading(
  name: str, image_size: tuple[int, int]
) -> ImageReading | None:
  """Returns the reading of one of data.preprocess.PREPROCESSINGS.

  Returns None for big_vision's, whose area method no reading describes.
  """
  entry = preprocess.pick_preprocessing(name)
  if entry.crop_pct is None:
    squashed = entry.base in ('vit_jax', 'bit')
    return ImageReading() if squashed else None
  scaling = next(
    key for key, value in SCALINGS.items() if value == (entry.mean, entry.std)
  )
  return ImageReading(
    'accurate', entry.crop_pct(image_size), 'bicubic', True, scaling
  )


def read(
  encoded: bytes, image_size: tuple[int, int], reading: ImageReading
) -> np.ndarray:  # [H, W, 3] float32
  """Returns an image preprocessed by a reading.

  For errors see `data.preprocess`.
  """
  pixels = _decode(encoded, reading.decoder)
  return _finish(_resize(pixels, image_size, reading), reading)


def _decode(encoded, decoder):  # -> [h, w, 3] uint8
  tf = tensorflow()
  if decoder == 'accurate' and encoded[:2] == b'\xff\xd8':
    return tf.io.decode_jpeg(
      encoded, channels=3, dct_method='INTEGER_ACCURATE'
    ).numpy()
  return image_files.decode(encoded).numpy()


def _resize(pixels, image_size, reading):  # -> [H, W, 3] float32, 0..255
  size = tuple(image_size)
  if reading.crop != SQUASH:
    scaled = tuple(int(side / reading.crop) for side in image_size)
    size = pillow.covering_size(pixels.shape[:2], scaled)
  if reading.antialias:
    pixels = _by_pillow(pixels, size, reading.filter)
  else:
    pixels = _by_tensorflow(pixels, size, reading.filter)
  top, left = (
    pillow.crop_start(side, wanted)
    for side, wanted in zip(size, image_size, strict=True)
  )
  return pixels[top : top + image_size[0], left : left + image_size[1]]


def _by_pillow(pixels, size, name):
  """Resizes with Pillow, which always antialiases and rounds to integers."""
  image_module = pillow.pillow()
  image = image_module.fromarray(pixels)
  method = image_module.Resampling[name.upper()]
  return np.asarray(image.resize(size[::-1], method), np.float32)


def _by_tensorflow(pixels, size, name):
  method = {'lanczos': 'lanczos3', 'box': 'area'}.get(name, name)
  return preprocess.squash(pixels, size, method=method).numpy()


def _finish(pixels, reading):
  if reading.channels == 'BGR':
    pixels = pixels[..., ::-1]
  return preprocess.normalize(pixels, *SCALINGS[reading.scaling])


def variants(start: ImageReading) -> Iterator[ImageReading]:
  """Yields all known readings, including `start`."""
  crops = dict.fromkeys((start.crop, SQUASH, *CROPS))
  for values in itertools.product(
    DECODERS, crops, FILTERS, (False, True), SCALINGS, ('RGB', 'BGR')
  ):
    yield ImageReading(*values)


@dataclasses.dataclass(frozen=True)
class ReadingTrial:
  """The effect of one change to the reference's reading."""

  reading: ImageReading
  field: str  # the only changed one
  effect: float  # largest change of the reference's pixels, in levels of 0..255

  @property
  def distinguishable(self) -> bool:
    """Returns whether these images show the change."""
    return self.effect > EXACT


@dataclasses.dataclass(frozen=True)
class Comparison:
  """The comparison of two preprocessings on the same files."""

  gap: float  # largest difference, in levels of 0..255
  mean_gap: float
  start: ImageReading | None  # the reference's; None if no reading describes it
  found: ImageReading | None  # the port's; None if no known reading is near
  remaining: float  # largest difference of the nearest reading, in levels
  trials: tuple[ReadingTrial, ...]

  @property
  def agrees(self) -> bool:
    """Returns whether both sides have the same values."""
    return self.gap <= EXACT

  @property
  def named(self) -> tuple[str, ...]:
    """Returns the fields in which the port's reading differs."""
    if self.agrees or self.found is None or self.start is None:
      return ()
    return self.found.changes(self.start)

  @property
  def indistinguishable(self) -> tuple[ReadingTrial, ...]:
    """Returns the changes that these images do not show."""
    return tuple(t for t in self.trials if not t.distinguishable)


def compare(
  encoded: Sequence[bytes],
  reference: np.ndarray,
  port: np.ndarray,
  *,
  preprocessing: str,
) -> Comparison:
  """Compares two preprocessings, and finds the port's among the known ones.

  Args:
    encoded: contents of the image files.
    reference, port: [B, H, W, 3] float32, the preprocessed images of each side.
    preprocessing: name of the reference's, see data.preprocess.
  """
  image_size = reference.shape[1:3]
  entry = preprocess.pick_preprocessing(preprocessing)
  std = np.asarray(entry.std, np.float32)
  gap = np.nan_to_num(np.abs(port - reference) * std, nan=np.inf)
  start = known_reading(preprocessing, image_size)
  trials = tuple(_trials(encoded, image_size, start)) if start else ()
  found, remaining = start, float(gap.max())
  if remaining > EXACT:
    found, remaining = _search(encoded, port, start or ImageReading())
  return Comparison(
    gap=float(gap.max()),
    mean_gap=float(gap.mean()),
    start=start,
    found=found if remaining <= ROUNDED else None,
    remaining=remaining,
    trials=trials,
  )


def _trials(encoded, image_size, start):
  """Yields a trial for every single change of a field."""
  usual = [read(data, image_size, start) for data in encoded]
  for reading in variants(start):
    changed = reading.changes(start)
    if len(changed) == 1:
      effect = max(
        _levels(read(data, image_size, reading), image, start)
        for data, image in zip(encoded, usual, strict=True)
      )
      yield ReadingTrial(reading, changed[0], effect)


def _search(encoded, port, start):
  """Returns the reading nearest to the port's pixels, and its distance.

  The distance is in levels. Among the readings that are equally near up to
  rounding, the search takes the one with the fewest changes from `start`. Only
  the readings that are nearest on the first image are tried on the others.
  """
  image_size = port.shape[1:3]

  @functools.cache
  def resized(decoder, *how):
    pixels = _decode(encoded[0], decoder)
    return _resize(pixels, image_size, ImageReading(decoder, *how))

  ranked = []
  for reading in variants(start):
    how = reading.decoder, reading.crop, reading.filter, reading.antialias
    image = _finish(resized(*how), reading)
    ranked.append((_levels(image, port[0], reading), reading))
  near = _nearest(ranked, start)[:_MOST_READINGS]
  ranked = []
  for reading in near:
    levels = [
      _levels(read(data, image_size, reading), image, reading)
      for data, image in zip(encoded, port, strict=True)
    ]
    ranked.append((max(levels), reading))
  best = _nearest(ranked, start)[0]
  return best, {reading: level for level, reading in ranked}[best]


def _nearest(ranked, start):
  """Returns the nearest readings, sorted by their number of changes.

  The nearest ones are all readings within EXACT, or if there is none within
  ROUNDED, or else the best one.
  """
  least = min(level for level, _ in ranked)
  limit = next((x for x in (EXACT, ROUNDED) if least <= x), least)
  near = [(len(r.changes(start)), level, r) for level, r in ranked]
  near = [entry for entry in near if entry[1] <= limit]
  return [reading for *_, reading in sorted(near, key=lambda e: e[:2])]


def _levels(image, other, reading):
  """Returns the largest difference in levels of 0..255.

  The images have the scaling of `reading`.
  """
  _, std = SCALINGS[reading.scaling]
  gap = np.abs(np.asarray(image) - np.asarray(other))
  gap = gap * np.asarray(std, np.float32)
  return float(np.nan_to_num(gap, nan=np.inf).max())
