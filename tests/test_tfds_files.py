import pytest
from training_sets import write_shards

from vit_jax_repro.data import datasets, digits
from vit_jax_repro.data.tensorflow_cpu import silence

pytestmark = pytest.mark.quick


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tfds')
  write_shards(folder, 5)
  return folder


@pytest.mark.parametrize('split', ['train', 'train[30%:62%]', 'test+train[:9]'])
def test_reads_what_tfds_reads_and_names_it_alike(data_dir, split):
  import tensorflow_datasets as tfds

  opened = datasets.open_split('digits', split, data_dir=data_dir)
  with silence():
    expected = digits.prepared_builder(data_dir).as_dataset(
      split=split,
      decoders={'image': tfds.decode.SkipDecoding()},
      read_config=tfds.ReadConfig(add_tfds_id=True),
    )
  expected = {e['tfds_id']: e for e in expected.as_numpy_iterator()}
  found = list(opened.records().as_numpy_iterator())
  assert len(found) == len(expected) == opened.num_examples
  for record in found:
    example = expected.pop(record['id'])
    assert record['image'] == example['image']
    assert record['label'] == example['label']


def test_locates_an_example(data_dir):
  split = datasets.open_split('digits', 'test', data_dir=data_dir)
  example_id = next(split.records().as_numpy_iterator())['id'].decode()
  assert split.locate(example_id) == f"{example_id} of 'digits'"
  assert example_id.startswith('digits-test.tfrecord-0000')


def test_other_file_formats_are_refused(tmp_path, monkeypatch):
  import tensorflow_datasets as tfds

  builder = digits.prepared_builder(tmp_path)
  monkeypatch.setattr(
    type(builder.info), 'file_format', tfds.core.FileFormat.ARRAY_RECORD
  )
  with pytest.raises(ValueError, match='is stored as array_record') as caught:
    datasets.open_split('digits', 'train', data_dir=tmp_path)
  assert 'tfds convert_format' in str(caught.value)
  assert '\n' not in str(caught.value)
