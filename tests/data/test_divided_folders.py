import os
import pathlib

import pytest

from vit_jax_repro.data import class_checks, datasets, image_hashes, splitting

pytestmark = pytest.mark.quick


def make(root, **classes):
  """Writes this many different images of each class."""
  for name, number in classes.items():
    (root / name).mkdir(parents=True)
    for i in range(number):
      (root / name / f'{i:02}.png').write_bytes(f'{name} {i}'.encode())
  return root


def opened(root, split, **fields):
  division = splitting.Division(**fields)
  return datasets.open_split(str(root), split, division=division)


def images(split):
  """Returns the contents of the images of a split."""
  return {
    pathlib.Path(split.locate(x)).read_bytes() for x in split.folder.paths
  }


def test_scan_divides_classes_without_splits(tmp_path):
  make(tmp_path, cat=10, dog=20)
  (tmp_path / 'README.md').touch()
  train, test = (opened(tmp_path, split) for split in ('train', 'test'))
  assert train.class_names == test.class_names == ('cat', 'dog')
  assert (train.num_examples, test.num_examples) == (24, 6)
  assert sorted(test.folder.labels) == [0, 0, 1, 1, 1, 1]
  assert not set(train.folder.paths) & set(test.folder.paths)
  assert train.folder.paths == tuple(sorted(train.folder.paths))
  for path, label in zip(test.folder.paths, test.folder.labels, strict=True):
    assert path.split(os.sep)[0] == test.class_names[label]
  assert train.notes == test.notes == ()
  assert test.divided_notes == [
    f'{tmp_path} has no splits: 80 % train, 20 % test, stratified, seed 0'
  ]


def test_scan_gives_renamed_moved_and_copied_images_their_side(tmp_path):
  """A division by names or order lets test images become training images."""
  make(tmp_path / 'one', cat=10, dog=20)
  before = images(opened(tmp_path / 'one', 'test'))
  other = tmp_path / 'other'
  for name in ('cat', 'dog'):
    (other / name).mkdir(parents=True)
    for i, path in enumerate(sorted((tmp_path / 'one' / name).iterdir())):
      path.rename(other / name / f'{97 * i % 31:03} {path.name}')
  assert images(opened(other, 'test')) == before
  for path in sorted((other / 'cat').iterdir()):  # a second copy of each
    (other / 'cat' / f'copy of {path.name}').write_bytes(path.read_bytes())
  train, test = (opened(other, split) for split in ('train', 'test'))
  assert images(test) == before and not images(train) & before
  assert (train.num_examples, test.num_examples) == (32, 8)


def test_scan_takes_parts_of_all_images_and_of_a_side(tmp_path):
  make(tmp_path, cat=20, dog=40)
  whole = images(opened(tmp_path, 'train')) | images(opened(tmp_path, 'test'))
  half = opened(tmp_path, 'train[:50%]')
  assert sorted(half.folder.labels) == [0] * 10 + [1] * 20
  most = opened(tmp_path, 'train[50%:]')
  assert images(half) | images(most) == whole
  part = opened(tmp_path, 'test[:25%]')
  assert part.num_examples == 3
  assert images(part) < images(opened(tmp_path, 'test'))
  assert opened(tmp_path, 'train+test').num_examples == 60
  assert opened(tmp_path, 'train@3').num_examples == 6
  assert opened(tmp_path, 'test', train='train[:90%]').num_examples == 6
  with pytest.raises(ValueError, match='divided into train, test; choose'):
    opened(tmp_path, 'validation')
  third = opened(tmp_path, 'validation', validation='train[70%:80%]')
  assert third.num_examples == 6


def test_scan_notes_what_cannot_be_divided_well(tmp_path):
  make(tmp_path, cat=5, dog=5, train=5, owl=1)
  (tmp_path / 'dog' / 'x.png').write_bytes(b'cat 3')
  (tmp_path / 'dog' / 'notes.txt').touch()
  other, alone, equal, name = opened(tmp_path, 'train').notes
  assert 'left out 1 .txt' in other
  assert '1 of 4 classes (owl) have one image' in alone
  assert 'cat/03.png and dog/x.png: one of the two labels is wrong' in equal
  assert name.startswith('train is taken for a class')
  places = [
    split
    for split in ('train', 'test')
    for path in opened(tmp_path, split).folder.paths
    if path in ('cat/03.png', 'dog/x.png')
  ]
  assert places in (['train'] * 2, ['test'] * 2)


@pytest.mark.parametrize(
  'names, message',
  [
    (['train/1.png', 'test/2.png'], 'test, which is named as a split'),
    (['cat/1.png', 'dog/notes.txt'], r'dog holds no image .* remove it'),
    (['Cat/1.png', 'cat/2.png'], 'give them one name'),
    (['cat/1.png'], 'has images of one class'),
    (['cat/1.png', 'dog/2.png'], r"'test' of .* because every class has too"),
    (['1.png', '2.png'], r'but 2 without a class; .* or ROOT/CLASS/'),
  ],
)
def test_scan_refuses_other_folders(tmp_path, names, message):
  for name in names:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(name.encode())
  with pytest.raises(ValueError, match=message) as caught:
    train = opened(tmp_path, 'train')
    class_checks.check_training(train, train)
    opened(tmp_path, 'test')
  assert '\n' not in str(caught.value)


def test_splits_are_read_as_before(tmp_path):
  make(tmp_path / 'train', cat=3, dog=3)
  make(tmp_path / 'test', cat=1, dog=1)
  assert opened(tmp_path, 'train').num_examples == 6
  assert opened(tmp_path, 'train[:50%]').divided is None


def test_hashes_reads_each_image_once_and_aloud(tmp_path, monkeypatch):
  make(tmp_path, cat=250)
  paths = [str(path) for path in sorted((tmp_path / 'cat').iterdir())]
  texts, read = [], []
  file_hash = image_hashes.files.file_hash
  monkeypatch.setattr(image_hashes.waiting, 'now_doing', texts.append)
  monkeypatch.setattr(
    image_hashes.files,
    'file_hash',
    lambda path: (read.append(path), file_hash(path))[1],
  )
  first = image_hashes.hashes(tmp_path, paths)
  assert [text.partition(': ')[2] for text in texts] == [
    '100 of 250',
    '200 of 250',
  ]
  (tmp_path / 'cat' / '00.png').write_bytes(b'another image')
  second = image_hashes.hashes(tmp_path, paths)
  assert len(read) == 251 and len(set(first)) == 250
  assert [a == b for a, b in zip(first, second, strict=True)].count(False) == 1
