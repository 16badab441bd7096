import io

import child_processes
import numpy as np
import pytest
from PIL import Image

from vit_jax_repro.data import datasets, digits

quick = pytest.mark.quick


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tfds')
  return folder, digits.prepared_builder(folder)


@quick
def test_split_is_every_fifth_image():
  images, labels = digits.arrays()
  assert images.shape == (1797, 8, 8, 1) and images.dtype == np.uint8
  assert (images.min(), images.max()) == (0, 255)
  splits = digits.splits(labels)
  assert splits == {
    'train': [i for i in range(1797) if i % 5],
    'test': list(range(0, 1797, 5)),
  }
  assert [len(split) for split in splits.values()] == [1437, 360]


@quick
def test_halves_have_few_and_held_out():
  _, labels = digits.arrays()
  whole = digits.splits(labels)
  halves = [digits.splits(labels, config) for config in ('0-4', '5-9')]
  for name, split in whole.items():
    assert sorted(halves[0][name] + halves[1][name]) == split
  for half, first in zip(halves, (0, 5), strict=True):
    for name in half:
      assert {labels[i] for i in half[name]} == set(range(first, first + 5))
    assert len(half['few']) == 25
    assert sorted(half['few'] + half['held_out']) == half['train']
    for digit in range(first, first + 5):
      of_class = [i for i in half['train'] if labels[i] == digit]
      assert [i for i in half['few'] if labels[i] == digit] == of_class[:5]


@pytest.mark.slow
@quick
@pytest.mark.parametrize(
  'name, first, names',
  [
    ('digits', 0, '0123456789'),
    ('digits/all', 0, '0123456789'),
    ('digits/0-4', 0, '01234'),
    ('digits/5-9', 5, '56789'),
  ],
)
def test_files_have_the_images_of_scikit_learn(prepared, name, first, names):
  folder, _ = prepared
  images, labels = digits.arrays()
  config = digits.config_of(name)
  builder = digits.prepared_builder(folder, config)
  for split, positions in digits.splits(labels, config).items():
    opened = datasets.open_split(name, split, data_dir=folder)
    assert opened.num_examples == len(positions)
    assert opened.class_names == tuple(names)
    seen = []
    for example in builder.as_dataset(split=split).as_numpy_iterator():
      index = int(example['index'])
      assert example['label'] == labels[index] - first
      np.testing.assert_array_equal(example['image'], images[index])
      seen.append(index)
    assert sorted(seen) == sorted(positions)


@quick
@pytest.mark.parametrize('name', ['digits/', 'digits/4', 'digits/0-4/x'])
def test_config_of_rejects_an_unknown_name(name):
  with pytest.raises(ValueError, match=f'unknown data set {name!r}') as caught:
    datasets.open_split(name, 'train')
  assert "'digits/0-4', 'digits/5-9'" in str(caught.value)


@quick
def test_digits_are_an_ordinary_tfds_data_set(prepared):
  import tensorflow_datasets as tfds

  folder, builder = prepared
  again = tfds.builder('digits', data_dir=folder)
  assert again.info.full_name == builder.info.full_name == 'digits/all/1.0.0'
  assert again.info.features['label'].names == list('0123456789')
  from_files = tfds.builder_from_directory(builder.data_dir)
  assert from_files.info.splits['test'].num_examples == 360
  half = tfds.builder('digits/5-9', data_dir=folder)
  assert half.info.features['label'].names == list('56789')


@quick
def test_images_are_png_files(prepared):
  folder, _ = prepared
  split = datasets.open_split('digits', 'test', data_dir=folder)
  record = next(iter(split.records().as_numpy_iterator()))
  image = Image.open(io.BytesIO(record['image']))
  assert (image.format, image.size, image.mode) == ('PNG', (8, 8), 'L')


@quick
def test_prepared_builder_writes_files_once(prepared, monkeypatch):
  folder, builder = prepared
  monkeypatch.setattr(
    type(builder), 'download_and_prepare', lambda _: pytest.fail('again')
  )
  assert digits.prepared_builder(folder).is_prepared()


def test_preparing_is_silent_and_safe_in_two_processes(tmp_path):
  script = (
    'import sys\n'
    'from vit_jax_repro.data import datasets\n'
    "split = datasets.open_split('digits', 'test', data_dir=sys.argv[1])\n"
    'assert split.num_examples == 360\n'
  )
  racing = [
    child_processes.Child(child_processes.script, script, tmp_path)
    for _ in range(2)
  ]
  codes = [child.wait() for child in racing]
  assert [(child.stdout, child.stderr) for child in racing] == [('', '')] * 2
  assert codes == [0, 0]


@quick
def test_unwritable_directory_has_a_one_line_error(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(OSError, match='digits data set') as caught:
    digits.prepared_builder(tmp_path / 'file' / 'below')
  assert 'name another TFDS directory' in str(caught.value) and '\n' not in str(
    caught.value
  )
