"""Hostile image files, and folders of images."""

import io
import os
import struct
import zlib

import hostile_files as files
from hostile import Hostile
from PIL import Image

from vit_jax_repro.data import datasets, image_lists, pipeline, preprocess
from vit_jax_repro.errors import InputError

_BIG = 65_535


def _by(*names, side=8):
  """Returns a function that reads an image as `predict` does."""

  def read(path):
    lines, error = [], None
    for name in names:
      try:
        image = preprocess.read_image(
          path, preprocessing=name, image_size=(side, side), orientation='exif'
        )
        lines.append(f'{name}: {image.shape}')
      except InputError as found:
        error = found
    if error is not None and not lines:
      raise error
    return f'{"; ".join(lines)} {error or ""}'

  return read


def _chunk(kind, content):
  body = kind + content
  return (
    struct.pack('>I', len(content)) + body + struct.pack('>I', zlib.crc32(body))
  )


def _png(width, height, *chunks, colour=2):
  """Returns a PNG of a size, whose rows are the given chunks."""
  header = struct.pack('>IIBBBBB', width, height, 8, colour, 0, 0, 0)
  return b''.join(
    [
      b'\x89PNG\r\n\x1a\n',
      _chunk(b'IHDR', header),
      *chunks,
      _chunk(b'IEND', b''),
    ]
  )


def _zlib(size):
  """Returns zeros, compressed by zlib, with a wrong checksum."""
  return b'\x78\xda' + files.zeros(size) + bytes(4)


def _rows(size):
  return _chunk(b'IDAT', _zlib(size))


def _written(kind, **options):
  """Returns an image of 8x8 pixels in a format."""
  file = io.BytesIO()
  Image.new('RGB', (8, 8), (200, 100, 50)).save(file, kind, **options)
  return file.getvalue()


def _claiming(kind, place, code):
  """Returns an image whose header claims 65,535x65,535 pixels."""
  content = bytearray(_written(kind))
  size = struct.pack(code, _BIG, _BIG)
  content[place : place + len(size)] = size
  return bytes(content)


def _jpeg(side, **options):
  """Returns a JPEG whose header claims `side` x `side` pixels."""
  content = bytearray(_written('JPEG', **options))
  frame = b'\xff\xc2' if options else b'\xff\xc0'
  place = content.index(frame) + 5
  content[place : place + 4] = struct.pack('>HH', side, side)
  return bytes(content)


def _tiff(tags, rest=b'', following=0):
  """Returns a TIFF with one directory: (tag, type, count, value)."""
  entries = b''.join(struct.pack('<HHII', *tag) for tag in sorted(tags))
  start = b'II*\0' + struct.pack('<I', 8) + struct.pack('<H', len(tags))
  return start + entries + struct.pack('<I', following) + rest


def _tiff_of(width, height, packed=b'', compression=8, following=0):
  tags = [
    (256, 4, 1, width),
    (257, 4, 1, height),
    (258, 3, 1, 8),
    (259, 3, 1, compression),
    (262, 3, 1, 1),
    (273, 4, 1, 8 + 2 + 9 * 12 + 4),
    (277, 3, 1, 1),
    (278, 4, 1, height),
    (279, 4, 1, len(packed)),
  ]
  return _tiff(tags, packed, following)


def _gif(frames, side):
  """Returns a GIF of empty frames, each of which unpacks to side**2 bytes."""
  file = io.BytesIO()
  Image.new('P', (side, side)).save(file, 'GIF')
  content = file.getvalue()
  start = content.index(b',')
  return content[:start] + content[start:-1] * frames + b';'


def _narrow(kind):
  def make(folder):
    path = folder / f'narrow.{kind}'
    Image.new('RGB', (1, 60_000)).save(path)
    return path

  return make


def _device(folder):
  (folder / 'zero.jpg').symlink_to('/dev/zero')
  return folder / 'zero.jpg'


def _pipe(folder):
  os.mkfifo(folder / 'pipe.jpg')
  return folder / 'pipe.jpg'


def _data(add):
  """Makes a folder of images with something hostile in a class."""

  def make(folder):
    for split in ('train', 'test'):
      for name in ('cat', 'dog'):
        place = folder / split / name
        place.mkdir(parents=True)
        (place / 'a.png').write_bytes(_written('PNG'))
    add(folder / 'train' / 'cat')
    return folder

  return make


def _listed(folder):
  """Lists a folder as `predict` does, and reads what it lists."""
  paths = image_lists.expand([os.fspath(folder)]).paths
  return f'{len(paths)} images: {_by("timm")(paths[0])}'


def _labels(content):
  """Makes a folder of images with a labels.csv."""

  def make(folder):
    (folder / 'train').mkdir()
    for name in ('a.png', 'b.png'):
      (folder / 'train' / name).write_bytes(_written('PNG'))
    (folder / 'train' / 'labels.csv').write_bytes(content)
    return folder

  return make


def _dataset(folder):
  """Evaluates the images of a data set, and returns the message on each."""
  split = datasets.open_split(os.fspath(folder), 'train')
  lines = []
  rows = pipeline.evaluation_batches(
    split,
    preprocessing='vit_jax',
    batch_size=4,
    image_size=8,
    report=lambda name, reason: lines.append(f'{name}: {reason}'),
  )
  total = sum(int(batch['mask'].sum()) for batch in rows)
  return f'{total} images; {"; ".join(lines)}'


def _webp(side):
  file = io.BytesIO()
  Image.new('L', (side, side)).save(file, 'WebP', lossless=True, method=0)
  return file.getvalue()


_SECRET = 'the secret of another folder'


def _link_to_secret(folder):
  secret = folder.parents[2] / 'secret.txt'
  secret.write_text(_SECRET)
  (folder / 'b.jpg').symlink_to(secret)


def _link_to_device(folder):
  (folder / 'b.jpg').symlink_to('/dev/zero')
  os.mkfifo(folder / 'c.jpg')


def _link_to_parent(folder):
  (folder / 'b').symlink_to(folder.parents[1], target_is_directory=True)


def _jpeg_of_one_colour():
  file = io.BytesIO()
  Image.new('L', (10_000, 10_000)).save(file, 'JPEG', quality=5)
  return file.getvalue()


def _is(name, content, shows, *by, **options):
  return Hostile(
    name, files.written('image', content), _by(*(by or _BOTH)), shows, **options
  )


_BOTH = ('vit_jax', 'timm')  # by TensorFlow, by Pillow
_ALL = (*_BOTH, 'vit_jax:decoder=original', 'timm:decoder=original')
_MANY, _SPARSE = 'more than 200,000,000 pixels', 'as no photograph does'
_TEXT = _chunk(b'zTXt', b'a\0\0' + _zlib(2**31))
_PROFILE = _chunk(b'iCCP', b'a\0\0' + _zlib(2**31))
_TOO_LARGE = 'Decompressed data too large'
_PIXELS = _rows(2**20)
CASES = (
  _is('PNG of 65,535x65,535 pixels', _png(_BIG, _BIG, _PIXELS), _MANY),
  _is('JPEG of 65,535x65,535 pixels', _jpeg(_BIG), _MANY),
  _is('BMP of 65,535x65,535 pixels', _claiming('BMP', 18, '<II'), _MANY),
  _is('TIFF of 65,535x65,535 pixels', _tiff_of(_BIG, _BIG), _MANY),
  _is('WebP of 16,383x16,383 pixels', lambda: _webp(16_383), _MANY),
  _is('GIF of 65,535x65,535 pixels', _claiming('GIF', 6, '<HH'), _MANY, 'timm'),
  _is('JPEG of 1 KB and 13,370x13,370 pixels', _jpeg(13_370), _SPARSE),
  _is(
    'the same, progressive',
    _jpeg(13_370, progressive=True),
    _SPARSE,
    *_ALL,
  ),
  _is(
    'PNG of 0.4 MB that unpacks to 400 MB',
    _png(11_500, 11_500, _rows(11_500 * 34_501)),
    _SPARSE,
    *_ALL,
  ),
  _is(
    'TIFF of 0.1 MB that unpacks to 130 MB',
    _tiff_of(11_500, 11_500, _zlib(11_500**2)),
    _SPARSE,
  ),
  _is(
    'JPEG of one colour, 10,000x10,000 pixels',
    _jpeg_of_one_colour,
    '(8, 8, 3)',
    refused=False,
  ),
  _is(
    'PNG with a text that unpacks to 2 GB',
    _png(8, 8, _TEXT, _PIXELS),
    _TOO_LARGE,
    'timm',
  ),
  _is(
    'PNG with a profile that unpacks to 2 GB',
    _png(8, 8, _PROFILE, _PIXELS),
    _TOO_LARGE,
    'timm',
  ),
  _is(
    'the same by TensorFlow, which skips it',
    _png(8, 8, _TEXT, _PIXELS),
    '(8, 8, 3)',
    'vit_jax',
    refused=False,
  ),
  _is(
    'GIF of 400 frames of 25,000,000 pixels',
    _gif(400, 5000),
    '(8, 8, 3)',
    refused=False,
  ),
  _is(
    'TIFF whose directories form a circle',
    _tiff_of(8, 8, _zlib(2**20), following=8),
    '(8, 8, 3)',
    refused=False,
  ),
  Hostile(
    'image of 1x60,000 pixels',
    _narrow('png'),
    _by('timm', 'big_vision', side=224),
    'too narrow',
  ),
  Hostile('link to /dev/zero', _device, _by(*_BOTH), 'device or pipe'),
  Hostile('pipe named .jpg', _pipe, _by(*_BOTH), 'device or pipe'),
  Hostile(
    'link to /dev/zero and a pipe in a folder',
    _data(_link_to_device),
    _listed,
    '4 images',
    refused=False,
  ),
  Hostile(
    'link to /dev/zero and a pipe in a data set',
    _data(_link_to_device),
    _dataset,
    '2 images',
    refused=False,
  ),
  Hostile(
    'link to a text outside of a data set',
    _data(_link_to_secret),
    _dataset,
    'b.jpg: ',
    refused=False,
  ),
  Hostile(
    'class name of 100 KB in a labels.csv',
    _labels(b'file,label\na.png,cat\nb.png,' + b'x' * 100_000),
    _dataset,
    'of 100,000 characters',
  ),
  Hostile(
    'class name of 10 MB in a labels.csv',
    _labels(b'file,label\na.png,cat\nb.png,' + b'x' * 10_000_000),
    _dataset,
    'field larger than field limit',
  ),
  Hostile(
    'link to the folder above in a data set',
    _data(_link_to_parent),
    _dataset,
    'images',
    refused=False,
  ),
)
