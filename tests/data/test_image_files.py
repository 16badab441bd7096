"""Formats of image files: recognised by content, read alike everywhere."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from vit_jax_repro.data import (
  augment,
  datasets,
  image_files,
  pillow,
  pipeline,
  preprocess,
)
from vit_jax_repro.data.order import fold_in, key_of
from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.errors import InputError

pytestmark = pytest.mark.quick

SIDE = 64
# Each is exact at SIDE pixels, without any resizing; big_vision crops 56 of 64.
PREPROCESSINGS = {
  'vit_jax': SIDE,
  'bit': SIDE,
  'big_vision': 56,
  'timm:crop_pct=1.0': SIDE,
  'deit:crop_pct=1.0': SIDE,
}


def written(image, kind, **options):
  image = (
    Image.fromarray(image) if isinstance(image, np.ndarray) else image.copy()
  )
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def colours(height=SIDE, width=SIDE):  # [h, w, 3] uint8, no symmetry
  y, x = np.mgrid[:height, :width]
  return np.stack([y * 3 % 256, x * 3 % 256, (y * x) % 200], -1).astype('u1')


def grey():  # [h, w] uint8
  y, x = np.mgrid[:SIDE, :SIDE]
  return (y + 2 * x).astype(np.uint8)


def repeated(values):
  return np.repeat(np.asarray(values, np.uint8)[..., None], 3, -1)


def files():
  """Returns {name: (bytes, pixels)}; pixels None: the format loses some."""
  rgb, level = colours(), grey()
  deep = level.astype(np.uint16) * 256 + 255  # the lower byte is dropped
  image = Image.fromarray(rgb)
  palette = image.quantize(32)
  of_palette = np.asarray(palette.convert('RGB'))
  transparent = Image.fromarray(np.dstack([rgb, level]))

  def animated():  # saving changes an image
    return dict(save_all=True, append_images=[Image.fromarray(255 - rgb)])

  two_colours = Image.fromarray(level).convert('1')
  of_two = repeated(np.asarray(two_colours) * 255)
  return {
    'jpeg': (written(rgb, 'jpeg'), None),
    'jpeg grey': (written(level, 'jpeg'), None),
    'jpeg cmyk': (written(image.convert('CMYK'), 'jpeg'), None),
    'jpeg progressive': (written(rgb, 'jpeg', progressive=True), None),
    'jpeg of two pictures': (written(image, 'mpo', **animated()), None),
    'png': (written(rgb, 'png'), rgb),
    'png 16 bits': (written(deep, 'png'), repeated(level)),
    'png palette': (written(palette, 'png'), of_palette),
    'png palette transparent': (
      written(palette, 'png', transparency=3),
      of_palette,
    ),
    'png transparent': (written(transparent, 'png'), rgb),
    'webp': (written(rgb, 'webp'), None),
    'webp lossless': (written(rgb, 'webp', lossless=True), rgb),
    'webp transparent': (
      written(transparent, 'webp', lossless=True, exact=True),
      rgb,
    ),
    'webp animated': (written(image, 'webp', lossless=True, **animated()), rgb),
    'bmp': (written(rgb, 'bmp'), rgb),
    'bmp grey': (written(level, 'bmp'), repeated(level)),
    'bmp palette': (written(palette, 'bmp'), of_palette),
    'bmp two colours': (written(two_colours, 'bmp'), of_two),
    'bmp black': (written(0 * rgb, 'bmp'), 0 * rgb),  # ends in zeros
    'gif': (written(palette, 'gif'), of_palette),
    'gif animated': (written(palette, 'gif', **animated()), of_palette),
    'tiff': (written(rgb, 'tiff'), rgb),
    'tiff packed': (written(rgb, 'tiff', compression='tiff_lzw'), rgb),
    'tiff of two pictures': (written(image, 'tiff', **animated()), rgb),
    'tiff 16 bits': (written(deep, 'tiff'), repeated(level)),
    'tiff 16 bits white is 0': (
      written(65535 - deep, 'tiff', tiffinfo={262: 0}),
      repeated(level),
    ),
    'tiff palette': (written(palette, 'tiff'), of_palette),
  }


FILES = files()


def in_graph(function, *data):  # calls a function of tensors inside tf.data
  dataset = tensorflow().data.Dataset.from_tensors(data)
  return next(dataset.map(function).as_numpy_iterator())


@pytest.mark.parametrize('name', FILES)
def test_decode_gives_the_pixels_that_were_written(name):
  """Kind: a format that is read wrong, or only in one place."""
  data, pixels = FILES[name]
  by_pillow = np.asarray(Image.open(io.BytesIO(data)).convert('RGB'), int)
  found = image_files.decode(data).numpy()
  assert found.dtype == np.uint8 and found.shape == (SIDE, SIDE, 3)
  if pixels is not None:
    np.testing.assert_array_equal(found, pixels)
  else:  # within a few levels: another DCT
    assert np.abs(found - by_pillow).max() <= 12
  np.testing.assert_array_equal(in_graph(image_files.decode, data), found)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Writes each file into a class of its own, all under the ending .jpg."""
  root = tmp_path_factory.mktemp('formats')
  for name, (data, _) in FILES.items():
    path = root / 'train' / name / 'x.jpg'
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
  return root


def by_label(batch):
  return batch['image'][np.argsort(batch['label'])]


@pytest.mark.parametrize('name, size', PREPROCESSINGS.items())
def test_training_evaluation_and_prediction_read_the_same_pixels(
  folder, name, size
):
  """Kind: training and evaluation that read a file through two decoders."""
  entry = preprocess.pick_preprocessing(name)
  split = datasets.open_split(str(folder), 'train')
  wanted = augment.Augmentation(
    crop=SIDE,
    inception_crop=False,
    flip=False,
    exact_decode=True,
    orientation=split.orientation,
    mean=entry.mean,
    std=entry.std,
    decoder=entry.training_decoder,
  )
  batches = pipeline.training_batches(
    split,
    augmentation=wanted,
    seed=0,
    start_step=0,
    batch_size=len(FILES),
    shuffle_buffer=1,
  )
  margin = (SIDE - size) // 2
  inside = slice(margin, SIDE - margin)
  trained = by_label(next(batches))[:, inside, inside]
  (batch,) = pipeline.evaluation_batches(
    split,
    preprocessing=name,
    image_size=size,
    batch_size=len(FILES),
    orientation=split.orientation,
  )
  evaluated = by_label(batch)
  for i, kind in enumerate(split.class_names):
    read = preprocess.read_image(
      folder / 'train' / kind / 'x.jpg', preprocessing=name, image_size=size
    )
    np.testing.assert_array_equal(evaluated[i], read, kind)
    if entry.crop_pct is not None and kind.startswith('jpeg'):
      # Pillow's DCT is not TensorFlow's.
      difference = np.abs(trained[i] - read) * np.asarray(entry.std)
      assert 0 < difference.max() <= 12
    else:
      np.testing.assert_array_equal(trained[i], read, kind)
    pixels = FILES[kind][1]
    if pixels is not None:
      wanted = preprocess.normalize(
        pixels[inside, inside].astype(np.float32), entry.mean, entry.std
      )
      np.testing.assert_allclose(read, wanted, atol=1e-6)


def header(*brands):  # of an ISO base media file
  content = b'ftyp' + brands[0] + b'\0\0\0\0' + b''.join(brands)
  return (len(content) + 4).to_bytes(4, 'big') + content + bytes(100)


REFUSED = {
  'AVIF': header(b'avif', b'mif1'),
  'AVIF by a later brand': header(b'mif1', b'avif'),
  'HEIC': header(b'heic', b'mif1'),
  'JPEG XL': b'\xff\x0a' + bytes(50),
}


@pytest.mark.parametrize('name', ['vit_jax', 'big_vision', 'timm', 'deit'])
@pytest.mark.parametrize('kind', REFUSED)
def test_refused_formats_are_named_with_the_way_on(tmp_path, kind, name):
  """Kind: a file that is refused with a reason that is not true."""
  path = tmp_path / 'photo.jpg'
  path.write_bytes(REFUSED[kind])
  with pytest.raises(InputError) as caught:
    preprocess.read_image(path, preprocessing=name, image_size=8)
  line = str(caught.value)
  known = kind.partition(' by')[0]
  assert f'({known} is not read; convert it to JPEG or PNG, for example' in line
  assert 'JPEG, PNG, WebP, BMP, GIF or TIFF' in line and '\n' not in line


@pytest.mark.parametrize('name', ['vit_jax', 'timm'])
@pytest.mark.parametrize(
  'data, reason',
  [
    (b'', 'the file is empty'),
    (b'%PDF-1.7', 'unknown image format'),
    (FILES['webp'][0][:200], ''),
    (FILES['tiff'][0][:-50], ''),
    (b'II*\x00' + bytes(30), 'it is a TIFF that is damaged or of a kind'),
    (written(grey().astype(np.float32) / 255, 'tiff'), 'no known range'),
    (written(grey().astype(np.int32), 'tiff'), 'no known range'),
  ],
)
def test_unreadable_files_raise_one_line_in_graphs(name, data, reason):
  """Kind: a decoder's error that tf.data does not pass on as InvalidArgument.

  Grey values without a known range would be cut off at 255.
  """
  tf, function = tensorflow(), preprocess.pick_preprocessing(name)
  with pytest.raises(tf.errors.InvalidArgumentError) as caught:
    in_graph(lambda data: function(data, (8, 8)), data)
  line = preprocess.first_line(caught.value)
  assert reason in line and line and 'Error' not in line
  with pytest.raises(tf.errors.InvalidArgumentError):
    in_graph(
      lambda data: augment.train_image(
        data, key_of(0), augment.Augmentation(crop=8, orientation='exif')
      ),
      data,
    )


@pytest.mark.parametrize('exact', [False, True])
def test_training_replaces_what_pillow_cannot_read(tmp_path, exact):
  """Kind: a decoder's error that stops training instead of an image."""
  for number, data in enumerate(
    [FILES['bmp'][0], FILES['tiff'][0][:90], REFUSED['HEIC']]
  ):
    path = tmp_path / 'train' / 'a' / f'{number}.tif'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
  named = {}
  found = pipeline.training_batches(
    datasets.open_split(str(tmp_path), 'train'),
    augmentation=augment.Augmentation(crop=8, exact_decode=exact),
    seed=0,
    start_step=0,
    batch_size=5,
    shuffle_buffer=1,
    report=lambda name, why: named.update({name[-5:]: why}),
  )
  assert next(found)['image'].std() > 0.1
  assert named.keys() == {'1.tif', '2.tif'}
  assert named['2.tif'].startswith('HEIC is not read')


def test_original_decoders_are_reachable_by_name(tmp_path, capsys):
  """Kind: an original that reads wrong, and its pixels lost for good."""
  pillow._note_once.cache_clear()
  path = tmp_path / 'x.png'

  def pixels(data, name):
    path.write_bytes(data)
    return preprocess.read_image(path, preprocessing=name, image_size=SIDE)

  deep, palette = FILES['png 16 bits'][0], FILES['bmp palette'][0]
  white = pixels(deep, 'timm:crop_pct=1.0,decoder=original')
  assert (white == 1).mean() > 0.9
  assert (pixels(deep, 'timm:crop_pct=1.0') == 1).mean() < 0.1
  wrong = pixels(palette, 'vit_jax:decoder=original')
  right = pixels(palette, 'vit_jax')
  assert np.abs(wrong - right).max() > 0.5
  np.testing.assert_array_equal(
    right, pixels(palette, 'timm:crop_pct=1.0,decoder=right')
  )
  for _ in range(2):
    pixels(deep, 'deit'), pixels(palette, 'big_vision')
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 2  # once for each kind
  assert all('decoder=original' in line for line in lines)


def test_training_decoder_is_the_original_of_tensorflow_only():
  for name, decoder in {
    'vit_jax': 'right',
    'vit_jax:decoder=original': 'original',
    'timm:decoder=original': 'right',  # training under timm is TensorFlow's
  }.items():
    assert preprocess.pick_preprocessing(name).training_decoder == decoder


@pytest.mark.parametrize('name', ['vit_jax', 'timm:crop_pct=1.0'])
def test_jpeg_too_large_for_tensorflow_is_read_by_pillow(
  monkeypatch, tmp_path, name
):
  """Kind: a sound file that is called unreadable for a limit of a library."""
  monkeypatch.setattr(image_files, '_MOST_VALUES', SIDE * SIDE * 3)
  data = FILES['jpeg'][0]
  path = tmp_path / 'x.jpg'
  path.write_bytes(data)
  image = preprocess.read_image(path, preprocessing=name, image_size=SIDE)
  pixels = np.asarray(Image.open(path), np.float32)
  np.testing.assert_allclose(image, pixels / 127.5 - 1, atol=1e-6)
  for options in ({}, {'exact_decode': True}, {'reduced_decode': True}):
    wanted = augment.Augmentation(crop=16, orientation='exif', **options)
    assert augment.train_image(data, key_of(0), wanted).shape == (16, 16, 3)


@pytest.mark.parametrize(
  'options', [{}, {'exact_decode': True}, {'reduced_decode': True}]
)
def test_training_refuses_a_jpeg_of_too_many_pixels_for_its_bytes(
  monkeypatch, options
):
  """TensorFlow's decoder would take all the memory that the header claims."""
  monkeypatch.setattr(pillow, 'SPARSE_PIXELS', 1000)
  monkeypatch.setattr(pillow, '_MOST_PIXELS_PER_BYTE', 1)
  data = written(np.zeros((200, 200, 3), np.uint8), 'jpeg')
  assert 1000 < len(data) < 200 * 200
  for orientation in ('none', 'exif'):
    for crop in (True, False):
      wanted = augment.Augmentation(
        crop=16, orientation=orientation, inception_crop=crop, **options
      )
      with pytest.raises(
        tensorflow().errors.InvalidArgumentError, match='no photograph'
      ):
        augment.train_image(data, key_of(0), wanted)


def test_limits_are_those_of_the_libraries():
  """Pillow refuses twice MAX_IMAGE_PIXELS; 195 megapixels must be below."""
  assert pillow.pillow().MAX_IMAGE_PIXELS * 2 == pillow.MAX_PIXELS
  assert pillow.MAX_PIXELS > 15_000 * 13_000


ORIENTATIONS = range(1, 9)


def turned(kind, orientation, shape=(40, 56), **options):
  exif = Image.Exif()
  exif[0x0112] = orientation
  return written(colours(*shape), kind, exif=exif, **options)


def upright_pixels(data):
  image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
  return np.asarray(image.convert('RGB'))


@pytest.mark.parametrize('orientation', ORIENTATIONS)
@pytest.mark.parametrize(
  'kind, options',
  [('png', {}), ('webp', {'lossless': True}), ('tiff', {})],
)
def test_orientation_is_applied_as_pillow_does(kind, options, orientation):
  """Kind: a property of a file that no reader applies."""
  data = turned(kind, orientation, **options)
  wanted = upright_pixels(data)
  stored = image_files.decode(data, 'none').numpy()
  upright = image_files.decode(data, 'exif').numpy()
  np.testing.assert_array_equal(upright, wanted)
  if kind != 'tiff':  # which Pillow always turns
    np.testing.assert_array_equal(stored, colours(40, 56))
  decode = image_files.decode
  found = in_graph(lambda data: decode(data, 'exif'), data)
  np.testing.assert_array_equal(found, wanted)
  height, width = wanted.shape[:2]
  by_pillow = pillow.resize_and_crop(
    data, (height, width), (height, width), orientation='exif'
  )
  np.testing.assert_array_equal(by_pillow, wanted)


@pytest.mark.parametrize('orientation', ORIENTATIONS)
def test_orientation_of_jpeg_turns_the_pixels_of_tensorflow(orientation):
  data = turned('jpeg', orientation, quality=95)
  upright = image_files.decode(data, 'exif').numpy()
  assert np.abs(upright - upright_pixels(data).astype(int)).max() <= 12
  stored = image_files.decode(data, 'none').numpy()
  np.testing.assert_array_equal(
    stored, tensorflow().io.decode_jpeg(data, channels=3)
  )
  assert sorted(stored.ravel()) == sorted(upright.ravel())


@pytest.mark.parametrize('orientation', ORIENTATIONS)
@pytest.mark.parametrize('kind', ['jpeg', 'png'])
def test_box_is_drawn_on_the_upright_image(kind, orientation):
  """Kind: a box of the stored image where the upright one is meant."""
  options = {'subsampling': 0} if kind == 'jpeg' else {}  # no error at edges
  data = turned(kind, orientation, shape=(80, 120), **options)
  for i in range(4):
    key = fold_in(key_of(0), i)
    same = dict(crop=24, orientation='exif')
    quick, exact = (
      augment.train_image(data, key, augment.Augmentation(**same, **more))
      for more in ({}, {'exact_decode': True})
    )
    np.testing.assert_array_equal(quick, exact)
    as_stored = augment.train_image(
      data, key, augment.Augmentation(crop=24, orientation='none')
    )
    assert (as_stored.numpy() == quick.numpy()).all() == (orientation == 1)


@pytest.mark.parametrize('value', [0, 9, 77])
def test_impossible_orientation_is_ignored(value):
  data = turned('png', value)
  assert pillow.orientation_of(data) == 1
  found = image_files.decode(data, 'exif').numpy()
  np.testing.assert_array_equal(found, colours(40, 56))


@pytest.mark.parametrize('exif', [b'MM\0*\0\0\0\x08\xff\xff', b'no header'])
@pytest.mark.parametrize('kind', ['jpeg', 'png', 'webp'])
def test_damaged_exif_does_not_damage_the_image(kind, exif):
  """Kind: a sound image that is refused for a note inside it."""
  pillow.pillow.cache_clear()  # pytest has reset its filter of warnings
  data = written(colours(), kind, exif=b'Exif\0\0' + exif)
  entries = [preprocess.pick_preprocessing(n) for n in ('vit_jax', 'timm')]
  for entry in entries:
    np.testing.assert_array_equal(
      entry(data, (32, 32), 'exif'), entry(data, (32, 32), 'none')
    )


def test_evaluation_collects_images_whose_orientation_is_not_applied(tmp_path):
  """Kind: a property of a file that is dropped in silence."""
  for number, data in enumerate(
    [turned('jpeg', 6), turned('jpeg', 1), turned('png', 3), FILES['bmp'][0]]
  ):
    path = tmp_path / 'train' / 'a' / f'{number}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
  (tmp_path / 'train' / 'a' / '9.png').write_bytes(b'no image')
  split = datasets.open_split(str(tmp_path), 'train')
  for orientation, wanted in {
    'none': {'a/0.png', 'a/2.png'},
    'exif': set(),
  }.items():
    for name in ('vit_jax', 'timm'):
      found = set()
      for _ in pipeline.evaluation_batches(
        split,
        preprocessing=name,
        image_size=16,
        batch_size=2,
        report=lambda *_: None,
        orientation=orientation,
        turned=found,
      ):
        pass
      assert {path.removeprefix('train/') for path in found} == wanted


def test_wrong_orientation_is_refused():
  with pytest.raises(InputError, match="'left' must be one of"):
    augment.Augmentation(crop=8, orientation='left')
  with pytest.raises(InputError, match="'left' must be one of"):
    preprocess.read_image(
      'x', preprocessing='timm', image_size=8, orientation='left'
    )


@pytest.mark.parametrize('orientation', [1, 6])
@pytest.mark.parametrize('crop, scale', [(30, 8), (31, 4), (64, 2), (130, 1)])
def test_reduced_decode_of_a_whole_image_keeps_the_target(
  crop, scale, orientation
):
  """Kind: an image reduced below the size to which it is resized."""
  tf = tensorflow()
  data = turned('jpeg', orientation, shape=(240, 320))
  image = image_files.decode_reduced(data, (crop, crop), 'exif', 'right')
  wanted = tf.io.decode_jpeg(data, channels=3, ratio=scale)
  wanted = image_files.upright(wanted, tf.constant(orientation))
  np.testing.assert_array_equal(image, wanted)
  assert min(image.shape[:2]) >= crop


def test_reduced_decode_of_a_box_keeps_the_target(monkeypatch):
  """Kind: as above, for boxes, whose scale depends on each box."""
  data = turned('jpeg', 6, shape=(300, 500), subsampling=0)
  used = []
  decode_window = image_files.decode_window

  def recording(encoded, window, resize):
    box = decode_window(encoded, window, resize)
    used.append((window.numpy()[2:] / box.shape[:2], box.shape))
    return box

  monkeypatch.setattr(image_files, 'decode_window', recording)
  wanted = dict(crop=(50, 75), orientation='exif')
  gaps = []
  for i in range(30):
    key = fold_in(key_of(2), i)
    reduced, plain = (
      augment.train_image(data, key, augment.Augmentation(**wanted, **more))
      for more in ({'reduced_decode': True}, {})
    )
    gaps.append(np.abs(reduced - plain).mean())
  scales = [int(scale.min()) for scale, _ in used[::2]]
  assert {1, 2} <= set(scales)
  for _, shape in used[::2]:  # stored: height and width swapped
    assert shape[0] >= 75 and shape[1] >= 50
  assert all(scale.max() == 1 for scale, _ in used[1::2])
  assert all(
    (gap == 0) == (s == 1) for gap, s in zip(gaps, scales, strict=True)
  )
  assert max(gaps) < 0.5


def test_reduced_decode_excludes_exact_decode():
  with pytest.raises(InputError, match='contradict each other'):
    augment.Augmentation(crop=8, exact_decode=True, reduced_decode=True)
