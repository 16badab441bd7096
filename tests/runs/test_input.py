"""Batches of training: their order, augmentation and continuation."""

import dataclasses
import hashlib
import itertools
import pathlib
import random
import shutil
import subprocess
import sys
import time

import child_processes
import numpy as np
import pytest
from photographs import PHOTOGRAPHS
from training_sets import write_folder, write_shards

from vit_jax_repro.data import augment, datasets, order, pipeline

quick = pytest.mark.quick

TRAINING = {
  'seed': 3,
  'start_step': 0,
  'batch_size': 7,
  'shuffle_buffer': 50,
  'augmentation': augment.Augmentation(crop=6, resize=8, shift=1),
}


@pytest.fixture(scope='module')
def sets(tmp_path_factory):
  """A TFDS data set with 22 images in a part of 5 files; a folder of 23."""
  data_dir = tmp_path_factory.mktemp('tfds')
  write_shards(data_dir, 5, '5-9')
  folder = write_folder(tmp_path_factory.mktemp('folder'), 23)
  return {
    'files': ('digits/5-9', 'few[3:]', data_dir),
    'folder': (str(folder), 'train', None),
  }


@pytest.fixture(params=['files', pytest.param('folder', marks=quick)])
def train_set(request, sets):
  return open_set(sets, request.param)


def open_set(sets, kind='folder'):
  name, split, data_dir = sets[kind]
  return datasets.open_split(name, split, data_dir=data_dir)


def read(split, num_batches, **options):
  """Returns (images, labels) of the first batches, concatenated."""
  found = pipeline.training_batches(split, **{**TRAINING, **options})
  found = list(itertools.islice(found, num_batches))
  assert len(found) == num_batches
  rows = options.get('batch_size', TRAINING['batch_size'])
  for batch in found:
    assert {key: (v.shape, v.dtype) for key, v in batch.items()} == {
      'image': ((rows, 6, 6, 3), np.float32),
      'label': ((rows,), np.int32),
    }
  images, labels = (
    np.concatenate([batch[key] for batch in found])
    for key in ('image', 'label')
  )
  assert -1 <= images.min() < 0 < images.max() <= 1
  return images, labels


def same(found, expected):
  """Returns whether two sequences of arrays have the same bytes and shapes."""
  return all(
    one.tobytes() == two.tobytes() and one.shape == two.shape
    for one, two in zip(found, expected, strict=True)
  )


def rows(found):
  """Returns the examples as sorted bytes, to compare them as sets."""
  images, labels = found
  return sorted(
    image.tobytes() + label.tobytes()
    for image, label in zip(images, labels, strict=True)
  )


@pytest.mark.slow
def test_training_batches_continue_with_the_same_batches(train_set):
  whole = read(train_set, 9)
  for step in (1, 3, 8):
    rest = read(train_set, 9 - step, start_step=step)
    assert same(rest, [array[7 * step :] for array in whole])


@pytest.mark.parametrize(
  'options',
  [
    dict(randaugment_layers=2),
    dict(randaugment_layers=2, randaugment_policy='deit', dtype='uint8'),
  ],
)
def test_training_batches_with_randaugment_continue_the_same(sets, options):
  augmentation = dataclasses.replace(TRAINING['augmentation'], **options)

  def found(start_step):
    return pipeline.training_batches(
      open_set(sets),
      **{**TRAINING, 'augmentation': augmentation, 'start_step': start_step},
    )

  whole = list(itertools.islice(found(0), 4))
  rest = list(itertools.islice(found(2), 2))
  for one, two in zip(whole[2:], rest, strict=True):
    assert same(one.values(), two.values())


def test_training_batches_with_flips_on_the_device_continue_the_same(sets):
  augmentation = augment.Augmentation(crop=6, resize=8, dtype='uint8')

  def found(start_step):
    return pipeline.training_batches(
      open_set(sets),
      **{**TRAINING, 'augmentation': augmentation, 'start_step': start_step},
    )

  whole = list(itertools.islice(found(0), 4))
  flips = np.concatenate([batch['flip'] for batch in whole])
  assert flips.dtype == bool and 4 < flips.sum() < 24  # of 28
  for one, two in zip(whole[2:], found(2), strict=False):
    assert one.keys() == {'image', 'flip', 'label'}
    assert same(one.values(), two.values())


def test_training_batches_augment_each_repeat_differently(train_set):
  """Three consecutive examples are different views of one image."""
  whole = read(train_set, 3, repeats=3)
  for start in range(0, 21, 3):
    assert len(set(whole[1][start : start + 3])) == 1
  assert len(set(rows(whole))) == 21
  rest = read(train_set, 1, repeats=3, start_step=2)
  assert same(rest, [array[14:] for array in whole])


def test_training_batches_do_not_depend_on_the_batch_size(train_set):
  whole = read(train_set, 9)
  assert same(read(train_set, 63, batch_size=1), whole)
  larger = read(train_set, 1, batch_size=60)  # more than the split
  assert same(larger, [array[:60] for array in whole])
  later = read(train_set, 2, batch_size=20, start_step=1)
  assert same(later, [array[20:60] for array in whole])


def test_training_batches_differ_by_epoch_and_by_seed(train_set):
  size = train_set.num_examples
  first, second = (
    read(train_set, 1, batch_size=size, start_step=i) for i in range(2)
  )
  other = read(train_set, 1, batch_size=size, seed=4)
  assert np.bincount(first[1]).tolist() == np.bincount(second[1]).tolist()
  seen = rows(first) + rows(second) + rows(other)
  assert len(set(seen)) == 3 * size  # no augmented image occurs twice


@pytest.mark.slow
def test_augmentation_depends_neither_on_order_nor_on_process(train_set):
  size = train_set.num_examples
  epoch = rows(read(train_set, 1, batch_size=size))
  assert rows(read(train_set, 1, batch_size=size, shuffle_buffer=1)) == (epoch)
  for count in (2, 3):
    parts = [
      read(
        train_set,
        train_set.part_size(i, count),
        batch_size=1,
        process_index=i,
        process_count=count,
      )
      for i in range(count)
    ]
    assert sorted(row for part in parts for row in rows(part)) == epoch


def test_training_batches_augment_as_train_image_does(train_set):
  size = train_set.num_examples
  expected = []
  for record in train_set.records():
    key = order.example_key({'epoch': 0, 'id': record['id']}, 3)
    image = augment.train_image(
      record['image'], key, TRAINING['augmentation']
    ).numpy()
    label = record['label'].numpy().astype(np.int32)
    expected.append(image.tobytes() + label.tobytes())
  found = read(train_set, 1, batch_size=size)
  assert rows(found) == sorted(expected)


IN_ANOTHER_PROCESS = """
import hashlib, itertools, sys
from vit_jax_repro.data import datasets, pipeline
from vit_jax_repro.data.augment import Augmentation
from vit_jax_repro.data.tf_host import tensorflow
tensorflow().config.threading.set_inter_op_parallelism_threads(1)
for name, split, data_dir, options in eval(sys.argv[1]):
  split = datasets.open_split(name, split, data_dir=data_dir)
  found = pipeline.training_batches(split, **options)
  digest = hashlib.sha256()
  for batch in itertools.islice(found, 9):
    digest.update(batch['image'].tobytes() + batch['label'].tobytes())
  print(digest.hexdigest())
"""


def test_training_batches_are_the_same_in_another_process_and_folder(
  sets, tmp_path
):
  digests = []
  for kind in sets:
    digest = hashlib.sha256()
    found = pipeline.training_batches(open_set(sets, kind), **TRAINING)
    for batch in itertools.islice(found, 9):
      digest.update(batch['image'].tobytes() + batch['label'].tobytes())
    digests.append(digest.hexdigest())
  name, split, data_dir = sets['files']
  data_dir = str(shutil.copytree(data_dir, tmp_path / 'shards'))
  moved = [(name, split, data_dir, TRAINING)]
  name, split, _ = sets['folder']
  name = str(shutil.copytree(name, tmp_path / 'folder'))
  moved.append((name, split, None, TRAINING))
  done = subprocess.run(
    [sys.executable, '-c', IN_ANOTHER_PROCESS, repr(moved)],
    capture_output=True,
    text=True,
    check=False,
    cwd=pathlib.Path(__file__).parents[2],
  )
  # An unfinished iterator also prints no error when Python ends.
  assert (done.stdout.split(), done.stderr) == (digests, '')


def line_by_line(name, split, data_dir, options):
  """Prints a digest of each batch."""
  split = datasets.open_split(name, split, data_dir=data_dir)
  for batch in pipeline.training_batches(split, **options):
    digest = hashlib.sha256(batch['image'].tobytes())
    digest.update(batch['label'].tobytes())
    print(digest.hexdigest(), flush=True)


def killed_after(number, given):
  """Returns digests of the first batches of a process, then kills it."""
  child = child_processes.Child(line_by_line, *given)
  while child.is_running() and child.stdout.count('\n') < number:
    time.sleep(0.01)
  child.kill()
  return child.stdout.splitlines()[:number]


@pytest.mark.parametrize('kind', ['files', 'folder'])
def test_training_batches_continue_bit_for_bit_after_a_kill(sets, kind):
  augmentation = dataclasses.replace(
    TRAINING['augmentation'], randaugment_layers=2
  )
  options = {**TRAINING, 'augmentation': augmentation}
  name, split, data_dir = sets[kind]
  where = name, split, data_dir and str(data_dir)
  whole = killed_after(24, (*where, options))
  assert len(set(whole)) == 24
  step = 0
  for _ in range(2):
    number = random.randint(1, 12)
    given = (*where, {**options, 'start_step': step})
    lines = killed_after(number, given)
    assert lines == whole[step : step + number], f'from step {step} on'
    step += number


@pytest.mark.slow
@quick
@pytest.mark.parametrize('batch_size, start_step', [(1, 0), (4, 5), (64, 0)])
def test_training_batches_name_a_damaged_image(
  tmp_path, batch_size, start_step
):
  path = write_folder(tmp_path, 5) / 'train' / 'digit 0' / 'broken.png'
  path.write_bytes(PHOTOGRAPHS['china'].read_bytes()[:5000])
  split = datasets.open_split(str(tmp_path), 'train')
  options = {'batch_size': batch_size, 'start_step': start_step}
  with pytest.raises(ValueError, match='is not a readable') as caught:
    read(split, 6, **options)
  assert str(caught.value).startswith(str(path))
  assert '\n' not in str(caught.value)


@quick
def test_training_batches_refuse_a_cut_off_file_in_one_line(sets, tmp_path):
  name, split, data_dir = sets['files']
  shutil.copytree(data_dir, tmp_path / 'cut')
  for file in (tmp_path / 'cut').rglob('*few.tfrecord*2-of*'):
    file.write_bytes(file.read_bytes()[:-9])
  split = datasets.open_split(name, split, data_dir=tmp_path / 'cut')
  with pytest.raises(ValueError, match='cannot read the data set') as caught:
    read(split, 4)
  assert '\n' not in str(caught.value)


@quick
def test_training_batches_refuse_a_file_with_too_few_examples(sets, tmp_path):
  name, split, data_dir = sets['files']
  shutil.copytree(data_dir, tmp_path / 'less')
  for file in (tmp_path / 'less').rglob('*few.tfrecord*2-of*'):
    file.write_bytes(b'')
  split = datasets.open_split(name, split, data_dir=tmp_path / 'less')
  with pytest.raises(ValueError, match='has 0 records, and its data') as caught:
    read(split, 4)
  assert '\n' not in str(caught.value)


@quick
@pytest.mark.parametrize(
  'change, message',
  [
    ({'batch_size': 0}, 'batch_size=0 must be at least 1'),
    ({'start_step': -1}, 'start_step=-1 must not be negative'),
    ({'seed': -1}, 'seed=-1 must lie in'),
    ({'shuffle_buffer': 0}, 'shuffle_buffer=0 must be at least 1'),
    ({'process_index': 1}, 'process_index=1 must lie in'),
  ],
)
def test_training_batches_refuse_wrong_arguments_at_once(sets, change, message):
  with pytest.raises(ValueError, match=message) as caught:
    pipeline.training_batches(open_set(sets), **{**TRAINING, **change})
  assert '\n' not in str(caught.value)
