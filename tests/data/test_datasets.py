import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import tfds_fixtures

from vit_jax_repro.data import datasets, digits

quick = pytest.mark.quick


@pytest.fixture(scope='module')
def tfds_dir(tmp_path_factory):
  """Returns a TFDS directory of digits and three sets unknown to TFDS."""
  import tensorflow_datasets as tfds

  folder = tmp_path_factory.mktemp('tfds')
  digits.prepared_builder(folder)

  def features(**more):
    image = tfds.features.Image(shape=(4, 4, 3))
    return {'image': image, **more}

  kinds = {
    'own_set': features(
      label=tfds.features.ClassLabel(names=['cat', 'dog']),
      mask=tfds.features.Image(shape=(4, 4, 1)),
    ),
    'no_class': features(label=tfds.features.Scalar(np.int64)),
    'no_image': {
      'text': tfds.features.Text(),
      'label': tfds.features.ClassLabel(num_classes=2),
    },
  }
  values = {
    'image': np.zeros((4, 4, 3), np.uint8),
    'mask': np.zeros((4, 4, 1), np.uint8),
    'text': 'x',
    'label': 1,
  }
  for name, kind in kinds.items():
    example = {key: values[key] for key in kind}
    write_tfds(folder, name, kind, [example] * 3)
  return folder


def write_tfds(folder, name, features, examples):
  """Writes a data set without a builder class, as other programs do."""
  import tensorflow_datasets as tfds

  features = tfds.features.FeaturesDict(features)
  where = folder / name / '1.0.0'
  where.mkdir(parents=True)
  writer = tfds.core.SequentialWriter(
    tfds.core.DatasetInfo(
      builder=tfds.core.DatasetIdentity(
        name=name,
        version=tfds.core.Version('1.0.0'),
        data_dir=str(where),
        module_name='',
      ),
      features=features,
    ),
    max_examples_per_shard=2,
  )
  writer.initialize_splits(['train'])
  writer.add_examples({'train': examples})
  writer.close_all()


def ids(split, *part):
  return [r['id'] for r in split.records(*part).as_numpy_iterator()]


@quick
def test_open_split_opens_digits(tfds_dir):
  split = datasets.open_split('digits', 'test', data_dir=tfds_dir)
  assert (split.name, split.split) == ('digits', 'test')
  assert (split.num_examples, split.num_classes) == (360, 10)
  assert split.class_names == tuple('0123456789')
  record = next(split.records().as_numpy_iterator())
  assert record['image'][:4] == b'\x89PNG'
  assert record['label'].dtype == np.int64 and record['label'].shape == ()


def test_open_split_writes_digits_to_the_default_tfds_directory(tmp_path):
  done = subprocess.run(
    [
      sys.executable,
      '-c',
      'from vit_jax_repro.data import datasets\n'
      "print(datasets.open_split('digits', 'train').num_examples)",
    ],
    env={'PATH': '', 'TFDS_DATA_DIR': str(tmp_path)},
    capture_output=True,
    text=True,
    check=False,
    cwd=pathlib.Path(__file__).parents[2],
  )
  assert (done.returncode, done.stdout) == (0, '1437\n'), done.stderr
  assert (tmp_path / 'digits').is_dir()


@pytest.mark.slow
@quick
@pytest.mark.parametrize('process_count', [1, 2, 7, 400])
@pytest.mark.parametrize('split', ['test', 'train[:98%]', 'train[1400:]+test'])
def test_parts_are_disjoint_and_complete(tfds_dir, split, process_count):
  split = datasets.open_split('digits', split, data_dir=tfds_dir)
  whole = ids(split)
  assert len(whole) == len(set(whole)) == split.num_examples
  checked = range(process_count) if process_count < 9 else [0, 1, 359, 399]
  parts = [ids(split, i, process_count) for i in checked]
  sizes = [split.part_size(i, process_count) for i in checked]
  assert [len(part) for part in parts] == sizes
  seen = [example for part in parts for example in part]
  assert len(seen) == len(set(seen))
  if process_count < 9:
    assert set(seen) == set(whole)


@quick
def test_records_have_a_fixed_order(tfds_dir):
  split = datasets.open_split('digits', 'train', data_dir=tfds_dir)
  assert ids(split) == ids(split)


@quick
def test_sub_splits_do_not_overlap(tfds_dir):
  parts = [
    datasets.open_split('digits', split, data_dir=tfds_dir)
    for split in ('train[:98%]', 'train[98%:]')
  ]
  assert [part.num_examples for part in parts] == [1408, 29]
  assert not set(ids(parts[0])) & set(ids(parts[1]))


@quick
def test_open_split_opens_a_set_without_builder_class(tfds_dir):
  split = datasets.open_split('own_set', 'train', data_dir=tfds_dir)
  assert split.class_names == ('cat', 'dog')
  records = list(split.records().as_numpy_iterator())
  assert [int(record['label']) for record in records] == [1, 1, 1]
  assert set(records[0]) == {'image', 'label', 'id'}
  same = datasets.open_split('own_set:1.0.0', 'train', data_dir=tfds_dir)
  assert same.num_examples == 3


@quick
def test_open_split_opens_folders(tmp_path, monkeypatch, tfds_dir):
  for name in ('photos/test/a/1.png', 'cifar10/test/b/1.png'):
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b'x')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', str(tmp_path))
  for name in ('photos', './photos', '~/photos', str(tmp_path / 'photos')):
    split = datasets.open_split(name, 'test', data_dir=tfds_dir)
    assert split.class_names == ('a',) and split.num_examples == 1
    assert ids(split) == [ids(split, 0, 2)[0]] and ids(split, 1, 2) == []
  split = datasets.open_split('./cifar10', 'test', data_dir=tfds_dir)
  assert split.class_names == ('b',)
  with pytest.raises(FileNotFoundError, match='is not prepared'):
    datasets.open_split('cifar10', 'test', data_dir=tfds_dir)


@quick
@pytest.mark.parametrize(
  'name, split, message',
  [
    ('digitz', 'test', "unknown data set 'digitz'; did you mean 'digits'"),
    ('', 'test', "unknown data set ''"),
    ('a:b:c', 'test', "unknown data set 'a:b:c'"),
    ('cifar10:9.9.9', 'test', r"'cifar10:9\.9\.9': .* only: 3"),
    ('cifar10/nope', 'test', "has no configurations; leave out 'nope'"),
    ('digits', 'tset', r"no split 'tset' .* choose from \['test', 'train'\]"),
    ('digits', 'test[', r"no split 'test\['"),
    ('digits', 'test[:0]', r"no split 'test\[:0\]' with images"),
    ('digits', 'test[:999]', r'no split'),
    ('no_class', 'train', 'is no image classification set'),
    ('no_image', 'train', r"and has \['label', 'text'\]"),
    ('/no/such/folder', 'test', '/no/such/folder is not a folder'),
  ],
)
def test_open_split_errors_have_one_line(tfds_dir, name, split, message):
  with pytest.raises((ValueError, OSError), match=message) as caught:
    datasets.open_split(name, split, data_dir=tfds_dir)
  assert '\n' not in str(caught.value)


@quick
def test_open_split_rejects_an_unprepared_set_at_once(tfds_dir):
  start = time.monotonic()
  with pytest.raises(FileNotFoundError) as caught:
    datasets.open_split('imagenet2012', 'validation', data_dir=tfds_dir)
  assert time.monotonic() - start < 20
  message = str(caught.value)
  assert "'imagenet2012'" in message and str(tfds_dir) in message
  assert 'tfds build imagenet2012' in message and '--data_dir' in message


@quick
@pytest.mark.parametrize('name', ['glue', 'glue/cola', 'glue/cola:2.*.*'])
def test_advised_tfds_build_command_has_configuration_and_version(
  tfds_dir, name
):
  with pytest.raises(FileNotFoundError) as caught:
    datasets.open_split(name, 'test', data_dir=tfds_dir)
  assert 'run `tfds build glue/cola:2.0.0 --data_dir=' in str(caught.value)


@quick
def test_unknown_split_message_lists_named_splits(tfds_dir):
  tfds_fixtures.write(tfds_dir, 'cifar10', {'test': [{'label': 3}] * 50})
  message = r"\['test'\], minitrain, minival or a part .*; it has {'test': 50}"
  with pytest.raises(ValueError, match=message):
    datasets.open_split('cifar10', 'tset', data_dir=tfds_dir)


@quick
def test_failed_preparation_has_a_one_line_error(tfds_dir):
  # A set that TFDS cannot download and searches for in data_dir only.
  with pytest.raises(OSError, match='cannot prepare data set') as caught:
    datasets.open_split(
      'imagenet2012', 'validation', data_dir=tfds_dir, download=True
    )
  assert '\n' not in str(caught.value)


@quick
def test_wrong_process_index_is_rejected(tfds_dir):
  split = datasets.open_split('digits', 'test', data_dir=tfds_dir)
  for process in (-1, 3):
    with pytest.raises(ValueError, match=r'must lie in 0\.\.2'):
      split.records(process, 3)


@quick
def test_fingerprint_identifies_the_contents_of_a_tfds_split(
  tfds_dir, tmp_path
):
  def fingerprint(name, split, data_dir=tfds_dir):
    return datasets.open_split(name, split, data_dir=data_dir).fingerprint()

  first = fingerprint('digits', 'test')
  assert len(first) == 16 and int(first, 16) >= 0
  assert fingerprint('digits', 'test') == first
  shutil.copytree(tfds_dir, tmp_path / 'copy')
  assert fingerprint('digits', 'test', tmp_path / 'copy') == first
  assert fingerprint('digits', 'test[:100%]') == first
  others = [
    fingerprint('digits', 'train'),
    fingerprint('digits', 'test[1:]'),
    fingerprint('digits', 'test[:-1]'),
    fingerprint('digits/0-4', 'test', tmp_path),
    fingerprint('own_set', 'train'),
  ]
  (file,) = (tmp_path / 'copy' / 'digits').rglob('*test.tfrecord*')
  with file.open('ab') as appended:
    appended.write(b'x')
  others.append(fingerprint('digits', 'test', tmp_path / 'copy'))
  assert len({first, *others}) == 7


@quick
def test_sample_hash_reads_all_tfds_files_and_images_of_the_whole_folder(
  tfds_dir, tmp_path
):
  def sample(name, split, data_dir=None):
    return datasets.open_split(name, split, data_dir=data_dir).sample_hash()

  first = sample('digits', 'test', tfds_dir)
  shutil.copytree(tfds_dir, tmp_path / 'copy')
  assert sample('digits', 'test', tmp_path / 'copy') == first
  (file,) = (tmp_path / 'copy' / 'digits').rglob('*test.tfrecord*')
  content = file.read_bytes()
  for place in (0, len(content) // 2, len(content) - 1):
    changed = bytearray(content)
    changed[place] ^= 1
    file.write_bytes(changed)
    assert sample('digits', 'test', tmp_path / 'copy') != first

  photos = tmp_path / 'photos' / 'test' / 'a'
  photos.mkdir(parents=True)
  for number in range(1000, 1200):
    (photos / f'{number}.png').write_bytes(b'x')
  first = sample(str(tmp_path / 'photos'), 'test')
  for number in range(1033, 1200):  # of the same sizes
    (photos / f'{number}.png').write_bytes(b'y')
  second = sample(str(tmp_path / 'photos'), 'test')
  (photos / '1199.png').write_bytes(b'z')
  assert len({first, second, sample(str(tmp_path / 'photos'), 'test')}) == 3


@quick
def test_fingerprint_identifies_the_contents_of_a_folder(tmp_path):
  def fingerprint(*names, size=1, root='photos', split='test'):
    shutil.rmtree(tmp_path / root, ignore_errors=True)
    for name in names:
      path = tmp_path / root / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(b'x' * size)
    return datasets.open_split(str(tmp_path / root), split).fingerprint()

  names = ('test/a/1.png', 'test/b/1.png', 'train/a/1.png')
  first = fingerprint(*names)
  assert fingerprint(*names) == fingerprint(*names, root='other') == first
  others = [
    fingerprint(*names, size=2),
    fingerprint(*names, split='train'),
    fingerprint(*names[1:]),
    fingerprint('test/a/1.jpg', *names[1:]),
    fingerprint('test/a/1.png', 'test/c/1.png', 'train/a/1.png'),
    fingerprint('train/c/1.png', *names),  # other classes
  ]
  assert len({first, *others}) == 7


@quick
def test_folder_names_with_line_end_or_invalid_utf_8(tmp_path):
  path = os.path.join(os.fsencode(tmp_path), b'test', b'a', b'1\n\xff.png')
  os.makedirs(os.path.dirname(path))
  with open(path, 'wb') as file:
    file.write(b'x')
  split = datasets.open_split(str(tmp_path), 'test')
  assert len(split.fingerprint()) == 16
  (record,) = split.records().as_numpy_iterator()
  assert record['id'] == b'test/a/1\n\xff.png' and record['image'] == b'x'


def test_manual_dir_permits_preparing_a_set(tmp_path):
  """The set is ImageNet, and its archives are missing."""
  (tmp_path / 'manual').mkdir()
  with pytest.raises(OSError, match="cannot prepare data set 'imagenet2012'"):
    datasets.open_split(
      'imagenet2012',
      'train',
      data_dir=tmp_path / 'data',
      manual_dir=tmp_path / 'manual',
    )
