import pytest
import tfds_fixtures
from tfds_fixtures import labelled
from training_sets import write_shards

from vit_jax_repro.data import class_matching, datasets, digits, labels
from vit_jax_repro.data.tf_host import silence

quick = pytest.mark.quick


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tfds')
  write_shards(folder, 5)
  return folder


@pytest.mark.slow
@quick
@pytest.mark.parametrize('split', ['train', 'train[30%:62%]', 'test+train[:9]'])
def test_examples_and_ids_equal_those_of_tfds(data_dir, split):
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


@quick
def test_locate_describes_an_example(data_dir):
  split = datasets.open_split('digits', 'test', data_dir=data_dir)
  example_id = next(split.records().as_numpy_iterator())['id'].decode()
  assert split.locate(example_id) == f"{example_id} of 'digits'"
  assert example_id.startswith('digits-test.tfrecord-0000')


@quick
def test_other_file_formats_are_rejected(tmp_path, monkeypatch):
  import tensorflow_datasets as tfds

  builder = digits.prepared_builder(tmp_path)
  monkeypatch.setattr(
    type(builder.info), 'file_format', tfds.core.FileFormat.ARRAY_RECORD
  )
  with pytest.raises(ValueError, match='is stored as array_record') as caught:
    datasets.open_split('digits', 'train', data_dir=tmp_path)
  assert 'tfds convert_format' in str(caught.value)
  assert '\n' not in str(caught.value)


IMAGENET_IDS = labels.wordnet_ids()
IMAGENET_END = ('n13133613', 'n15075141')  # published heads know all ids
CIFAR10 = (  # the order of the labels in the published files
  'airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse',
  'ship', 'truck',
)  # fmt: skip


@pytest.mark.parametrize(
  'name, split, last_names, model_names, expected',
  [
    ('imagenet2012', 'validation', IMAGENET_END, None, [5, 999]),
    ('imagenet2012:5.0.0', 'train', IMAGENET_END, None, [5, 999]),
    ('imagenet_v2', 'test', IMAGENET_END, None, [5, 999]),
    ('imagenet_v2/topimages', 'test', IMAGENET_END, None, [5, 999]),
    ('cifar10', 'test', CIFAR10, CIFAR10[::-1], [4, 0]),
    ('oxford_flowers102', 'test', ('blackberry lily',), None, [5, 101]),
    ('oxford_iiit_pet', 'test', ('yorkshire_terrier',), None, [5, 36]),
  ],
)
def test_open_split_opens_the_data_sets_of_the_paper(
  tmp_path, name, split, last_names, model_names, expected
):
  """Translates label 5 and the last one to a model's classes."""
  largest = {'cifar10': 9, 'oxford_flowers102': 101, 'oxford_iiit_pet': 36}
  largest = largest.get(name, 999)
  tfds_fixtures.write(
    tmp_path,
    name,
    {split: labelled(5, largest)},
    class_names=list(CIFAR10) if name == 'cifar10' else None,
  )
  opened = datasets.open_split(name, split, data_dir=tmp_path)
  assert opened.num_classes == largest + 1 and not opened.multi_label
  assert opened.class_names[-len(last_names) :] == last_names
  found = [int(r['label']) for r in opened.records().as_numpy_iterator()]
  assert found == [5, largest]
  names = model_names or (None if last_names == IMAGENET_END else last_names)
  if names == last_names:  # a model that was trained on this set
    names = opened.class_names
  match = class_matching.match(opened.class_names, names, opened.num_classes)
  assert match.labels[found].tolist() == expected


def test_labels_of_imagenet_real_are_multi_hot(tmp_path):
  tfds_fixtures.write(
    tmp_path,
    'imagenet2012_real',
    {'validation': [{'real_label': some} for some in ([7, 2], [], [999])]},
  )
  split = datasets.open_split(
    'imagenet2012_real', 'validation', data_dir=tmp_path
  )
  assert split.multi_label and split.class_names == IMAGENET_IDS
  records = list(split.records().as_numpy_iterator())
  assert {(r['label'].shape, r['label'].dtype.name) for r in records} == {
    ((1000,), 'int64')
  }
  assert [r['label'].nonzero()[0].tolist() for r in records] == [
    [2, 7], [], [999],
  ]  # fmt: skip
  assert max(r['label'].max() for r in records) == 1
  assert records[0]['image'][:2] == b'\xff\xd8'  # still an encoded file
