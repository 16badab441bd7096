import io
import warnings

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from vit_jax_repro.data import pillow
from vit_jax_repro.data.tf_host import tensorflow

pytestmark = pytest.mark.quick

GREY = np.arange(30, dtype=np.uint8).reshape(5, 6)


def encoded(image, kind='png', **options):
  image = image if hasattr(image, 'save') else Image.fromarray(image)
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def middle(data, size=(5, 6), scaled=None):
  return pillow.resize_and_crop(data, size, scaled or size).numpy()


@pytest.mark.parametrize(
  'size, scaled, wanted',
  [
    # torchvision: the long side is rounded down.
    ((427, 640), (256, 256), (256, 383)),  # 383.7
    ((640, 427), (256, 256), (383, 256)),
    ((500, 375), (248, 248), (330, 248)),  # 330.67
    ((7, 7), (9, 9), (9, 9)),
    # timm, a rectangle: rounded, and both sides cover the requested size.
    ((427, 640), (100, 200), (133, 200)),  # 133.4
    ((427, 640), (200, 100), (200, 300)),  # 299.8
    ((30, 30), (20, 10), (20, 20)),
  ],
)
def test_covering_size_equals_torchvision_and_timm(size, scaled, wanted):
  assert pillow.covering_size(size, scaled) == wanted


def test_covering_size_covers_any_rectangle():
  for height in range(1, 40):
    for scaled in [(7, 13), (13, 7), (31, 3), (64, 63)]:
      size = pillow.covering_size((height, 17), scaled)
      assert size[0] >= scaled[0] and size[1] >= scaled[1]
      assert size[0] == scaled[0] or size[1] == scaled[1]


@pytest.mark.parametrize(
  'side, crop, start',
  [(256, 224, 16), (9, 8, 0), (11, 8, 2), (13, 8, 2), (15, 8, 4), (8, 8, 0)],
)
def test_crop_start_rounds_a_half_to_even(side, crop, start):
  assert pillow.crop_start(side, crop) == start
  # The same crop of an image whose values are its row or column numbers.
  rows = np.repeat(np.arange(side, dtype=np.uint8)[:, None], side, 1)
  for array, axis in [(rows, 0), (rows.T, 1)]:
    image = middle(encoded(array), (crop, crop), (side, side))
    np.testing.assert_array_equal(
      np.take(image[..., 0], 0, 1 - axis), np.arange(start, start + crop)
    )


def test_resize_of_an_edge_equals_bicubic_by_hand():
  """Halves an edge: Pillow's bicubic (a = -0.5) has a support of 8 pixels."""
  array = np.zeros((4, 16), np.uint8)
  array[:, 8:] = 200
  # Weights of the pixels at distances 1.75, 1.25 ... 1.75, in new pixels.
  near = [0.8671875, 0.2265625, -0.0703125, -0.0234375]
  weights = np.array(near[::-1] + near)
  # New pixel i is centred at 2 i + 1, so its old pixels start at 2 i - 3.
  row = np.array([weights[max(0, 11 - 2 * i) :].sum() for i in range(2, 7)])
  wanted = np.clip(np.round(200 * row / weights.sum()), 0, 255)
  image = middle(encoded(array), (2, 8), (2, 8))[0, :, 0]
  np.testing.assert_array_equal(image[2:7], wanted)


def test_result_has_three_channels():
  wanted = np.repeat(GREY[..., None], 3, -1)
  for data in (
    encoded(GREY),
    encoded(GREY, 'gif'),
    encoded(GREY, 'bmp'),
    encoded(np.dstack([wanted, 255 - GREY])),  # alpha is dropped
    encoded(Image.fromarray(GREY).convert('P')),
  ):
    np.testing.assert_array_equal(middle(data), wanted)
  cmyk = Image.fromarray(wanted).convert('CMYK')
  assert middle(encoded(cmyk, 'jpeg')).shape == (5, 6, 3)


def test_exif_orientation_is_not_applied():
  exif = Image.Exif()
  exif[0x0112] = 6  # turned by 90 degrees
  plain = encoded(GREY, 'jpeg')
  turned = encoded(GREY, 'jpeg', exif=exif)
  assert plain != turned
  np.testing.assert_array_equal(middle(plain), middle(turned))


def damaged():
  array = np.random.default_rng(0).integers(256, size=(40, 40, 3), dtype='u1')
  png = bytearray(encoded(array))
  png[1000] ^= 255
  return {
    'empty': (b'', 'the file is empty'),
    'text': (b'not an image at all', 'unknown image format'),
    'other format': (encoded(array, 'ppm'), 'unknown image format'),
    'cut jpeg': (encoded(array, 'jpeg')[:700], 'truncated'),
    'cut png': (encoded(array)[:700], 'truncated'),
    'changed png': (bytes(png), 'data stream'),
  }


@pytest.mark.parametrize('inside', ['eagerly', 'tf.data'])
@pytest.mark.parametrize('damage', damaged())
def test_invalid_images_raise_invalid_argument_error(damage, inside):
  tf = tensorflow()
  data, message = damaged()[damage]
  dataset = tf.data.Dataset.from_tensors(data)
  with pytest.raises(tf.errors.InvalidArgumentError, match=message) as caught:
    if inside == 'eagerly':
      middle(data, (8, 8))
    else:
      dataset = dataset.map(lambda x: pillow.resize_and_crop(x, (8, 8), (8, 8)))
      next(dataset.as_numpy_iterator())
  assert '0x' not in caught.value.message.splitlines()[0]


def test_decoder_error_does_not_end_the_data_set(monkeypatch):
  """tf.data would interpret a StopIteration as the end."""

  def stop(*_, **__):
    raise StopIteration

  monkeypatch.setattr(pillow.pillow(), 'open', stop)
  tf = tensorflow()
  dataset = tf.data.Dataset.from_tensors(b'').map(
    lambda x: pillow.resize_and_crop(x, (8, 8), (8, 8))
  )
  with pytest.raises(tf.errors.InvalidArgumentError, match='StopIteration'):
    next(dataset.as_numpy_iterator())


def test_resize_and_crop_in_many_threads_keeps_order_and_pixels(tmp_path):
  tf = tensorflow()
  arrays = np.random.default_rng(0).integers(
    256, size=(64, 9, 9, 3), dtype='u1'
  )
  dataset = tf.data.Dataset.from_tensor_slices([encoded(a) for a in arrays])
  dataset = dataset.map(
    lambda x: pillow.resize_and_crop(x, (9, 9), (9, 9)), num_parallel_calls=4
  )
  assert dataset.element_spec.shape == (9, 9, 3)
  np.testing.assert_array_equal(list(dataset.as_numpy_iterator()), arrays)


def test_warnings_of_pillow_are_suppressed(monkeypatch):
  """Pillow warns about a large image and about transparency in a palette."""
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 80)
  image = Image.fromarray(np.arange(81, dtype=np.uint8).reshape(9, 9))
  palette = encoded(image.convert('P'), transparency=bytes([7] * 81))
  with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter('always')
    Image.open(io.BytesIO(palette)).convert('RGB')
    assert len(seen) == 2
    pillow.pillow.cache_clear()
    middle(palette, (9, 9))
  assert len(seen) == 2


def test_image_with_too_many_pixels_is_rejected(monkeypatch):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 40)
  data = encoded(np.zeros((9, 9), np.uint8))
  with pytest.raises(
    tensorflow().errors.InvalidArgumentError,
    match='it has more than 80 pixels, the most that are read',
  ):
    middle(data, (9, 9))


def test_png_with_a_large_text_is_read():
  """Editors write comments of more than Pillow's limit of 1 MB."""
  text = PngImagePlugin.PngInfo()
  text.add_text('history', 'x' * 3_000_000, zip=True)
  file = io.BytesIO()
  Image.new('RGB', (8, 8), (10, 20, 30)).save(file, 'PNG', pnginfo=text)
  image = pillow.resize_and_crop(file.getvalue(), (8, 8), (8, 8)).numpy()
  assert (image == (10, 20, 30)).all()


def test_pixels_of_reads_the_header_alone():
  """A file whose pixels are missing has a size; no image has none."""
  data = encoded(GREY)
  assert pillow.pixels_of(data) == 30
  assert pillow.pixels_of(data[:45]) == 30
  with pytest.raises(ValueError, match='the file is empty'):
    pillow.pixels_of(b'')
