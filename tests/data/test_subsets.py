import numpy as np
import pytest
from training_sets import write_folder, write_shards

from vit_jax_repro.data import datasets, subsets


@pytest.fixture(scope='module')
def sets(tmp_path_factory):
  """Returns digits in five TFDS files per split, and a folder of 60 digits."""
  data_dir = tmp_path_factory.mktemp('tfds')
  write_shards(data_dir, 5)
  folder = write_folder(tmp_path_factory.mktemp('folder'), 60)
  return {'files': ('digits', data_dir), 'folder': (str(folder), None)}


def records(sets, kind, split, *part):
  name, data_dir = sets[kind]
  opened = datasets.open_split(name, split, data_dir=data_dir)
  found = list(opened.records(*part).as_numpy_iterator())
  return {r['id']: (int(r['label']), r['image']) for r in found}


@pytest.mark.parametrize('kind', ['files', 'folder'])
def test_subset_has_equally_many_of_each_class(sets, kind):
  whole = records(sets, kind, 'train')
  three = records(sets, kind, 'train@3')
  assert len(three) == 30
  assert (
    np.bincount([label for label, _ in three.values()]).tolist() == [3] * 10
  )
  assert all(whole[key] == record for key, record in three.items())
  assert records(sets, kind, 'train@3') == three
  assert records(sets, kind, 'train@1').items() <= three.items()
  other = records(sets, kind, 'train@3#1')
  assert len(other) == 30 and other.keys() != three.keys()


@pytest.mark.parametrize('kind', ['files', 'folder'])
def test_parts_of_processes_are_disjoint_and_complete(sets, kind):
  three = records(sets, kind, 'train@3')
  parts = [records(sets, kind, 'train@3', i, 4) for i in range(4)]
  assert [len(part) for part in parts] == [8, 8, 7, 7]
  assert {key for part in parts for key in part} == three.keys()


def test_subset_of_a_slice_is_within_the_slice(sets):
  part = records(sets, 'files', 'train[:50%]')
  assert records(sets, 'files', 'train[:50%]@2#3').keys() <= part.keys()


@pytest.mark.parametrize('kind', ['files', 'folder'])
def test_fingerprint_distinguishes_subsets(sets, kind):
  name, data_dir = sets[kind]
  prints = [
    datasets.open_split(name, split, data_dir=data_dir).fingerprint()
    for split in ('train', 'train@2', 'train@2#0', 'train@2#1')
  ]
  assert prints[1] == prints[2] and len(set(prints)) == 3


def test_shuffled_subset_has_each_example_once(sets):
  name, data_dir = sets['files']
  opened = datasets.open_split(name, 'train@2', data_dir=data_dir)
  key = np.array([3, 4], np.int64)
  ids = [e['id'] for e in opened.shuffled(key, 7).as_numpy_iterator()]
  assert sorted(ids) == sorted(records(sets, 'files', 'train@2'))


def test_balanced_takes_the_first_of_a_permutation():
  labels = [1, 0, 1, 1, 0, 0, 1]
  order = np.random.RandomState(5).permutation(7)
  zeros, ones = ([i for i in order if labels[i] == c][:2] for c in (0, 1))
  chosen = subsets.balanced(labels, 2, 2, 5)
  assert chosen.tolist() == sorted(zeros + ones)


@pytest.mark.parametrize(
  'split, message',
  [
    ('train@', 'is not SPLIT@N or SPLIT@N#SEED'),
    ('train@0', 'at least 1'),
    ('train#1', 'is not SPLIT@N'),
    ('train@5#', 'is not SPLIT@N'),
    ('train@500', r"'train@500' of 'digits': class \d has 1\d\d images"),
    ('trian@5', "no split 'trian'"),
  ],
)
def test_wrong_subsets_have_one_line_errors(sets, split, message):
  name, data_dir = sets['files']
  with pytest.raises(ValueError, match=message) as caught:
    datasets.open_split(name, split, data_dir=data_dir)
  assert '\n' not in str(caught.value)
