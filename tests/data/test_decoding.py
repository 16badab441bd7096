"""Replacement of damaged images, which changes no other image."""

import itertools
import os

import numpy as np
import pytest
from photographs import PHOTOGRAPHS
from training_sets import write_folder

from vit_jax_repro.data import (
  batches,
  datasets,
  decoding,
  order,
  pipeline,
  preprocess,
)
from vit_jax_repro.data.augment import Augmentation
from vit_jax_repro.data.tf_host import tensorflow

pytestmark = pytest.mark.quick

DAMAGE = {  # name: contents of the file
  'cut short': lambda png: PHOTOGRAPHS['china'].read_bytes()[:5000],
  'no image': lambda png: b'a text',
  'empty': lambda png: b'',
  'cut png': lambda png: png[:-30],
}
DAMAGED = (2, 3, 7, 11)  # of 12 images


def folder(root, damaged=()):
  """Writes 12 images ROOT/train/CLASS/NUMBER.png, some of them damaged."""
  write_folder(root, 12)
  kinds = itertools.cycle(DAMAGE.values())
  paths = []
  for number in damaged:
    (path,) = root.rglob(f'{number}.png')
    path.write_bytes(next(kinds)(path.read_bytes()))
    paths.append(str(path))
  return datasets.open_split(str(root), 'train'), paths


def training(split, **options):
  defaults = dict(
    augmentation=Augmentation(crop=6, resize=8, shift=1),
    seed=1,
    start_step=0,
    batch_size=5,
    shuffle_buffer=1,
  )
  return pipeline.training_batches(split, **{**defaults, **options})


def rows(found, number):
  """Returns the first rows of all batches, as bytes of image and label."""
  result = []
  for batch in found:
    for image, label in zip(batch['image'], batch['label'], strict=True):
      result.append(image.tobytes() + label.tobytes())
    if len(result) >= number:
      return result[:number]
  return result


@pytest.fixture
def sound(tmp_path):
  return folder(tmp_path / 'sound')[0]


@pytest.fixture
def broken(tmp_path):
  return folder(tmp_path / 'broken', DAMAGED)


def test_training_replaces_damaged_images_by_the_next_readable(sound, broken):
  split, paths = broken
  whole = rows(training(sound), 36)  # three epochs
  order = ids_in_order(sound, 36)
  readable = [int(name) not in DAMAGED for name in order]
  expected = [
    next(whole[j] for j in range(i, 40) if readable[j]) for i in range(30)
  ]
  named, reasons = [], []

  def report(name, why):
    named.append(name)
    reasons.append(why)

  found = rows(training(split, report=report), 30)
  assert found == expected
  assert set(named) == set(paths)
  assert 8 <= len(named) <= 12  # in each of two and a half epochs
  assert not any('\n' in why or 'Iterator' in why for why in reasons)


def ids_in_order(split, number):
  """Returns file names without folder and extension in training order."""
  found = order.examples(split, seed=1, shuffle_buffer=1)
  names = [example['id'] for example in found.take(number).as_numpy_iterator()]
  return [name.decode().split('/')[-1].split('.')[0] for name in names]


def test_each_damaged_image_is_reported_once(broken):
  """Also where the next readable image is in a later batch."""
  (split, _), batch_size, named = broken, 2, []
  found = training(
    split, batch_size=batch_size, report=lambda name, _: named.append(name)
  )
  assert len(rows(found, 30)) == 30
  order = [int(name) for name in ids_in_order(split, 48)]
  end = next(i for i in range(29, 48) if order[i] not in DAMAGED)
  numbers = [int(os.path.basename(name).split('.')[0]) for name in named]
  assert numbers == [n for n in order[: end + 1] if n in DAMAGED]
  in_two = [
    i
    for i in range(batch_size, 30, batch_size)
    if {order[i - 1], order[i]} <= {*DAMAGED}
  ]
  assert in_two, 'choose another seed'


def test_damaged_images_leave_flips_with_their_images(broken, sound):
  """Flips cross to the device in an array of their own."""
  options = dict(augmentation=Augmentation(crop=6, dtype='uint8'), batch_size=4)

  def examples(split):
    found = training(split, report=lambda *_: None, **options)
    batches = [*itertools.islice(found, 8)]
    columns = [
      np.concatenate([batch[x] for batch in batches])
      for x in ('image', 'flip', 'label')
    ]
    return [
      (image.tobytes(), flip, label)
      for image, flip, label in zip(*columns, strict=True)
    ]

  whole = examples(sound)
  readable = [int(name) not in DAMAGED for name in ids_in_order(sound, 32)]
  expected = [
    next(whole[j] for j in range(i, 32) if readable[j]) for i in range(28)
  ]
  assert examples(broken[0])[:28] == expected
  assert {flip for _, flip, _ in expected} == {True, False}


@pytest.mark.parametrize(
  'batch_bytes, number',
  [(1, 2), (250_000_000, 2), (250_000_001, 1), (500_000_001, 0), (0, 2)],
)
def test_prefetched_batches_have_half_a_gigabyte_at_most(batch_bytes, number):
  assert decoding.prefetched(batch_bytes) == number


@pytest.mark.parametrize('dtype, size', [('float32', 4), ('uint8', 1)])
def test_batches_of_prefetches_by_the_bytes_of_its_images(
  dtype, size, sound, monkeypatch
):
  found = []
  monkeypatch.setattr(decoding, 'prefetched', lambda n: found.append(n) or 0)
  batches = training(sound, augmentation=Augmentation(crop=6, dtype=dtype))
  assert next(batches)['image'].nbytes == 5 * 6 * 6 * 3 * size
  assert found == [5 * 6 * 6 * 3 * size]


def test_batches_without_damage_are_read_once(broken, monkeypatch):
  """Only batches with a damaged image are read image by image."""
  split, _ = broken
  asked, again = [], []

  class Counting(decoding._Examples):
    def at(self, first):
      again.append(first)
      return super().at(first)

  def examples_from(number):
    asked.append(number)
    return split.examples().repeat(5).skip(number)

  monkeypatch.setattr(decoding, '_Examples', Counting)
  found = decoding.batches_of(
    split,
    examples_from,
    lambda encoded, _: {
      'image': preprocess.PREPROCESSINGS['vit_jax'](encoded, (6, 6))
    },
    batch_size=3,
    report=lambda *_: None,
    repair=lambda rows: (row for row in rows if row.pop('readable') or True),
  )
  order = [
    int(os.path.basename(os.fsdecode(example['id'])).split('.')[0])
    for example in split.examples().as_numpy_iterator()
  ]
  assert len(list(found)) == 20
  with_damage = [i - i % 3 for i in range(60) if order[i % 12] in DAMAGED]
  assert asked == [0, with_damage[0]]
  assert again == [*dict.fromkeys(with_damage)]
  assert 5 < len(again) < 20


@pytest.mark.parametrize('where', ['image', 'example'])
def test_error_of_reading_that_passes_loses_no_image(sound, where):
  """An error between the images may lose some, here the rest of a group."""
  tf, failures, number = tensorflow(), [True], [0]

  def fails_once(value):
    number[0] += 1
    if number[0] == 4 and failures:
      failures.pop()
      raise OSError('the network is slow')
    return value

  def shaky(value):
    found = tf.numpy_function(fails_once, [value], value.dtype)
    return tf.ensure_shape(found, value.shape)

  def examples_from(number):
    found = sound.examples().repeat(5)
    if where == 'example':
      groups = found.batch(4).map(lambda x: {**x, 'id': shaky(x['id'])})
      found = groups.unbatch()
    return found.skip(number)

  def prepare(encoded, _):
    if where == 'image':
      encoded = shaky(encoded)
    return {'image': preprocess.PREPROCESSINGS['vit_jax'](encoded, (6, 6))}

  found = decoding.batches_of(
    sound, examples_from, prepare, 5, report=print, repair=iter
  )
  whole = rows(found, 60)
  assert not failures and len(whole) == 60
  assert (
    whole
    == rows(
      pipeline.evaluation_batches(
        sound, preprocessing='vit_jax', image_size=6, batch_size=12
      ),
      12,
    )
    * 5
  )


@pytest.mark.slow
@pytest.mark.parametrize('batch_size, start', [(1, 0), (4, 1), (4, 2), (7, 3)])
def test_replacement_depends_on_the_order_only(broken, batch_size, start):
  split, _ = broken
  whole = rows(training(split, report=print), 48)
  options = dict(batch_size=batch_size, start_step=start, report=print)
  first = batch_size * start
  assert rows(training(split, **options), 48 - first) == whole[first:]


@pytest.mark.parametrize('batch_size', [1, 5, 30])
def test_evaluation_counts_damaged_images_as_wrong(sound, broken, batch_size):
  split, paths = broken

  def read(split, report):
    found = pipeline.evaluation_batches(
      split,
      preprocessing='vit_jax',
      image_size=6,
      batch_size=batch_size,
      report=report,
    )
    return list(found)

  named = []
  for one, two in zip(
    read(sound, None),
    read(split, lambda name, why: named.append(name)),
    strict=True,
  ):
    np.testing.assert_array_equal(one['mask'], two['mask'])
    bad = two['label'] == batches.NO_CLASS
    assert one['label'].dtype == two['label'].dtype == np.int32
    np.testing.assert_array_equal(one['label'][~bad], two['label'][~bad])
    np.testing.assert_array_equal(one['image'][~bad], two['image'][~bad])
    assert not two['image'][bad].any() and two['mask'][bad].all()
  assert sorted(named) == sorted(paths)


def test_damaged_image_without_report_is_an_error(broken):
  split, paths = broken
  with pytest.raises(ValueError, match='is not a readable') as caught:
    rows(training(split), 30)
  assert str(caught.value).startswith(tuple(paths))
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('number', [1, 12])
def test_training_without_a_readable_image_is_an_error(tmp_path, number):
  write_folder(tmp_path, number)
  for path in tmp_path.rglob('*.png'):
    path.write_bytes(b'')
  split = datasets.open_split(str(tmp_path), 'train')
  wanted = f'{2 * number - 1} images in a row cannot be decoded'
  with pytest.raises(ValueError, match=wanted) as caught:
    rows(training(split, report=print), 5)
  assert '\n' not in str(caught.value)


def test_evaluation_without_a_readable_image_counts_all(tmp_path):
  split, paths = folder(tmp_path, range(12))
  named = []
  (batch,) = pipeline.evaluation_batches(
    split,
    preprocessing='timm',
    image_size=6,
    batch_size=12,
    report=lambda name, why: named.append(name),
  )
  assert batch['mask'].all() and (batch['label'] == batches.NO_CLASS).all()
  assert sorted(named) == sorted(paths)


def test_deleted_file_is_an_error(broken):
  split, paths = broken
  for path in paths[:2]:
    os.remove(path)
  with pytest.raises(ValueError, match='cannot read the data set') as caught:
    rows(training(split, report=print), 30)
  assert '\n' not in str(caught.value)
