import shutil

import numpy as np
import pytest
from training_sets import write_folder, write_shards

from vit_jax_repro.data import datasets, order, tfds_files
from vit_jax_repro.data.tf_host import tensorflow

quick = pytest.mark.quick

SETS = [
  'one file',
  'files',
  pytest.param('part of files', marks=quick),
  pytest.param('folder', marks=quick),
]


@pytest.fixture(scope='module')
def places(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp('tfds')
  write_shards(data_dir, 7, '5-9')
  return data_dir, write_folder(tmp_path_factory.mktemp('folder'), 53)


def open_set(kind, places):
  data_dir, folder = places
  if kind == 'folder':
    return datasets.open_split(str(folder), 'train')
  if kind == 'one file':
    return datasets.open_split('digits/5-9', 'few')
  split = 'test' if kind == 'files' else 'train[90%:]+test[:20%]'
  return datasets.open_split('digits/5-9', split, data_dir=data_dir)


@pytest.fixture(scope='module', params=SETS)
def split(request, places):
  return open_set(request.param, places)


def take(split, number, *, seed=0, buffer=50, keys=('epoch', 'id'), **options):
  """Returns [(epoch, id)] of the next examples."""
  found = order.examples(split, seed=seed, shuffle_buffer=buffer, **options)
  found = found.map(lambda example: tuple(example[key] for key in keys))
  return list(found.take(number).as_numpy_iterator())


def ids(pairs):
  return [example_id for _, example_id in pairs]


def test_each_epoch_has_each_example_once_in_another_order(split):
  size = split.num_examples
  found = take(split, 3 * size)
  assert [epoch for epoch, _ in found] == [0] * size + [1] * size + [2] * size
  orders = [ids(found[i * size : (i + 1) * size]) for i in range(3)]
  every = sorted(ids_in_order(split))
  assert len(set(every)) == size
  assert [sorted(order) for order in orders] == [every] * 3
  assert orders[0] != orders[1] != orders[2] != orders[0]


def ids_in_order(split, *part):
  return [r['id'] for r in split.records(*part).as_numpy_iterator()]


def test_order_is_repeatable_and_depends_on_the_seed(split):
  tf = tensorflow()
  number = split.num_examples + 5
  found = take(split, number)
  try:
    tf.random.set_seed(5)  # other code's global seed has no effect
    assert take(split, number) == found
  finally:
    tf.compat.v1.set_random_seed(None)
  assert take(split, number, seed=1) != found


def test_order_is_random_over_the_whole_epoch(split):
  """Positions of neighbours in the files are uncorrelated."""
  size = split.num_examples
  place = {
    example_id: i
    for i, example_id in enumerate(ids(take(split, size, buffer=10_000)))
  }
  original = ids_in_order(split)
  positions = [place[example_id] for example_id in original]
  correlation = np.corrcoef(positions[1:], positions[:-1])[0, 1]
  assert abs(correlation) < 4 / size**0.5
  correlation = np.corrcoef(positions, range(size))[0, 1]
  assert abs(correlation) < 4 / size**0.5


@pytest.mark.slow
@pytest.mark.parametrize('at', ['1', 'size - 1', 'size', '2 * size + 7'])
def test_order_continues_from_any_start(split, at):
  size = split.num_examples
  start = eval(at, {'size': size})
  whole = take(split, start + size + 3)
  assert take(split, size + 3, start=start) == whole[start:]


def test_order_continues_after_very_many_epochs(split):
  start = split.num_examples * 10**12 + 3
  found = take(split, 2, start=start)
  assert [epoch for epoch, _ in found] == [10**12] * 2


@pytest.mark.slow
@pytest.mark.parametrize('repeats', [2, 3])
def test_repeats_keep_the_length_of_an_epoch(split, repeats):
  """An epoch keeps its length and repeats its first examples."""
  size = split.num_examples
  keys = ('epoch', 'id', 'copy')
  found = take(split, 2 * size, repeats=repeats, keys=keys)
  order = take(split, 2 * size)
  for epoch in range(2):
    once = order[epoch * size : (epoch + 1) * size]
    wanted = [(*pair, copy) for pair in once for copy in range(repeats)]
    assert found[epoch * size : (epoch + 1) * size] == wanted[:size]
  options = dict(repeats=repeats, keys=keys)
  for start in (1, size - 1, size + 4):
    assert take(split, 9, start=start, **options) == found[start : start + 9]


@quick
def test_skipped_examples_are_not_loaded(places):
  split = open_set('folder', places)
  loaded = []

  class Counting:
    part_size, shuffled = split.part_size, split.shuffled

    def load(self, example):
      loaded.append(example)

  assert take(Counting(), 3, start=200) == take(split, 3, start=200)
  assert not loaded


@pytest.mark.slow
@pytest.mark.parametrize('process_count', [2, 3])
def test_processes_share_an_epoch(split, process_count):
  every = []
  for process_index in range(process_count):
    part = dict(process_index=process_index, process_count=process_count)
    size = split.part_size(process_index, process_count)
    found = take(split, 2 * size, **part)
    assert [epoch for epoch, _ in found] == [0] * size + [1] * size
    assert found[5:9] == take(split, 4, start=5, **part)
    every.append([ids(found[:size]), ids(found[size:])])
  for epoch in range(2):
    seen = [example for parts in every for example in parts[epoch]]
    assert sorted(seen) == sorted(ids_in_order(split))


@quick
def test_folder_batch_is_the_same_for_all_process_counts(places):
  split = open_set('folder', places)
  one = take(split, 12)
  for count in (2, 3):
    parts = [
      take(split, 12 // count, process_index=i, process_count=count)
      for i in range(count)
    ]
    assert sorted(pair for part in parts for pair in part) == sorted(one)


@quick
def test_buffers_larger_than_the_split_give_the_same_order(places):
  split = open_set('part of files', places)
  size = split.num_examples
  found = take(split, size, buffer=size)
  assert take(split, size, buffer=10**9) == found
  assert take(split, size, buffer=1) != found


@quick
def test_buffers_hold_a_number_of_bytes_at_most(places, monkeypatch):
  """50,000 photographs of ImageNet would be 5 GB."""
  split = open_set('files', places)
  sizes = [len(record['image'].numpy()) for record in split.records().take(40)]
  mean = split.buffered(1)  # of whole records, which have a label, too
  assert np.mean(sizes) < mean < np.mean(sizes) + 400
  assert split.buffered(30) == 30 * mean
  assert split.buffered(10**9) == split.num_examples * mean
  monkeypatch.setattr(tfds_files, '_BUFFER', 7 * mean + 1)
  assert split.buffered(10**9) == 7 * mean
  number = split.num_examples
  few, many = (take(split, number, buffer=buffer) for buffer in (7, 10**9))
  assert few == many != take(split, number, buffer=6)
  assert open_set('folder', places).buffered(10**9) == 0


def test_order_is_independent_of_the_location(places, tmp_path):
  data_dir, folder = places
  shutil.copytree(data_dir, tmp_path / 'x' / 'y')
  shutil.copytree(folder, tmp_path / 'z')
  moved = (tmp_path / 'x' / 'y', tmp_path / 'z')
  for kind in ('files', 'folder'):
    here, there = open_set(kind, places), open_set(kind, moved)
    assert take(there, 60) == take(here, 60)
    assert there.fingerprint() == here.fingerprint()


def test_keys_of_examples_depend_on_seed_epoch_and_id(split):
  example = {'epoch': 3, 'id': b'a'}
  changes = [(example, 1), ({**example, 'epoch': 4}, 0)]
  changes += [({**example, 'id': b'b'}, 0), ({**example, 'more': 1}, 0)]
  changes += [({**example, 'copy': copy}, 0) for copy in range(2)]
  keys = [order.example_key(example, 0)]
  keys += [order.example_key(*change) for change in changes]
  keys = [tuple(key.numpy()) for key in keys]
  assert len(set(keys)) == 6 and keys[4] == keys[0]


@quick
@pytest.mark.parametrize(
  'options, message',
  [
    ({'seed': -1}, r'seed=-1 must lie in 0\.\.'),
    ({'start': -2}, 'start=-2 must not be negative'),
    ({'buffer': 0}, 'shuffle_buffer=0 must be at least 1'),
    ({'repeats': 0}, 'repeats=0 must be at least 1'),
    ({'process_index': 2, 'process_count': 2}, r'must lie in 0\.\.1'),
    (
      {'process_index': 53, 'process_count': 54},
      "'train' has 53 examples, too few for 54 processes",
    ),
  ],
)
def test_examples_rejects_wrong_arguments(places, options, message):
  with pytest.raises(ValueError, match=message) as caught:
    take(open_set('folder', places), 1, **options)
  assert '\n' not in str(caught.value)
