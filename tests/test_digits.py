import io
import subprocess
import sys

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
  names = [digits.split_of(i) for i in range(len(labels))]
  sizes = {name: names.count(name) for name in set(names)}
  assert sizes == digits.NUM_EXAMPLES == {'train': 1437, 'test': 360}
  assert names[:6] == ['test', 'train', 'train', 'train', 'train', 'test']


@quick
def test_files_hold_the_images_of_scikit_learn(prepared):
  _, builder = prepared
  images, labels = digits.arrays()
  seen = []
  for split, size in digits.NUM_EXAMPLES.items():
    assert builder.info.splits[split].num_examples == size
    for example in builder.as_dataset(split=split).as_numpy_iterator():
      index = int(example['index'])
      assert digits.split_of(index) == split
      assert example['label'] == labels[index]
      np.testing.assert_array_equal(example['image'], images[index])
      seen.append(index)
  assert sorted(seen) == list(range(1797))


@quick
def test_is_an_ordinary_tfds_data_set(prepared):
  import tensorflow_datasets as tfds

  folder, builder = prepared
  again = tfds.builder('digits', data_dir=folder)
  assert again.info.full_name == builder.info.full_name == 'digits/1.0.0'
  assert again.info.features['label'].names == list('0123456789')
  from_files = tfds.builder_from_directory(builder.data_dir)
  assert from_files.info.splits['test'].num_examples == 360


@quick
def test_images_are_png_files(prepared):
  folder, _ = prepared
  split = datasets.open_split('digits', 'test', data_dir=folder)
  record = next(iter(split.records().as_numpy_iterator()))
  image = Image.open(io.BytesIO(record['image']))
  assert (image.format, image.size, image.mode) == ('PNG', (8, 8), 'L')


@quick
def test_prepares_once(prepared, monkeypatch):
  folder, builder = prepared
  monkeypatch.setattr(
    type(builder), 'download_and_prepare', lambda _: pytest.fail('again')
  )
  assert digits.prepared_builder(folder).is_prepared()


def test_preparing_says_nothing_and_two_processes_may_race(tmp_path):
  script = (
    'import sys\n'
    'from vit_jax_repro.data import datasets\n'
    "split = datasets.open_split('digits', 'test', data_dir=sys.argv[1])\n"
    'assert split.num_examples == 360\n'
  )
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', script, tmp_path],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
    )
    for _ in range(2)
  ]
  printed = [process.communicate(timeout=120) for process in processes]
  assert printed == [(b'', b'')] * 2
  assert [process.returncode for process in processes] == [0, 0]


@quick
def test_unwritable_directory_is_one_line(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(OSError, match='digits data set') as caught:
    digits.prepared_builder(tmp_path / 'file' / 'below')
  assert '--data_dir' in str(caught.value) and '\n' not in str(caught.value)
