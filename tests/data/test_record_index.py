"""Examples of TFRecord files from any position, without reading the others."""

import itertools
import os

import numpy as np
import pytest
from training_sets import write_shards

from vit_jax_repro.data import datasets, order, record_index
from vit_jax_repro.data.tf_host import tensorflow
from vit_jax_repro.errors import InputError
from vit_jax_repro.output import locations

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
  'counts',
  [
    [5],
    [16, 16],
    [1] * 40,
    [17, 3, 16, 31, 1, 15, 48] * 4,
    [int(n) for n in np.random.default_rng(0).integers(1, 60, size=37)],
  ],
)
@pytest.mark.parametrize('at_once, in_turn', [(16, 16), (3, 2)])
def test_places_equal_the_interleave_of_tensorflow(counts, at_once, in_turn):
  tf = tensorflow()

  def one_file(number, count):
    places = tf.data.Dataset.range(tf.cast(count, tf.int64))
    return places.map(lambda place: (number, place))

  wanted = (
    tf.data.Dataset.from_tensor_slices(counts)
    .enumerate()
    .interleave(
      one_file,
      cycle_length=at_once,
      block_length=in_turn,
      num_parallel_calls=tf.data.AUTOTUNE,
      deterministic=True,
    )
  )
  found = record_index.places(counts, at_once, in_turn)
  np.testing.assert_array_equal(
    np.stack(found, axis=1), list(wanted.as_numpy_iterator())
  )


@pytest.fixture(scope='module')
def split(tmp_path_factory):
  data_dir = tmp_path_factory.mktemp('tfds')
  write_shards(data_dir, 7, '5-9')
  return datasets.open_split('digits/5-9', 'train', data_dir=data_dir)


def ids(examples, number):
  found = examples.take(number).as_numpy_iterator()
  return [(each['id'], each['serialized']) for each in found]


@pytest.mark.parametrize('part', [(0, 1), (1, 3)])
def test_examples_start_anywhere(split, part):
  whole = ids(split.examples(*part), 1000)
  for start in (1, 15, 16, 17, 100, len(whole) - 1, len(whole)):
    assert ids(split.examples(*part, start), 1000) == whole[start:]


def paths(split):
  files = split._images._files()
  return list(dict.fromkeys(os.fspath(file.filename) for file in files))


def test_offsets_are_those_of_the_records(split):
  tf = tensorflow()
  for path in paths(split):
    records = list(tf.data.TFRecordDataset(path).as_numpy_iterator())
    starts = [0, *itertools.accumulate(len(record) + 16 for record in records)]
    assert record_index.offsets(path).tolist() == starts[:-1]


@pytest.mark.parametrize('buffer', [1, 20, 10_000])
def test_skipped_records_are_not_read(split, buffer, monkeypatch):
  read = []

  class Counting(record_index.Records):
    def read(self, position):
      read.append(position)
      return super().read(position)

  monkeypatch.setattr(record_index, 'Records', Counting)
  size = split.num_examples
  options = dict(seed=3, shuffle_buffer=buffer)
  found = ids(order.examples(split, start=size - 30, **options), 30)
  assert len(found) == 30 and not read[30 + buffer :]
  assert len(read) == len({*read}) == 30  # each once
  monkeypatch.undo()
  whole = ids(order.examples(split, **options), size)
  assert found == whole[-30:]


@pytest.mark.parametrize('repeats', [1, 3])
def test_files_of_a_network_continue_in_the_same_order(
  split, repeats, monkeypatch
):
  options = dict(seed=3, shuffle_buffer=20, repeats=repeats)
  whole = ids(order.examples(split, **options), 200)
  monkeypatch.setattr(locations, 'is_address', lambda path: True)
  assert ids(order.examples(split, **options), 200) == whole
  for start in (1, 100):
    found = ids(order.examples(split, start=start, **options), 200 - start)
    assert found == whole[start:]


def test_damaged_files_are_errors(split, tmp_path):
  (path, *_) = paths(split)
  with open(path, 'rb') as file:
    content = file.read()
  starts = record_index.offsets(path)
  flipped = bytearray(content)
  flipped[starts[3] + 20] ^= 1
  for name, damaged in [('cut', content[:-9]), ('flipped', bytes(flipped))]:
    (tmp_path / name).write_bytes(damaged)
  with pytest.raises(InputError, match='cut is damaged: it ends within'):
    record_index.offsets(str(tmp_path / 'cut'))
  places = np.arange(5)
  records = record_index.Records(
    [str(tmp_path / 'flipped')], ['x'], np.zeros(5, int), places
  )
  assert records.read(2)[1] == 'x__2'
  with pytest.raises(InputError, match='flipped is damaged at record 3') as got:
    records.read(3)
  assert '\n' not in str(got.value)
