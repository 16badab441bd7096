"""Class names and splits: what is refused, and what is noted."""

import dataclasses

import pytest
from training_sets import write_shards

from vit_jax_repro.data import class_checks, datasets

pytestmark = pytest.mark.quick


def make(root, *names):
  """Writes empty images; returns (training split, test split)."""
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  return open_splits(root)


def open_splits(root, train='train', test='test'):
  return [datasets.open_split(str(root), split) for split in (train, test)]


def several(*folders, number=3):
  return [f'{folder}/{i}.png' for folder in folders for i in range(number)]


def test_check_training_accepts_equal_classes_without_a_note(tmp_path):
  splits = make(tmp_path, *several('train/a', 'train/b', 'test/a', 'test/b'))
  assert class_checks.check_training(*splits) == []


def test_check_training_names_the_folders_below_a_single_class(tmp_path):
  """One class: loss 0 and 100 % say nothing."""
  folders = [f'{s}/images/{c}' for s in ('train', 'test') for c in 'DC']
  splits = make(tmp_path, *several(*folders))
  message = (
    r"split 'train' of .* has one class, so that nothing is learned; "
    'train/images has C, D: are these the classes[?] move them up$'
  )
  with pytest.raises(ValueError, match=message):
    class_checks.check_training(*splits, as_is=True)


def test_check_training_notes_the_same_folders_in_all_classes(tmp_path):
  """Folders one level too deep: the model learns images against masks."""
  inner = [f'{kind}/{name}' for kind in ('images', 'masks') for name in 'CD']
  folders = [f'{split}/{each}' for split in ('train', 'test') for each in inner]
  (line,) = class_checks.check_training(*make(tmp_path, *several(*folders)))
  assert 'images, masks' in line and 'C, D; if these are the classes' in line
  (tmp_path / 'train' / 'masks' / 'x.png').touch()
  assert not class_checks.check_training(*open_splits(tmp_path))


def test_check_training_refuses_a_part_with_images_of_one_class(tmp_path):
  """One class, of a part of a split that has two."""
  make(tmp_path, *several('train/a', 'train/b', 'test/a', 'test/b'))
  splits = open_splits(tmp_path, 'train[:1]')
  with pytest.raises(
    ValueError, match=r"'train\[:1\]' .* of one class, '[ab]'"
  ):
    class_checks.check_training(*splits)


def test_check_training_refuses_a_tfds_set_of_one_class(tmp_path):
  write_shards(tmp_path, 1, '5-9')
  split = datasets.open_split('digits/5-9', 'train', data_dir=tmp_path)
  assert class_checks.check_training(split, split) == []
  one = dataclasses.replace(split, num_classes=1)
  with pytest.raises(ValueError, match='images of one class, '):
    class_checks.check_training(one, one)


def test_check_training_refuses_a_test_split_of_one_class(tmp_path):
  """One class in the test: a model that knows no other reaches 100 %."""
  splits = make(tmp_path, *several('train/a', 'train/b', 'test/b'))
  with pytest.raises(ValueError, match=r"'test' .* of one class, 'b'"):
    class_checks.check_training(*splits)
  (line,) = class_checks.check_training(*splits, as_is=True)
  assert "split 'test' are of one of 2 classes, 'b'" in line
  make(tmp_path, *several('test/a'))
  (line,) = class_checks.check_training(*open_splits(tmp_path, test='test[:1]'))
  assert 'the accuracy says nothing about the others' in line


def test_check_training_refuses_classes_that_only_the_test_split_has(tmp_path):
  """A class of one split that another lacks: it could never be right."""
  splits = make(
    tmp_path, *several('train/a', 'train/b', 'test/a', 'test/b', 'test/c')
  )
  message = r"'test' of .* has 1 of 3 classes \(c\), which split 'train' lacks"
  with pytest.raises(ValueError, match=message):
    class_checks.check_training(*splits)
  (line,) = class_checks.check_training(*splits, as_is=True)
  assert line == (
    "split 'train' has no image of 1 of 3 classes (c), which split 'test' has: "
    'their images count as wrong'
  )


def test_check_training_counts_classes_that_the_test_split_lacks(tmp_path):
  """A class of one split that another lacks: it is not tested."""
  splits = make(
    tmp_path,
    *several('train/a', 'train/b', 'train/c', 'train/d', 'test/a', 'test/b'),
    *several('plots/run1'),
  )
  assert class_checks.check_training(*splits) == [
    "split 'test' has no image of 2 of 5 classes (c, d): its accuracy does not "
    'cover them',
    f'only other splits of {tmp_path} have 1 of 5 classes (run1): the model '
    'gets an output for each and never sees an image',
  ]


def test_check_training_counts_classes_lost_to_a_slice(tmp_path):
  """A part of a split, which may lack a class, is what the user asked for."""
  splits = [f'{split}/{c}' for split in ('train', 'test') for c in 'abc']
  make(tmp_path, *several(*splits, number=2))
  splits = open_splits(tmp_path, 'train[:2]')
  drawn = {splits[0].folder.paths[i].split('/')[1] for i in range(2)}
  (gone,) = set('abc') - drawn
  (line,) = class_checks.check_training(*splits)
  assert f"'train[:2]' has no image of 1 of 3 classes ({gone})," in line


def test_check_evaluation_takes_one_class_only_by_its_name(tmp_path):
  """One class: without a name, it is class 0 of any model."""
  _, test = make(tmp_path, *several('train/images/x', 'test/images/x'))
  with pytest.raises(ValueError, match='test/images has x: are these the cl'):
    class_checks.check_evaluation(test, by_name=False)
  (line,) = class_checks.check_evaluation(test, by_name=True)
  assert "are of one of 1 classes, 'images'" in line
  _, test = make(tmp_path, *several('test/other'))
  assert class_checks.check_evaluation(test, by_name=False) == []


def test_unreadable_by_class_counts_each_image_once(tmp_path):
  train, _ = make(tmp_path, *several('train/a', 'train/b', 'test/a', number=4))
  names = [str(tmp_path / f'train/b/{i}.png') for i in (0, 1, 0)]
  counts = class_checks.unreadable_by_class(train, [*names, names[0]])
  assert counts == {'b': (2, 4)}
  assert class_checks.notes_on_unreadable(train, {'b': (1, 4)}, 'x') == []
  assert class_checks.notes_on_unreadable(
    train, {'a': (4, 4), 'b': (2, 4)}, 'they count as wrong'
  ) == [
    "most images of 2 of 2 classes of split 'train' cannot be decoded (a all "
    'of 4, b 2 of 4); they count as wrong'
  ]
